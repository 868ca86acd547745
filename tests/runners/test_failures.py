"""Runs that cannot go on: what they say, what they save, and what `xraygpt replay` makes of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.e2e.tiny_run import arguments, kept_logging, make_workspace, read_log, run_training
from xraygpt.cli import main as cli
from xraygpt.common.checkpoint import save_checkpoint
from xraygpt.common.errors import DataError
from xraygpt.common.updater import NonFiniteError
from xraygpt.runners.failures import TooManyBadSamplesError

EXPLODING = ("run.init_lr=1e30", "run.warmup_lr=-1", "run.warmup_steps=0", "run.max_nonfinite_steps=3", "run.accum_grad_iters=2")


@pytest.fixture
def cfg_path(tmp_path: Path) -> Path:
    """run.yaml of a fresh workspace."""
    return make_workspace(tmp_path)


@pytest.fixture(scope="module")
def exploded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose weights overflow at its first update, and which gives up after three more. Look, do not touch."""
    cfg_path = make_workspace(tmp_path_factory.mktemp("exploded"))
    with pytest.raises(NonFiniteError, match="Step 7: the loss was not finite in 3 updates in a row"):
        run_training(cfg_path, *EXPLODING)
    return cfg_path.parent / "output" / "run"


def test_skipped_updates_are_counted_and_the_state_is_saved(exploded: Path) -> None:
    skipped = [record["skipped"] for record in read_log(exploded) if "skipped" in record]
    assert skipped == [0, 1, 2, 3]
    assert [record["loss"] for record in read_log(exploded) if "skipped" in record][1:] == [None] * 3
    saved = torch.load(exploded / "checkpoint_step8.pth", weights_only=True)
    assert saved["step"] == 8 and saved["guard"]["skipped_in_a_row"] == 3


def test_a_dump_has_draws_and_neither_texts_nor_images(exploded: Path) -> None:
    dump = torch.load(exploded / "dump_step7.pth", weights_only=True)
    assert [(len(batch["draws"]), len(batch["sample_ids"])) for batch in dump["micro_batches"]] == [(2, 2), (2, 2)]
    assert b"effusion" not in (exploded / "dump_step7.pth").read_bytes()
    assert all(torch.isfinite(weight).all() for weight in dump["model"].values())


def replay(path: Path, *options: str) -> int:
    with kept_logging():
        return cli.main(["replay", str(path), *options])


