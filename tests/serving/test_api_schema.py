"""What a request may ask for."""

import json
from typing import Any

import pytest

from xraygpt.serving.api_limits import ApiError, ApiLimits, require_token
from xraygpt.serving.api_schema import ChatRequest, read_request

LIMITS = ApiLimits(max_messages=3, max_characters=20, max_tokens=50)
DEFAULTS = {"max_new_tokens": 160, "min_new_tokens": 1, "num_beams": 1, "do_sample": False, "top_p": 0.9, "temperature": 1.0}


def read(**values: Any) -> ChatRequest:
    return read_request(json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **values}).encode(), LIMITS)


@pytest.mark.parametrize(
    ("asked", "settings"),
    [
        ({}, {"max_new_tokens": 50}),
        ({"max_tokens": 7}, {"max_new_tokens": 7}),
        ({"max_completion_tokens": 7}, {"max_new_tokens": 7}),
        ({"temperature": 0}, {"max_new_tokens": 50}),
        ({"temperature": 0.5, "top_p": 0.3}, {"max_new_tokens": 50, "do_sample": True, "temperature": 0.5, "top_p": 0.3}),
        ({"temperature": None, "stop": None, "n": 1, "user": "x", "tools": []}, {"max_new_tokens": 50}),
        ({"num_beams": 2, "repetition_penalty": 1.5}, {"max_new_tokens": 50, "num_beams": 2, "repetition_penalty": 1.5}),
    ],
)
def test_settings(asked: dict[str, Any], settings: dict[str, Any]) -> None:
    assert read(**asked).settings(DEFAULTS, LIMITS) == DEFAULTS | settings


def test_a_sampling_configuration_is_made_greedy_by_temperature_0() -> None:
    sampling = DEFAULTS | {"do_sample": True}
    assert read().settings(sampling, LIMITS)["do_sample"]
    assert not read(temperature=0).settings(sampling, LIMITS)["do_sample"]


def test_the_shortest_answer_is_not_longer_than_the_longest() -> None:
    assert read(max_tokens=3).settings(DEFAULTS | {"min_new_tokens": 5}, LIMITS)["min_new_tokens"] == 3


@pytest.mark.parametrize(
    ("asked", "param", "message"),
    [
        ({"max_tokens": 51}, "max_tokens", "at most 50"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"n": 2}, "n", "not supported"),
        ({"stop": ["."]}, "stop", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"temprature": 1}, "temprature", "not supported"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "user", "content": "Hi"}] * 4}, "messages", "at most 3"),
        ({"messages": [{"role": "user", "content": "x" * 21}]}, "messages", "at most 20"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages.0.role", "user"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content", "input_audio"),
        ({"seed": 2**63}, "seed", "less than"),
        ({"temperature": float("nan")}, "temperature", "less than"),
    ],
)
def test_what_cannot_be_done_is_refused(asked: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(ApiError, match=message) as refused:
        read(**asked).settings(DEFAULTS, LIMITS)
    assert refused.value.status == 400
    assert (refused.value.param or "").startswith(param)
    assert refused.value.body()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, rb'{"a": "\ud800"}', b'{"a": "\xed\xa0\x80"}'])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="JSON") as refused:
        read_request(body, LIMITS)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("header", "tokens", "passes"),
    [
        ("", [], True),
        ("Bearer a", ["a"], True),
        ("bearer  b ", ["a", "b"], True),
        ("", ["a"], False),
        ("Bearer", ["a"], False),
        ("Bearer c", ["a", "b"], False),
        ("Basic a", ["a"], False),
        ("Bearer ä", ["a"], False),
    ],
)
def test_tokens(header: str, tokens: list[str], passes: bool) -> None:
    if passes:
        require_token(header, tokens)
        return
    with pytest.raises(ApiError) as refused:
        require_token(header, tokens)
    assert (refused.value.status, refused.value.headers["WWW-Authenticate"]) == (401, "Bearer")
