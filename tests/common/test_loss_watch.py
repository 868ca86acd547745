"""Spikes of the loss against the median before it."""

import pytest

from xraygpt.common.errors import ConfigError
from xraygpt.common.loss_watch import LossWatch


def spikes(losses: list[float], *, window: int = 3, factor: float = 2.0) -> list[float | None]:
    watch = LossWatch(window=window, factor=factor)
    return [watch.spike_over(loss) for loss in losses]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([9, 1, 9, 9], [None] * 4),  # nothing is judged until the window is full; then the median is 9
        ([3, 2, 1, 5, 4], [None, None, None, 2, None]),  # the median of 3, 2, 1 is 2; that of 2, 1, 5 is 2: 4 is not above twice that
        ([1, 1, 1, 9, 9, 9], [None, None, None, 1, 1, None]),  # a new level is a spike until it is the median
        ([1, 1, 1, 2], [None] * 4),  # as much as the factor is no spike
    ],
)
def test_spikes(losses: list[float], expected: list[float | None]) -> None:
    assert spikes(losses) == expected


def test_no_window_no_spike() -> None:
    assert spikes([1, 1, 1, 99], window=0) == [None] * 4


def test_a_resumed_watch_judges_as_the_whole_one() -> None:
    whole, first, second = (LossWatch(window=3, factor=2.0) for _ in range(3))
    losses = [1.0, 2.0, 1.5, 9.0, 1.0, 4.0]
    expected = [whole.spike_over(loss) for loss in losses]
    found = [first.spike_over(loss) for loss in losses[:2]]
    second.load_state_dict(first.state_dict())
    assert found + [second.spike_over(loss) for loss in losses[2:]] == expected
    assert any(expected)


@pytest.mark.parametrize("settings", [{"window": -1, "factor": 2.0}, {"window": 5, "factor": 1.0}])
def test_settings_that_mean_nothing(settings: dict) -> None:
    with pytest.raises(ConfigError, match=r"run\.spike_window"):
        LossWatch(**settings)
