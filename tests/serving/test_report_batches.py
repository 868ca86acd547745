"""Many images: what each row says, and that a bad image spoils nothing."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from xraygpt.processors import Blip2ImageEvalProcessor
from xraygpt.processors.input_gate import Concern
from xraygpt.serving import ReportPipeline, report_batches
from xraygpt.serving.report_batches import write_batches

SETTINGS = {"max_new_tokens": 8, "min_new_tokens": 1, "num_beams": 1, "do_sample": False}
LATERAL = Concern("lateral", "This looks like a lateral view.", 4.0)


@pytest.fixture
def pipeline(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> ReportPipeline:
    """A pipeline, and a gate that doubts images that are wider than high."""
    monkeypatch.setattr(report_batches, "check_image", lambda image: [LATERAL] if image.width > image.height else [])
    return ReportPipeline(model=tiny_model, vis_processor=Blip2ImageEvalProcessor(image_size=28), prompt="", settings=dict(SETTINGS))


@pytest.fixture
def images(tiny_storage: Path, tmp_path: Path) -> list[tuple[str, Path]]:
    """Good, damaged, good, doubtful, missing."""
    for i in (0, 1):
        shutil.copy(tiny_storage / "image" / f"x{i}.png", tmp_path)
    (tmp_path / "damaged.png").write_bytes(b"no image")
    Image.open(tmp_path / "x1.png").rotate(90, expand=True).save(tmp_path / "wide.png")
    return [(name, tmp_path / f"{name}.png") for name in ("x0", "damaged", "x1", "wide", "missing")]


def test_rows_are_those_of_single_images(pipeline: ReportPipeline, images: list[tuple[str, Path]]) -> None:
    (alone,) = pipeline.generate_reports([images[0][1]])
    confidence = math.prod(map(math.exp, alone.log_probs)) ** (1 / len(alone.token_ids))
    for size in (1, 2, 5):
        batches = [images[start : start + size] for start in range(0, len(images), size)]
        rows = [row for rows in write_batches(pipeline, batches, seed=1) for row in rows]
        assert [row["id"] for row in rows] == ["x0", "damaged", "x1", "wide", "missing"]
        assert [row.get("report") for row in rows] == [
            None if "report" not in row else pipeline.write_reports([row["image"]])[0] for row in rows
        ]
        assert ["report" in row for row in rows] == [True, False, True, True, False]
        assert rows[0] == {
            "id": "x0", "image": images[0][1].as_posix(), "report": rows[0]["report"],
            "flags": ["truncated"], "confidence": rows[0]["confidence"], "sentences": rows[0]["sentences"],
            "truncated": True, "repeated": False, "concerns": [],
        }  # fmt: skip
        assert rows[0]["confidence"] == pytest.approx(confidence, abs=1e-4)
        assert " ".join(each["text"] for each in rows[0]["sentences"]).split() == rows[0]["report"].split()
        assert all(0 < each["confidence"] <= 1 for each in rows[0]["sentences"])
        assert rows[1] == {"id": "damaged", "image": images[1][1].as_posix(), "error": rows[1]["error"], "concerns": []}
        assert "missing.png" in rows[4]["error"]


@pytest.mark.parametrize("strict", [False, True])
def test_a_doubtful_image_is_noted_or_refused(pipeline: ReportPipeline, images: list[tuple[str, Path]], strict: bool) -> None:
    ((row,),) = write_batches(pipeline, [images[3:4]], seed=1, strict=strict)
    assert row["concerns"] == [{"kind": "lateral", "message": LATERAL.message, "score": 4.0, "turn": 0}]
    assert ("error" in row) == strict
    if strict:
        assert "refused by the input gate. This looks like a lateral view." in row["error"]


def test_what_is_drawn_depends_on_seed_and_image_alone(pipeline: ReportPipeline, images: list[tuple[str, Path]]) -> None:
    pipeline.settings |= {"do_sample": True, "top_p": 1.0}

    def drawn(size: int, seed: int) -> list[str]:
        batches = [images[start : start + size] for start in range(0, len(images), size)]
        return [row["report"] for rows in write_batches(pipeline, batches, seed=seed) for row in rows if "report" in row]

    assert drawn(1, seed=7) == drawn(2, seed=7) == drawn(5, seed=7)
    assert drawn(5, seed=7) != drawn(5, seed=8)
    twice = [images[0], ("other name", images[0][1])]
    assert len({row["report"] for rows in write_batches(pipeline, [twice], seed=7) for row in rows}) == 2


def test_no_batches_no_rows(pipeline: ReportPipeline) -> None:
    assert list(write_batches(pipeline, [], seed=1)) == []


def test_only_one_batch_is_loaded_ahead(pipeline: ReportPipeline, images: list[tuple[str, Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    open_image = report_batches.open_image
    monkeypatch.setattr(report_batches, "open_image", lambda path: [opened.append(path), open_image(path)][1])
    rows = write_batches(pipeline, [images[:1]] * 5, seed=1)
    next(rows)
    assert len(opened) == 2
    rows.close()
