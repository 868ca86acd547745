"""Where numbers come from."""

import subprocess
from pathlib import Path

from xraygpt import __version__
from xraygpt.evaluation.provenance import environment, git_commit


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_commit_says_whether_files_differ_from_it(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("1")
    assert git_commit(file) is None  # no checkout
    git(tmp_path, "init", "-q")
    assert git_commit(file) is None  # not tracked: an installed package inside somebody's repository
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "m")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert git_commit(file) == commit
    file.write_text("2")
    assert git_commit(file) == f"{commit}-dirty"


def test_the_environment_names_versions_and_not_the_machine() -> None:
    found = environment()
    assert found["xraygpt"] == __version__
    assert {"numpy", "nltk", "rapidfuzz", "sacrebleu", "torch"} <= found["libraries"].keys()
    assert found == environment()
    assert Path.home().name not in str(found).split()
