"""Losses that jump: each is compared with the median of those before it."""

from collections import deque
from collections.abc import Sequence
from statistics import median

from xraygpt.common.errors import ConfigError


class LossWatch:
    """Finds spikes. A spike enters the window as well: the median of what follows does not mind a few.

    Args:
        window: how many losses before it a loss is compared with; nothing is judged until there are so many. 0: never.
        factor: a loss above this many times their median is a spike; above 1.
    """

    def __init__(self, *, window: int, factor: float) -> None:
        if window < 0 or factor <= 1:
            raise ConfigError(f"run.spike_window must be 0 or more and run.spike_factor above 1; got {window} and {factor}.")
        self.factor = factor
        self.losses: deque[float] = deque(maxlen=window)

    def spike_over(self, loss: float) -> float | None:
        """Take in the next finite loss, and return the median that it spikes over; None if it does not."""
        usual = median(self.losses) if self.losses and len(self.losses) == self.losses.maxlen else None
        self.losses.append(loss)
        return usual if usual is not None and loss > self.factor * usual else None

    def state_dict(self) -> list[float]:
        """The losses in the window, oldest first."""
        return list(self.losses)

    def load_state_dict(self, losses: Sequence[float]) -> None:
        """Continue from `state_dict`."""
        self.losses.extend(losses)
