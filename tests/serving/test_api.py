"""The HTTP API, over a real connection, with OpenAI's own client where that is possible."""

import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.serving.made_api import CHAT, MarkModel, RunningServer, api_server, body, client, data_uri, film, post, user
from xraygpt.serving.http_limits import HttpLimits
from xraygpt.serving.safety import RESEARCH_NOTICE


@pytest.fixture
def model() -> MarkModel:
    return MarkModel()


@pytest.fixture
def server(model: MarkModel) -> Iterator[RunningServer]:
    with api_server(model) as server:
        yield server


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as pool:
        yield pool


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# OpenAI's client ---------------------------------------------------------------------------------------------------


def test_an_answer(server: RunningServer) -> None:
    answer: Any = client(server).chat.completions.create(**body())
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Patient: <Img>77</Img> What? Doctor:")
    assert (choice.finish_reason, answer.model, answer.notice) == ("stop", "marks", RESEARCH_NOTICE)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (6, 4, 10)
    assert answer.xraygpt["decoding"]["do_sample"] is False
    assert [concern["kind"] for concern in answer.xraygpt["concerns"]] == ["too_small"]


def test_a_streamed_answer(server: RunningServer) -> None:
    chunks: list[Any] = list(client(server).chat.completions.create(**body(), stream=True, stream_options={"include_usage": True}))
    *pieces, end, usage = chunks
    assert [piece.choices[0].delta.content for piece in pieces] == ["", "Patient:", " <Img>77</Img>", " What?", " Doctor:"]
    assert pieces[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in (*pieces, end)] == [None] * len(pieces) + ["stop"]
    assert {chunk.id for chunk in chunks} == {usage.id}
    assert (usage.choices, usage.usage.total_tokens) == ([], 10)
    assert all(chunk.notice == RESEARCH_NOTICE for chunk in chunks)
    assert end.xraygpt["flags"] == []
    assert end.xraygpt["sentences"] == [{"text": "Patient: <Img>77</Img> What?", "confidence": 0.5}, {"text": "Doctor:", "confidence": 0.5}]


def test_a_conversation_goes_on_with_the_answer_as_it_came(server: RunningServer) -> None:
    completions = client(server).chat.completions
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, user("", film(77))]
    first = completions.create(model="marks", messages=messages)
    second: Any = completions.create(model="marks", messages=[*messages, first.choices[0].message, user("Why?")])
    assert second.choices[0].message.content.endswith("Doctor Patient: Why? Doctor:")
    assert second.choices[0].message.content.startswith("Patient: <Img>77</Img> Describe this film. Doctor:")
    assert ["system message" in note for note in second.xraygpt["notes"]] == [True]


def test_models(server: RunningServer) -> None:
    (model,) = client(server).models.list()
    assert (model.id, client(server).models.retrieve("marks")) == ("marks", model)
    with pytest.raises(openai.NotFoundError, match="only 'marks'"):
        client(server).models.retrieve("gpt")
    with pytest.raises(openai.NotFoundError, match="only 'marks'"):
        client(server).chat.completions.create(**body() | {"model": "gpt"})


def test_an_answer_that_is_cut_says_so(server: RunningServer) -> None:
    answer: Any = client(server).chat.completions.create(**body(user("a b c", film(1)), max_tokens=3))
    assert answer.usage.completion_tokens == 3
    assert (answer.choices[0].finish_reason, answer.xraygpt["flags"]) == ("length", ["truncated"])


def test_a_token_is_asked_for(model: MarkModel) -> None:
    with api_server(model, tokens=["secret-of-a", "secret-of-b"]) as server:
        assert client(server, api_key="secret-of-b").chat.completions.create(**body()).choices
        for call in (lambda c: c.models.list(), lambda c: c.chat.completions.create(**body())):
            with pytest.raises(openai.AuthenticationError, match="wants a token"):
                call(client(server, api_key="guess"))
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        assert httpx.get(f"{server.url}/healthz").status_code == 200
    assert len(model.batches) == 1


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_json"),
        (b"{}", "application/json; charset=utf-8", 400, "invalid_value"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"x" * 5000, "application/json", 413, "request_too_large"),
        (b"x" * 500_000, "application/json", 413, "request_too_large"),
    ],
)
def test_a_refusal_has_the_form_of_openai(model: MarkModel, content: bytes, content_type: str, status: int, code: str) -> None:
    with api_server(model, max_bytes=4000) as server:
        response = httpx.post(f"{server.url}{CHAT}", content=content, headers={"Content-Type": content_type})
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert post(server).status_code == 200
    assert len(model.batches) == 1


