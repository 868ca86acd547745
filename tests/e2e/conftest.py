"""The workspace of the tiny runs, and one run that many tests look at."""

from pathlib import Path

import pytest

from tests.e2e.tiny_run import make_workspace, run_training


@pytest.fixture
def cfg_path(tmp_path: Path) -> Path:
    """run.yaml of a fresh workspace."""
    return make_workspace(tmp_path)


@pytest.fixture(scope="package")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of 2 x 10 iterations; look, do not touch."""
    return run_training(make_workspace(tmp_path_factory.mktemp("finished")))
