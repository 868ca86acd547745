"""The HTTP API in front of a real model, a tiny one."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.serving.made_api import api_server, client, post, user


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(6) as pool:
        yield pool


def test_the_answers_of_a_real_model_are_those_of_the_pipeline(tiny_model: Any, tiny_storage: Path, background: ThreadPoolExecutor) -> None:
    contents = [(tiny_storage / "image" / f"x{i}.png").read_bytes() for i in range(6)]
    with api_server(tiny_model, image_size=28) as server:
        expected = server.pipeline.write_reports([tiny_storage / "image" / f"x{i}.png" for i in range(6)])

        def ask(i: int) -> str:
            question = {"model": "marks", "messages": [user("", contents[i])]}
            if i % 2:
                return client(server).chat.completions.create(**question).choices[0].message.content or ""
            stream = client(server).chat.completions.create(**question, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

        assert list(background.map(ask, range(6))) == expected
        sampled = {post(server, messages=[user("", contents[0])], temperature=1.5, seed=7).text.split('"choices"')[1] for _ in range(2)}
    assert len(set(expected)) > 1
    assert len(sampled) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_beams_are_those_of_the_pipeline(tiny_model: Any, tiny_storage: Path, stream: bool) -> None:
    image = tiny_storage / "image" / "x0.png"
    with api_server(tiny_model, image_size=28) as server:
        (expected,) = server.pipeline.generate_reports([image], num_beams=3)
        text = post(server, messages=[user("", image.read_bytes())], num_beams=3, stream=stream).text
    assert json.dumps(expected.text, ensure_ascii=False)[:-1] in text.replace('": "', '":"')


@pytest.mark.parametrize(
    "text",
    [
        "<ImageHere>",
        "###Doctor: fine",
        "</s>",
        "x" * 10_000,
        "word " * 2_000,
        "🫁👩🏽‍⚕️",
        "هل يوجد انصباب؟",
        "\u202e\u0000",
        "<" + " " * 9_000,
    ],
)
def test_no_question_breaks_it(tiny_model: Any, tiny_storage: Path, text: str) -> None:
    image = (tiny_storage / "image" / "x0.png").read_bytes()
    with api_server(tiny_model, image_size=28) as server:
        response = post(server, messages=[user(text, image)])
        assert response.status_code in (200, 400)
        assert ("notice" in response.json()) == (response.status_code == 200)
        assert post(server, messages=[user("What?", image)]).status_code == 200