def test_a_body_of_unknown_length_is_bounded_too(model: MarkModel) -> None:
    with api_server(model, max_bytes=4000) as server:
        blocks = (b"x" * 1000 for _ in range(6))
        response = httpx.post(f"{server.url}{CHAT}", content=blocks, headers={"Content-Type": "application/json"})
    assert response.status_code == 413


def test_a_body_that_does_not_arrive_is_given_up(model: MarkModel) -> None:
    limits = HttpLimits(body_window_seconds=0.2)
    with api_server(model, http_limits=limits) as server, socket.create_connection(("127.0.0.1", server.port)) as slow:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        slow.sendall(head.encode() + b"{")
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        assert server.service.num_inside == 0


def test_a_name_that_is_not_this_machines_is_refused(server: RunningServer) -> None:
    for path in ("/v1/models", "/healthz", CHAT):
        assert httpx.get(f"{server.url}{path}", headers={"Host": "evil.example"}).status_code == 421
    assert httpx.get(f"{server.url}/healthz", headers={"Host": "localhost:8000"}).status_code == 200


def test_one_more_than_the_queue_holds_is_told_to_come_back(model: MarkModel, background: ThreadPoolExecutor) -> None:
    model.go_on.clear()
    with api_server(model, max_queue=2, max_batch=1) as server:
        inside = [background.submit(post, server) for _ in range(2)]
        wait_for(lambda: server.service.num_inside == 2)
        busy = post(server)
        model.go_on.set()
        assert (busy.status_code, busy.json()["error"]["code"]) == (503, "busy")
        assert int(busy.headers["Retry-After"]) >= 1
        assert [future.result().status_code for future in inside] == [200, 200]
        assert client(server, max_retries=2).chat.completions.create(**body()).choices


# Together ----------------------------------------------------------------------------------------------------------


def test_requests_that_arrive_together_are_written_together_and_none_is_crossed(
    model: MarkModel, server: RunningServer, background: ThreadPoolExecutor
) -> None:
    model.go_on.clear()
    first = background.submit(post, server)
    wait_for(lambda: model.batches)

    def ask(number: int) -> tuple[str, str]:
        question = body(user(f"Question {number}?", film(number)))
        if number % 2:
            stream = client(server).chat.completions.create(**question, stream=True)
            return f"{number}", "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        return f"{number}", client(server).chat.completions.create(**question).choices[0].message.content or ""

    asked = [background.submit(ask, number) for number in range(100, 116)]
    wait_for(lambda: server.service.worker.num_waiting == 16)
    model.go_on.set()
    for number, text in (future.result() for future in asked):
        assert text == f"Patient: <Img>{number}</Img> Question {number}? Doctor:"
    assert first.result().status_code == 200
    assert [len(batch) for batch in model.batches] == [1, 8, 8]


def test_sampled_requests_share_a_batch_with_their_own_seeds(
    model: MarkModel, server: RunningServer, background: ThreadPoolExecutor
) -> None:
    model.go_on.clear()
    first = background.submit(post, server)
    wait_for(lambda: model.batches)
    asked = [background.submit(post, server, temperature=0.5, seed=seed) for seed in (3, 4)]
    wait_for(lambda: server.service.worker.num_waiting == 2)
    model.go_on.set()
    assert [future.result().json()["xraygpt"]["decoding"]["seed"] for future in asked] == [3, 4]
    assert first.result().status_code == 200
    assert sorted(model.settings[1]["seed"]) == [3, 4]


# How an answer may end otherwise -----------------------------------------------------------------------------------

LONG = user(" ".join(f"w{i}" for i in range(90)), film(77))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_answer_alone(
    model: MarkModel, server: RunningServer, background: ThreadPoolExecutor, stream: bool
) -> None:
    model.go_on.clear()
    model.seconds = 0.02
    first = background.submit(post, server)
    wait_for(lambda: model.batches)
    connection = socket.create_connection(("127.0.0.1", server.port))
    content = json.dumps(body(LONG, stream=stream, max_tokens=200)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    wait_for(lambda: server.service.worker.num_waiting == 1)
    beside = background.submit(post, server, max_tokens=200)
    wait_for(lambda: server.service.worker.num_waiting == 2)
    model.go_on.set()
    wait_for(lambda: model.num_words > 14)  # 4 of the first, 4 of the one beside
    connection.close()
    assert beside.result().json()["choices"][0]["message"]["content"].endswith("Doctor:")
    assert first.result().status_code == 200
    wait_for(lambda: server.service.num_inside == 0)
    assert model.num_words < 60
    assert 'xraygpt_requests_total{status="499"} 1.0' in httpx.get(f"{server.url}/metrics").text


def test_a_client_that_leaves_while_it_waits_is_forgotten(model: MarkModel, server: RunningServer, background: ThreadPoolExecutor) -> None:
    model.go_on.clear()
    first = background.submit(post, server)
    wait_for(lambda: model.batches)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}{CHAT}", json=body(), timeout=0.3)
    wait_for(lambda: server.service.num_inside == 1)
    model.go_on.set()
    assert first.result().status_code == 200
    assert post(server).status_code == 200
    assert [len(batch) for batch in model.batches] == [1, 1]


