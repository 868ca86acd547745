"""Wrong tokens and passwords: each is logged, and those who send many wait for the answer."""

import asyncio
import ipaddress
import logging
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)


class TooManyFailures(Exception):
    """Too many answers to wrong secrets are being held back already.

    Args:
        retry_after: whole seconds after which to try again.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many wrong tokens or passwords. Try again in {retry_after} seconds.")
        self.retry_after = retry_after


@dataclass
class _Failures:
    count: int
    last: float


@dataclass(kw_only=True, eq=False)
class FailedLogins:
    """Delays the answer to a wrong secret, by the address that it came from; for use in one event loop.

    A right secret is never delayed, nor refused: otherwise one client could lock out all others
    that share its address, such as those behind one proxy. Guessing must therefore be hopeless by
    the length of the secrets (`xraygpt serve` asks for tokens of 16 characters or more).

    Args:
        num_free: failures of an address that are answered at once.
        first_seconds: delay of the next one; it doubles with each further.
        max_seconds: longest delay.
        memory_seconds: after which an address that was quiet is forgotten.
        max_addresses: that are remembered; beyond them the one that was quiet longest is forgotten.
        max_delayed: answers that are held back at a time.
        max_delayed_per_address: the same, of one address.
        clock: seconds.
    """

    num_free: int = 3
    first_seconds: float = 0.5
    max_seconds: float = 8.0
    memory_seconds: float = 900.0
    max_addresses: int = 1000
    max_delayed: int = 32
    max_delayed_per_address: int = 4
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._known: OrderedDict[str, _Failures] = OrderedDict()  # the one that was quiet longest first
        self._delayed: Counter[str] = Counter()

    async def wait(self, client: str) -> None:
        """Count and log a wrong secret from an address, and return when it may be answered.

        Args:
            client: the address, as the server or its proxy has it.

        Raises:
            TooManyFailures: answer at once that it was too often.
        """
        network = client_network(client)
        count = self._count(network)
        logger.warning("Wrong token or password from %s, number %d.", network, count)
        seconds = self.delay(count)
        if not seconds:
            return
        if self._delayed.total() >= self.max_delayed or self._delayed[network] >= self.max_delayed_per_address:
            raise TooManyFailures(max(1, math.ceil(seconds)))
        self._delayed[network] += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._delayed[network] -= 1
            if not self._delayed[network]:
                del self._delayed[network]

    def delay(self, count: int) -> float:
        """Seconds that the answer to the `count`-th failure of an address is held back."""
        if count <= self.num_free:
            return 0.0
        doublings = min(count - self.num_free - 1, 30)  # 2 to a power without end overflows
        return min(self.max_seconds, self.first_seconds * 2.0**doublings)

    def _count(self, network: str) -> int:
        now = self.clock()
        while self._known and now - next(iter(self._known.values())).last > self.memory_seconds:
            self._known.popitem(last=False)
        failures = self._known.setdefault(network, _Failures(0, now))
        failures.count += 1
        failures.last = now
        self._known.move_to_end(network)
        if len(self._known) > self.max_addresses:
            self._known.popitem(last=False)
        return failures.count


def client_network(client: str) -> str:
    """The network by which failures are counted: an IPv4 address, or 64 bits of an IPv6 address.

    One client may own all IPv6 addresses that share them. What is no address came in a header; it
    must neither fill the memory nor forge a line of the log, so it is called "an unknown address".
    """
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return "an unknown address"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)
