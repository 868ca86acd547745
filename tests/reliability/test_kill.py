"""A run that is killed at any moment, inside a save too, and started again is the run that was left alone: bit for bit."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.tiny_run import make_workspace
from tests.reliability.killing import KillTest
from tests.reliability.warm_parent import WarmParent

# Dropout in a trained Q-Former and random depth in the ViT: their draws must continue too.
OPTIONS = ("model.qformer.dropout=0.2", "model.drop_path_rate=0.2")


@pytest.fixture(scope="module")
def alone(parent: WarmParent, tmp_path_factory: pytest.TempPathFactory) -> KillTest:
    """Kills runs on one rank."""
    return KillTest(parent, make_workspace(tmp_path_factory.mktemp("kill")), *OPTIONS, seed=1)


def test_one_rank(alone: KillTest, soak: bool, record_property: Callable[[str, object], None]) -> None:
    kills = 30 if soak else 6
    found = alone.run(kills)
    for name, count in alone.counts.items():
        record_property(name, count)
    assert found == []
    assert alone.counts["kills"] == kills
    assert alone.counts["kills inside a save"] >= kills // 4


@pytest.mark.parametrize("file", ["checkpoint_0.pth", "checkpoint_best.pth", "summary.json"])
def test_killed_when_an_epoch_is_saved(file: str, alone: KillTest) -> None:
    """The epoch's line is in the log before its checkpoint is in the folder; it must not come twice."""
    assert alone.differences_after_a_kill_at(file) == []


@pytest.mark.slow
def test_one_of_two_ranks(cfg_path: Path, parent: WarmParent, soak: bool, record_property: Callable[[str, object], None]) -> None:
    """The other rank ends by itself: nobody has to find it hanging."""
    kills = 10 if soak else 2
    test = KillTest(parent, cfg_path, *OPTIONS, "run.batch_size_train=1", num_ranks=2, seed=2)
    found = test.run(kills)
    for name, count in test.counts.items():
        record_property(name, count)
    assert found == []
    assert test.counts["kills"] == kills
