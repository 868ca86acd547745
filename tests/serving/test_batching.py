"""The worker: which jobs go together, and how each ends."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from xraygpt.serving.batching import BatchWorker, Event, Failed, Finished, Job

SAID = "what the patient said"


class Writer:
    """Answers each job with its question; waits while `go_on` is not set."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, jobs: Sequence[Job]) -> None:
        self.batches.append([job.question for job in jobs])
        self.begun.set()
        assert self.go_on.wait(10)
        for job in jobs:
            if job.question == "fault":
                raise ValueError(SAID)
            if job.question != "forgotten":
                job.end(Finished(job.question))


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def worker(writer: Writer) -> Iterator[BatchWorker]:
    worker = BatchWorker(writer, max_batch=3, batch_seconds=0.05)
    worker.start()
    yield worker
    writer.go_on.set()
    worker.stop(10)


class Client:
    """Submits jobs and collects their events."""

    def __init__(self, worker: BatchWorker) -> None:
        self.worker = worker
        self.events: dict[Any, list[Event]] = {}
        self.ended = threading.Condition()

    def submit(self, question: Any, *, key: str = "", seconds: float = 60) -> Job:
        self.events[question] = []

        def deliver(event: Event) -> None:
            with self.ended:
                self.events[question].append(event)
                self.ended.notify_all()

        job = Job(question=question, batch_key=key, deadline=time.monotonic() + seconds, deliver=deliver)
        self.worker.submit(job)
        return job

    def wait(self) -> dict[Any, list[Event]]:
        with self.ended:
            assert self.ended.wait_for(lambda: all(self.events.values()), 10)
        return self.events


@pytest.fixture
def client(worker: BatchWorker) -> Client:
    return Client(worker)


@pytest.fixture
def held(writer: Writer, client: Client) -> Callable[[], None]:
    """The worker is busy with a job "first" until this is called."""
    writer.go_on.clear()
    client.submit("first")
    assert writer.begun.wait(10)
    return writer.go_on.set


def test_jobs_that_wait_are_written_together_in_their_order(client: Client, writer: Writer, held: Callable[[], None]) -> None:
    for question in range(5):
        client.submit(question)
    held()
    assert client.wait() == {"first": [Finished("first")], **{i: [Finished(i)] for i in range(5)}}
    assert writer.batches == [["first"], [0, 1, 2], [3, 4]]


def test_only_jobs_of_one_key_go_together_and_none_is_overtaken_by_another_key(
    client: Client, writer: Writer, held: Callable[[], None]
) -> None:
    for question, key in enumerate("abaab"):
        client.submit(question, key=key)
    held()
    client.wait()
    assert writer.batches[1:] == [[0, 2, 3], [1, 4]]


def test_jobs_that_arrive_within_a_moment_share_a_batch(client: Client, writer: Writer) -> None:
    for question in range(3):
        client.submit(question)
    client.wait()
    assert writer.batches == [[0, 1, 2]]


def test_a_job_that_nobody_waits_for_is_not_written(client: Client, writer: Writer, held: Callable[[], None]) -> None:
    client.submit(0).cancel()
    client.submit(1)
    held()
    client.wait()
    assert writer.batches == [["first"], [1]]


def test_a_job_whose_time_is_over_fails(client: Client, writer: Writer, held: Callable[[], None]) -> None:
    client.submit(0, seconds=0)
    held()
    assert client.wait()[0] == [Failed("time")]
    assert writer.batches == [["first"]]


def test_a_fault_fails_its_batch_alone_and_its_words_stay_out_of_the_log(
    client: Client, held: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    client.submit("fault", key="a")
    client.submit(1, key="b")
    with caplog.at_level(logging.DEBUG):
        held()
        events = client.wait()
    assert (events["fault"], events[1]) == ([Failed("error")], [Finished(1)])
    assert "ValueError" in caplog.text
    assert "test_batching.py" in caplog.text
    assert SAID not in caplog.text


def test_a_job_that_the_writer_forgets_fails(client: Client) -> None:
    client.submit("forgotten")
    assert client.wait()["forgotten"] == [Failed("error")]


def test_stopping_finishes_the_batch_that_runs_and_fails_the_others(client: Client, worker: BatchWorker, held: Callable[[], None]) -> None:
    client.submit(0)
    threading.Timer(0.1, held).start()
    worker.stop(10)
    client.submit(1)
    assert client.wait() == {"first": [Finished("first")], 0: [Failed("stopped")], 1: [Failed("stopped")]}
    assert not worker.is_alive


def test_an_idle_worker_stops(worker: BatchWorker) -> None:
    worker.stop(10)
    assert not worker.is_alive
