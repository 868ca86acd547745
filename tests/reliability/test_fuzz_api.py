"""Any request ends in a question for the model or in an ApiError with a status of 4xx."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.reliability.fuzzing import attempt, changed, damaged, fuzz, json_values
from tests.serving.made_api import SETTINGS, MarkModel, body, data_uri, film, grey_tensor, user
from xraygpt.serving.api_limits import ApiError, ApiLimits
from xraygpt.serving.api_prompt import QuestionReader
from xraygpt.serving.api_schema import read_request
from xraygpt.serving.pipeline import ReportPipeline

LIMITS = ApiLimits(max_pixels=10_000)
REQUEST = body(
    {"role": "system", "content": "Be brief."},
    user("What is seen?", film(77)),
    {"role": "assistant", "content": "A film."},
    user("And the heart?", film(88)),
    temperature=0.5, top_p=0.9, max_tokens=9, seed=3, stream=True, stream_options={"include_usage": True}, num_beams=2, stop=[],
)  # fmt: skip
PIECES = [
    data_uri(film(1)), data_uri(b"no image"), "data:", "data:,", "http://127.0.0.1/x", "user", "assistant", "text", "image_url",
    "<ImageHere>", "###Doctor:", "content", "x" * 40_000, 2**70,
]  # fmt: skip
VALUES = json_values(st.sampled_from(PIECES))


@pytest.fixture(scope="module")
def reader() -> QuestionReader:
    """Reads requests for a model that answers with marks."""
    pipeline = ReportPipeline(model=MarkModel(), vis_processor=grey_tensor, prompt="", settings=dict(SETTINGS))
    return QuestionReader(pipeline, limits=LIMITS)


def asked(reader: QuestionReader, content: bytes) -> None:
    """The question has an image for each placeholder; errors are the client's."""

    def read() -> Any:
        try:
            return reader.read(read_request(content, LIMITS))
        except ApiError as error:
            assert 400 <= error.status < 500 and json.dumps(error.body()) and len(error.message) < 5000
            return None

    question = attempt(read)
    if question is not None:
        assert question.parts.count("<ImageHere>") == len(question.images) and torch.isfinite(question.images).all()


@fuzz(2)
@given(content=damaged([json.dumps(REQUEST).encode(), json.dumps(body()).encode(), b"[" * 5000, b'{"a":' * 3000]))
def test_bytes(content: bytes, reader: QuestionReader) -> None:
    asked(reader, content)


@fuzz(2)
@given(request=changed(REQUEST, VALUES))
def test_values(request: Any, reader: QuestionReader) -> None:
    asked(reader, json.dumps(request).encode())
