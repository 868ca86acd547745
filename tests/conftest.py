"""Fixtures that every test may take. Nothing here imports torch, so that the tests which need none start at once."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["tests.fixtures"]

REPO_ROOT = Path(__file__).resolve().parent.parent

# Set before any test imports torch or transformers; subprocesses inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # torch then computes with one thread: the same sums on every machine

# How long an example takes says nothing on a shared machine.
hypothesis.settings.register_profile("xraygpt", deadline=None)
hypothesis.settings.load_profile("xraygpt")

# A background job of a shell ignores Ctrl-C, and so would this process and those that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where torch sees no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The folder of the checkout."""
    return REPO_ROOT


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real test data: `XRAYGPT_TEST_DATA`, or `../shared/data` beside the checkout.

    A test that takes it is skipped where the folder is absent, and fails there when `CI=true`.
    """
    folder = Path(os.environ.get("XRAYGPT_TEST_DATA", REPO_ROOT.parent / "shared" / "data"))
    if folder.is_dir():
        return folder
    reason = f"The test data are not at {folder}; set XRAYGPT_TEST_DATA to their folder."
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
