"""Where the model looked for the sentences of an answer."""

import numpy as np
from numpy.typing import NDArray

from xraygpt.models.looking import look_maps
from xraygpt.serving.pipeline import ReportPipeline
from xraygpt.serving.web_actions import Look
from xraygpt.serving.web_workspace import FilmChat


def looker(pipeline: ReportPipeline) -> Look:
    """A function that finds where the pipeline's model looked."""

    def look(chat: FilmChat, turn: int) -> NDArray[np.float32]:
        answer = chat.session.turns[turn].answer
        spans = [(sentence.first_token, sentence.last_token) for sentence in answer.sentences]
        assert chat.session.pixels is not None  # there is an answer about it
        return look_maps(pipeline.model, chat.session.pixels, answer.prompt_parts, answer.token_ids, spans)

    return look
