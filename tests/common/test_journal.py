"""What an interrupted run finds again, and what it must not use."""

import json
import logging
from pathlib import Path

import pytest
import torch

from xraygpt.common import journal as journal_module
from xraygpt.common.errors import DataError
from xraygpt.common.journal import Journal, weights_sha256

IDENTITY = {"weights": "abc", "prompt": "What is seen?"}
ROWS = [{"id": "a", "report": "Clear lungs."}, {"id": "b", "report": "Pleuraerguß."}]


def finished(folder: Path, identity: dict[str, str] = IDENTITY) -> dict[str, str]:
    """id → report of what a new start finds."""
    journal = Journal(folder, identity)
    journal.close()
    return {key: row["report"] for key, row in journal.rows.items()}


def write(folder: Path, rows: list[dict[str, str]], identity: dict[str, str] = IDENTITY) -> Path:
    """A run that ends after these rows; returns its file."""
    journal = Journal(folder, identity)
    journal.write(rows)  # flushed, not closed: as a killed process leaves it
    return folder / ".predictions.rank0.jsonl"


def test_a_new_start_finds_what_was_written(tmp_path: Path) -> None:
    assert finished(tmp_path / "val") == {}
    write(tmp_path / "val", ROWS[:1])
    write(tmp_path / "val", ROWS[1:])
    assert finished(tmp_path / "val") == {"a": "Clear lungs.", "b": "Pleuraerguß."}


@pytest.mark.parametrize("torn", ['{"id": "b", "rep', '{"id": "b", "report": "Pleuraergu\xc3'])
def test_a_torn_last_line_is_dropped_and_not_continued(tmp_path: Path, torn: str) -> None:
    path = write(tmp_path, ROWS[:1])
    path.write_bytes(path.read_bytes() + torn.encode("latin-1"))
    write(tmp_path, [{"id": "c", "report": "C."}])
    assert finished(tmp_path) == {"a": "Clear lungs.", "c": "C."}


def test_a_torn_header_is_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, [])
    path.write_text(path.read_text()[:10])
    write(tmp_path, ROWS)
    assert len(finished(tmp_path)) == 2


def test_files_of_ranks_that_are_no_more_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "get_rank", lambda: 3)
        write(tmp_path, ROWS[1:])
    write(tmp_path, ROWS[:1])
    assert sorted(finished(tmp_path)) == ["a", "b"]


def test_reports_of_another_model_are_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = write(tmp_path, ROWS).read_bytes()
    with caplog.at_level(logging.WARNING):
        assert finished(tmp_path, IDENTITY | {"weights": "xyz"}) == {}
    assert "differs from this one in: weights." in caplog.text
    assert (tmp_path / "unfinished-1.jsonl").read_bytes() == old
    write(tmp_path, ROWS, IDENTITY | {"weights": "third"})
    assert finished(tmp_path) == {}
    assert {path.name for path in tmp_path.glob("unfinished*")} == {f"unfinished-{n}.jsonl" for n in (1, 2, 3)}


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    header, first, second = path.read_text().splitlines()
    path.write_text("\n".join([header, first[:-5], second, ""]))
    with pytest.raises(DataError, match=r"rank0\.jsonl, line 2: not JSON.*Delete it"):
        Journal(tmp_path, IDENTITY)


def test_remove_deletes_the_files_of_all_ranks_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unfinished-1.jsonl").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "get_rank", lambda: 1)
        write(tmp_path, ROWS)
    journal = Journal(tmp_path, IDENTITY)
    journal.close()
    journal.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished-1.jsonl"]


def test_the_first_line_says_what_decides_the_reports(tmp_path: Path) -> None:
    assert json.loads(write(tmp_path, ROWS).read_text().splitlines()[0]) == {"journal": IDENTITY}


def test_the_hash_of_weights_sees_values_names_and_types() -> None:
    def hash_of(dtype: torch.dtype = torch.float32, value: float = 1.0, name: str = "weight", frozen: bool = False) -> str:
        model = torch.nn.Module()
        model.register_parameter(name, torch.nn.Parameter(torch.full((2, 3), value, dtype=dtype), requires_grad=not frozen))
        model.register_buffer("buffer", torch.tensor(3))
        return weights_sha256(model)

    assert hash_of() == hash_of() == hash_of(frozen=True)
    assert len({hash_of(), hash_of(torch.bfloat16), hash_of(value=1.0 + 2**-20), hash_of(name="bias")}) == 4
