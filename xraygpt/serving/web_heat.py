"""Where the model looked for the sentences of an answer."""

import numpy as np
from numpy.typing import NDArray

from xraygpt.models.looking import look_maps
from xraygpt.serving.pipeline import ReportPipeline
from xraygpt.serving.session import Answer, ChatSession
from xraygpt.serving.web_actions import Look


def looker(pipeline: ReportPipeline) -> Look:
    """A function that finds where the pipeline's model looked."""

    def look(session: ChatSession, answer: Answer) -> NDArray[np.float32]:
        spans = [(sentence.first_token, sentence.last_token) for sentence in answer.sentences]
        assert session.pixels is not None  # there is an answer about it
        return look_maps(pipeline.model, session.pixels, answer.prompt_parts, answer.token_ids, spans)

    return look
