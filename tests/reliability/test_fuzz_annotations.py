"""Any filter_cap.json and any file of reports ends in data or in a DataError; what is data can be read sample by sample."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from tests.reliability.fuzzing import attempt, changed, damaged, fuzz, json_values
from xraygpt.cli import data as data_command
from xraygpt.datasets.builders.image_text_pair_builder import ImageTextPairBuilder, load_annotations
from xraygpt.evaluation.report_files import load_predictions, load_references, load_training_reports, pair

NAMES = ["film-0", "film-1", "film-2"]
CONTENT = {
    "annotations": [
        {"image_id": name, "caption": "No effusion.", "study_id": f"s{name}", "subject_id": 7 + i, "split": split}
        for i, (name, split) in enumerate(zip(NAMES, ("train", "val", "test"), strict=True))
    ]
}
VALUES = json_values(st.sampled_from([*NAMES, "../image/film-0", "train", "val", "x/../../y", "a" * 300, "film-0\n", "film-0\0"]))
ROWS = [{"id": name, "report": "No effusion.", "truncated": False} for name in NAMES]
REPORTS = {
    ".jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
    ".json": json.dumps({row["id"]: [row["report"]] for row in ROWS}).encode(),
    ".csv": b'id,report\r\nfilm-0,"No effusion, no""n""e."\r\nfilm-1,x\r\nfilm-2,y\r\n',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, whose annotations each example writes."""
    made = tmp_path_factory.mktemp("prepared")
    (made / "image").mkdir()
    for name in NAMES:
        Image.new("L", (30, 30), 99).save(made / "image" / f"{name}.png")
    return made


def used(folder: Path, content: bytes) -> None:
    """Everything that reads a prepared folder."""
    (folder / "filter_cap.json").write_bytes(content)
    processors = {"vis_processor": {"name": "blip2_image_eval", "image_size": 28}, "text_processor": {"name": "report_text"}}
    blocks = {kind: {"train": processor, "eval": processor} for kind, processor in processors.items()}
    builder = ImageTextPairBuilder(OmegaConf.create({"storage": str(folder), "sample_ratio": None, **blocks}))
    for split, dataset in (attempt(builder.build_datasets) or {}).items():
        assert isinstance(split, str)
        for index in range(len(dataset)):
            sample = attempt(lambda dataset=dataset, index=index: dataset[index])
            assert sample is None or sample["caption"].encode()
    attempt(lambda: load_annotations(folder / "filter_cap.json", captions_required=False))
    attempt(lambda: load_references(folder, split="test"))
    attempt(lambda: load_training_reports(folder))


@fuzz()
@given(content=damaged([json.dumps(CONTENT, indent=1).encode(), b'{"annotations": []}', b'{"annotations": ' + b"[" * 5000]))
def test_bytes_of_annotations(content: bytes, folder: Path) -> None:
    used(folder, content)


@fuzz(0.5)
@given(content=changed(CONTENT, VALUES))
def test_values_of_annotations(content: Any, folder: Path) -> None:
    used(folder, json.dumps(content).encode())


@fuzz(0.3)
@given(content=changed(CONTENT, VALUES))
def test_data_show(content: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "filter_cap.json").write_text(json.dumps(content))
    page = tmp_path_factory.getbasetemp() / "page.html"
    attempt(lambda: data_command.run(Namespace(folder=folder, split=None, page=page, images=3, seed=0, no_page=False)))


@fuzz()
@given(data=st.data())
@pytest.mark.parametrize("suffix", REPORTS)
def test_files_of_reports(data: st.DataObject, suffix: str, folder: Path) -> None:
    whole = damaged([REPORTS[suffix], REPORTS[suffix].decode().encode("utf-16"), b"[" * 5000])
    rows = changed(ROWS, VALUES).map(lambda rows: "\n".join(map(json.dumps, rows if isinstance(rows, list) else [rows])).encode())
    path = folder / f"reports{suffix}"
    path.write_bytes(data.draw(whole | rows if suffix == ".jsonl" else whole))
    predictions, references = attempt(lambda: load_predictions(path)), attempt(lambda: load_references(path))
    if predictions and references:
        attempt(lambda: pair(predictions, references))
