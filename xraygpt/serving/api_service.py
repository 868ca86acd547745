"""What the routes of the API share: the model's worker, the places in the queue, the counters."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from xraygpt.serving.api_limits import ApiError, ApiLimits
from xraygpt.serving.api_metrics import ApiMetrics
from xraygpt.serving.api_prompt import QuestionReader
from xraygpt.serving.batching import BatchWorker, Job


class ApiService:
    """One model behind one API.

    Args:
        reader: makes questions of requests.
        write: answers a batch of jobs.
        model_name: what clients call the model.
        limits: of the service and of each request.
        tokens: one of them must come with each request; none: everybody is served.
    """

    def __init__(
        self,
        reader: QuestionReader,
        write: Callable[[Sequence[Job]], None],
        *,
        model_name: str,
        limits: ApiLimits,
        tokens: Sequence[str] = (),
    ) -> None:
        self.reader = reader
        self.model_name = model_name
        self.limits = limits
        self.tokens = tuple(tokens)
        self.num_inside = 0
        self.is_stopping = False
        self.worker = BatchWorker(write, max_batch=limits.max_batch, batch_seconds=limits.batch_seconds, on_batch=self._count_batch)
        self.metrics = ApiMetrics(num_inside=lambda: self.num_inside, num_waiting=lambda: self.worker.num_waiting)

    @property
    def status(self) -> str:
        """What `/healthz` says: "ok", "stopping", or "failed" when the worker is gone."""
        if self.is_stopping:
            return "stopping"
        return "ok" if self.worker.is_alive else "failed"

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the `max_queue` places while a request is inside. Called in the event loop only.

        Raises:
            ApiError: 503, if all are taken or the server stops.
        """
        self.require_free_place()
        self.num_inside += 1
        try:
            yield
        finally:
            self.num_inside -= 1

    def require_free_place(self) -> None:
        """Refuse a request that could not get a place now.

        Raises:
            ApiError: 503, if all are taken or the server stops.
        """
        if self.is_stopping:
            raise ApiError(503, "The server is stopping. Try again later.", code="stopping", retry_after=10)
        if self.num_inside >= self.limits.max_queue:
            message = f"The server is busy: {self.num_inside} requests are waiting already. Try again later."
            raise ApiError(503, message, code="busy", retry_after=self.seconds_to_wait())

    def seconds_to_wait(self) -> int:
        """When the requests that are inside may have been answered, going by the last batch; at least 1, at most `max_seconds`."""
        batches = self.num_inside / self.limits.max_batch
        return max(1, min(math.ceil(batches * self.worker.last_seconds), math.ceil(self.limits.max_seconds)))

    def require_model(self, name: str) -> None:
        """Refuse requests for another model.

        Raises:
            ApiError: 404.
        """
        if name != self.model_name:
            message = f"There is no model of this name here, only {self.model_name!r}."
            raise ApiError(404, message, param="model", code="model_not_found")

    def _count_batch(self, jobs: Sequence[Job], seconds: float) -> None:
        self.metrics.batch_size.observe(len(jobs))
        self.metrics.batch_seconds.observe(seconds)