def test_replay_reproduces_it(exploded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(exploded / "dump_step7.pth") == 0
    shown = capsys.readouterr().out
    dump = torch.load(exploded / "dump_step7.pth", weights_only=True)
    for batch in dump["micro_batches"]:
        assert all(f"  {sample_id}\n" in shown for sample_id in batch["sample_ids"])
    assert "The first output that is not finite: visual_encoder." in shown


def test_replay_of_a_sound_update_says_so(exploded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = torch.load(exploded / "dump_step7.pth", weights_only=True)
    dump["model"] = {name: 0.01 * torch.ones_like(weight) for name, weight in dump["model"].items()}
    save_checkpoint(tmp_path / "dump_step7.pth", dump)
    assert replay(tmp_path / "dump_step7.pth") == 1
    assert "Not reproduced" in capsys.readouterr().out


def test_replay_of_something_else(exploded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(exploded / "checkpoint_step8.pth") == 1
    assert "is no dump of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"micro_batches": 5},
        {"micro_batches": [{}]},
        {"scale": "x"},
        {"config": {}},
        {"config": {"run": 5}},
        {"llm": {"name": "x"}},
    ],
)
def test_replay_of_a_damaged_dump_is_one_line(
    change: dict[str, Any], exploded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = torch.load(exploded / "dump_step7.pth", weights_only=True)
    save_checkpoint(tmp_path / "dump_step7.pth", dump | change)
    assert replay(tmp_path / "dump_step7.pth") == 1
    assert capsys.readouterr().err.startswith("error: ")


# Bad data --------------------------------------------------------------------------------------------------------


def damage(cfg_path: Path, *film_numbers: int) -> None:
    for number in film_numbers:
        (cfg_path.parent / "data" / "image" / f"film-{number}.png").write_bytes(b"no image")


def test_bad_data_stops_by_default(cfg_path: Path) -> None:
    damage(cfg_path, *range(22))
    with pytest.raises(DataError, match=r"(?s)sample film-\d+ \(.*film-\d+\.png\): .*run\.on_bad_sample=skip"):
        run_training(cfg_path)


SKIPPING = ("run.on_bad_sample=skip", "run.max_bad_share=0.2")


def trained(cfg_path: Path, *options: str) -> list[dict[str, Any]]:
    return [record for record in read_log(run_training(cfg_path, *SKIPPING, *options)) if "bad_samples" in record]


def test_bad_data_is_skipped_counted_and_listed_once(cfg_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(cfg_path, 4)
    whole = trained(cfg_path, "run.job_id=whole", "run.max_epoch=3")
    listed = [json.loads(line) for line in (cfg_path.parent / "output/whole/bad_samples.jsonl").read_text().splitlines()]
    assert [(row["sample_id"], Path(row["file"]).name) for row in listed] == [("film-4", "film-4.png")]
    assert "film-4.png" in listed[0]["reason"] and capsys.readouterr().err.count("Left out: sample film-4") == 1
    # 60 samples are drawn from 22, so each comes up twice or three times.
    assert 2 <= whole[-1]["bad_samples"] <= 4


def test_beyond_the_share_the_run_stops_with_its_state_saved(cfg_path: Path) -> None:
    damage(cfg_path, *range(11))
    with pytest.raises(TooManyBadSamplesError, match=r"of \d+ training samples could not be used, more than run\.max_bad_share=0\.05"):
        run_training(cfg_path, "run.on_bad_sample=skip", "run.max_bad_share=0.05")
    (saved,) = (cfg_path.parent / "output" / "run").glob("checkpoint_step*.pth")
    assert torch.load(saved, weights_only=True)["guard"]["bad_samples"] in (6, 7)  # 5 of (at least) 100 are allowed; an update has two


def test_annotations_that_do_not_parse(cfg_path: Path) -> None:
    path = cfg_path.parent / "data" / "filter_cap.json"
    rows = json.loads(path.read_text())["annotations"]
    rows[3]["caption"] = 7
    path.write_text(json.dumps({"annotations": rows}))
    with pytest.raises(DataError, match='annotation 3: "caption" must be a non-empty text'):
        run_training(cfg_path)
    folder = run_training(cfg_path, *SKIPPING, "run.max_epoch=1", "run.test_splits=[]")
    assert json.loads((folder / "bad_samples.jsonl").read_text())["sample_id"] == "annotation 3"
    with pytest.raises(TooManyBadSamplesError, match="1 of 22"):
        run_training(cfg_path, "run.on_bad_sample=skip", "run.max_bad_share=0", "run.job_id=strict")


def test_scan_lists_every_bad_file_and_annotation(cfg_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import train
    from xraygpt.common.config import Config

    cfg = OmegaConf.load(cfg_path)
    assert train.scan(Config(arguments(cfg_path))) == 0
    damage(cfg_path, 1, 2, 30)  # the last is of the test split
    (cfg_path.parent / "data" / "image" / "film-5.png").unlink()
    path = Path(cfg.datasets.mimic.storage) / "filter_cap.json"
    rows = json.loads(path.read_text())["annotations"]
    del rows[23]["caption"]  # of the validation split
    path.write_text(json.dumps({"annotations": rows}))
    capsys.readouterr()
    assert train.scan(Config(arguments(cfg_path))) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[1] for line in lines) == ["annotation", "film-1", "film-2", "film-30", "film-5"]
    assert last == "5 bad, 30 read."
