"""What `/metrics` tells Prometheus. Numbers only: nothing of a request's content is a label."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from xraygpt.serving.http_limits import REASONS

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class ApiMetrics:
    """Counters of one server.

    Args:
        num_inside: how many requests are inside now.
        num_waiting: how many of them no batch has taken yet.
    """

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, *, num_inside: Callable[[], int], num_waiting: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, processor time, open files
        self.requests = Counter(
            "xraygpt_requests", "Requests for an answer, by HTTP status; 499: the client left", ["status"], registry=registry
        )
        self.refused = Counter("xraygpt_refused", "Connections and requests refused by limits, by reason", ["reason"], registry=registry)
        for reason in REASONS:
            self.refused.labels(reason)  # so that each is there from the start, with 0
        self.tokens = Counter("xraygpt_tokens", "Tokens read (prompt) and written (answer)", ["kind"], registry=registry)
        self.seconds = Histogram("xraygpt_request_seconds", "From a request to the end of its answer", buckets=_SECONDS, registry=registry)
        self.first_piece = Histogram(
            "xraygpt_first_piece_seconds", "From a request to the first piece of its answer", buckets=_SECONDS, registry=registry
        )
        self.batch_size = Histogram("xraygpt_batch_size", "Answers written together", buckets=(1, 2, 4, 8, 16, 32), registry=registry)
        self.batch_seconds = Histogram("xraygpt_batch_seconds", "What writing a batch took", buckets=_SECONDS, registry=registry)
        Gauge("xraygpt_requests_inside", "Requests that are waiting or written now", registry=registry).set_function(num_inside)
        Gauge("xraygpt_requests_waiting", "Requests that no batch has taken yet", registry=registry).set_function(num_waiting)

    def count_refusal(self, reason: str) -> None:
        """Count a connection or a request that a limit refused, by one of `REASONS`."""
        self.refused.labels(reason).inc()

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