def test_an_answer_that_takes_too_long_is_cut(model: MarkModel) -> None:
    model.seconds = 0.05
    with api_server(model, max_seconds=3) as server:
        response = post(server, messages=[LONG], max_tokens=200)
    (choice,) = response.json()["choices"]
    assert (response.status_code, choice["finish_reason"]) == (200, "length")
    assert choice["message"]["content"].startswith("Patient: <Img>77</Img> w0")


def test_a_request_that_waits_too_long_is_told_so(model: MarkModel, background: ThreadPoolExecutor) -> None:
    model.go_on.clear()
    with api_server(model, max_seconds=3, max_batch=1) as server:
        waiting: list[Future[httpx.Response]] = [background.submit(post, server) for _ in range(3)]
        time.sleep(3.5)  # one is being written, the time of all is over
        model.go_on.set()
        answers = sorted((future.result() for future in waiting), key=lambda answer: answer.status_code)
    assert [answer.status_code for answer in answers] == [200, 503, 503]
    assert answers[2].json()["error"]["code"] == "timeout"


SAID = "the patient's secret"


@pytest.mark.parametrize("stream", [True, False])
def test_a_fault_is_an_error_of_the_server_and_it_goes_on(model: MarkModel, server: RunningServer, stream: bool) -> None:
    model.fault = ValueError(SAID)
    with pytest.raises(openai.InternalServerError, match="failed to write"):
        list(client(server).chat.completions.create(**body(), stream=stream))
    model.fault = None
    assert client(server).chat.completions.create(**body()).choices


# What is left behind -----------------------------------------------------------------------------------------------


def test_neither_log_nor_disk_keeps_anything_of_a_request(
    model: MarkModel, caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    image = data_uri(film(77))
    with caplog.at_level(logging.DEBUG), api_server(model) as server:
        logging.getLogger("httpcore").setLevel(logging.WARNING)  # of the test's own client
        post(server, messages=[user(SAID, image)])
        post(server, messages=[user(SAID, image)], stream=True)
        post(server, messages=[user(SAID, image)], temperature=SAID)
        post(server, messages=[user(SAID, image.replace("iVBOR", "xxxxx"))])
        model.fault = ValueError(SAID)
        post(server, messages=[user(SAID, image)])
    log = "\n".join(record.getMessage() + str(record.exc_text or "") for record in caplog.records)
    assert len(re.findall(r"chatcmpl-\w+ (200|400|500): \d+ \+ \d+ tokens", log)) == 5
    assert "secret" not in log
    assert image[30:60] not in log
    assert os.listdir(tmp_path) == []


def test_metrics_count(server: RunningServer) -> None:
    post(server)
    post(server, n=2)
    text = httpx.get(f"{server.url}/metrics").text
    for line in (
        'xraygpt_requests_total{status="200"} 1.0',
        'xraygpt_requests_total{status="400"} 1.0',
        'xraygpt_tokens_total{kind="prompt"} 6.0',
        'xraygpt_tokens_total{kind="answer"} 4.0',
        "xraygpt_batch_size_sum 1.0",
        "xraygpt_requests_inside 0.0",
    ):
        assert line in text


def test_stopping_answers_those_inside_and_refuses_others(model: MarkModel, background: ThreadPoolExecutor) -> None:
    model.go_on.clear()
    with api_server(model, max_batch=1) as server:
        inside = [background.submit(post, server) for _ in range(3)]
        wait_for(lambda: server.service.num_inside == 3)
        server.should_exit = True
        wait_for(lambda: server.service.is_stopping)
        assert post(server).json()["error"]["code"] == "stopping"
        assert httpx.get(f"{server.url}/healthz").status_code == 503
        model.go_on.set()
        assert [future.result().status_code for future in inside] == [200, 200, 200]
        wait_for(lambda: not server.service.worker.is_alive)
        with pytest.raises(httpx.ConnectError):
            post(server)


def test_a_worker_that_is_gone_shows_in_the_health(server: RunningServer) -> None:
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok", "notice": RESEARCH_NOTICE}
    threading.Thread(target=server.service.worker.stop).start()
    wait_for(lambda: not server.service.worker.is_alive)
    assert httpx.get(f"{server.url}/healthz").status_code == 503
