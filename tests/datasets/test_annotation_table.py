"""Annotations by their place in a file: the same as reading it whole, and no more memory than their places take."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xraygpt.common.errors import DataError
from xraygpt.datasets import annotation_table
from xraygpt.datasets.annotation_table import AnnotationIndex, AnnotationTable, _objects, index_of
from xraygpt.datasets.builders import FolderBuilder, load_annotations
from xraygpt.datasets.builders.image_text_pair_builder import _index

TEXTS = ["No effusion.", 'A "quoted" one, with [brackets] and {braces}.', "Aorta größer – ✓.", "Line\nbreak"]


def annotation(i: int, **more: Any) -> dict[str, Any]:
    return {"image_id": f"film-{i % 5}", "caption": TEXTS[i % 4], "study_id": f"s{i}", "split": ("train", "val")[i % 3 == 0], **more}


def write(folder: Path, annotations: list[Any], **form: Any) -> Path:
    path = folder / "filter_cap.json"
    path.write_text(json.dumps({"made_by": {"annotations": 3}, "annotations": annotations, "after": [1]}, **form), encoding="utf-8")
    return path


def datasets(folder: Path) -> dict[str, Any]:
    builder = FolderBuilder(SimpleNamespace(storage=str(folder), sample_ratio=None))
    builder.build_processors = lambda split: (lambda image: image, str)  # type: ignore[assignment, method-assign]
    return builder.build_datasets()


@pytest.mark.parametrize(
    "form", [{}, {"indent": 2}, {"ensure_ascii": False}, {"ensure_ascii": False, "indent": 1}, {"separators": (",", ":")}]
)
def test_every_annotation_is_found(form: dict[str, Any], tmp_path: Path) -> None:
    annotations = [annotation(i, findings=["[", "]"], nested={"annotations": [1]}) for i in range(12)]
    write(tmp_path, annotations, **form)
    built = datasets(tmp_path)
    for split in ("train", "val"):
        own = [ann for ann in annotations if ann["split"] == split]
        table = built[split].annotation
        assert isinstance(table, AnnotationTable)
        assert list(table) == [{**ann, "instance_id": str(i)} for i, ann in enumerate(own)]
        assert table[-1]["caption"] == own[-1]["caption"] and table[1:3] == list(table)[1:3]
        numbers = dict(zip((ann["image_id"] for ann in own), built[split].image_numbers, strict=True))
        assert sorted(numbers.values()) == list(range(len(numbers)))
        with pytest.raises(IndexError):
            table[len(own)]


def test_a_loading_process_gets_places_not_texts(tmp_path: Path) -> None:
    write(tmp_path, [annotation(i, long="x" * 1000) for i in range(300)])
    table = datasets(tmp_path)["train"].annotation
    data = pickle.dumps(table)
    assert len(data) < 30 * len(table)
    assert pickle.loads(data) == list(table)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text()
    | st.text("{}[],")
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
others = st.dictionaries(st.text().filter(lambda key: key != "annotations"), json_values, max_size=3)


@given(before=others, objects=st.lists(st.dictionaries(st.text(), json_values, max_size=3), max_size=5), after=others)
@pytest.mark.parametrize("form", [{}, {"indent": 1}, {"separators": (",", ":")}])
def test_objects_are_those_of_json(
    form: dict[str, Any], before: dict[str, Any], objects: list[dict[str, Any]], after: dict[str, Any]
) -> None:
    whole = {**before, "annotations": objects, **{key: value for key, value in after.items() if key not in before}}
    data = json.dumps(whole, ensure_ascii=False, **form).encode()
    found = list(_objects(data))
    assert [value for value, _, _ in found] == objects
    assert [json.loads(data[start:stop]) for _, start, stop in found] == objects


@pytest.mark.parametrize(
    "content",
    [
        b'{"annotations": [1]}',
        b'{"annotations": [{"a": NaN}]}',
        b'{"annotations": [{"a": "' + 200 * b"}" + b'"}]}',
        b'{"made_by": {"annotations": [1]}, "annotations": [{}]}',
        b'{"annotations": [{"a": "\xff"}]}',
    ],
)
def test_what_is_unusual_is_read_whole(content: bytes) -> None:
    with pytest.raises(ValueError):
        list(_objects(content))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"annotations": 3}',
        '{"annotations": [{}',
        '{"annotations": [{} {}]}',
        '{"annotations": [{}]',
        '{"annotations": [1]} x',
        '{"annotations": [], "annotations": [1]}',
        "\x00",
        '{"a" 1}',
        '{"annotations": [1,]}',
    ],
)
def test_another_form_is_left_to_whoever_reads_it_whole(text: str, tmp_path: Path) -> None:
    path = tmp_path / "filter_cap.json"
    path.write_text(text)
    assert _index(path, "here") is None
    with pytest.raises(DataError) as whole:
        load_annotations(path)
    with pytest.raises(DataError) as built:
        datasets(tmp_path)
    assert str(built.value) == str(whole.value)


def test_the_same_is_refused_in_the_same_words(tmp_path: Path) -> None:
    path = write(tmp_path, [annotation(1), {"image_id": "x"}, annotation(2), 7])
    with pytest.raises(DataError) as whole:
        load_annotations(path)
    with pytest.raises(DataError) as indexed:
        datasets(tmp_path)
    assert str(indexed.value) == str(whole.value)
    write(tmp_path, [annotation(1, subject_id="p"), annotation(3, subject_id="p")])
    with pytest.raises(DataError, match=r"1 subjects or studies stand in more than one split.*\n  subject p: train, val"):
        datasets(tmp_path)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An index is kept for any number of annotations; grows each time that one is built."""
    monkeypatch.setattr(annotation_table, "_KEPT_FROM", 1)
    built: list[int] = []
    build = AnnotationIndex.of.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(AnnotationIndex, "of", classmethod(lambda cls, *args: built.append(1) or build(cls, *args)))
    return built


def test_an_index_is_made_once_and_belongs_to_the_content(kept: list[int], tmp_path: Path) -> None:
    annotations = [annotation(i) for i in range(6)]
    write(tmp_path, annotations)
    first = datasets(tmp_path)
    assert list(datasets(tmp_path)["val"].annotation) == list(first["val"].annotation)
    assert len(kept) == 1
    annotations[0]["caption"] = annotations[0]["caption"][::-1]  # the same size
    write(tmp_path, annotations)
    assert datasets(tmp_path)["val"].annotation[0]["caption"] == annotations[0]["caption"]
    assert len(kept) == 2


@pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: b"", lambda data: b"no archive" * 9])
def test_a_damaged_index_is_made_again(damage: Any, kept: list[int], tmp_path: Path) -> None:
    write(tmp_path, [annotation(i) for i in range(6)])
    expected = list(datasets(tmp_path)["train"].annotation)
    index = tmp_path / "filter_cap.index.npz"
    index.write_bytes(damage(index.read_bytes()))
    assert list(datasets(tmp_path)["train"].annotation) == expected
    assert len(kept) == 2


def packed(index: Path) -> None:
    with np.load(index) as stored:
        arrays = dict(stored)
    np.savez_compressed(index, **arrays)


def says_more_than_it_holds(index: Path) -> None:
    """The header of an array states a hundred times the length of its numbers; numpy would make room for them first."""
    with zipfile.ZipFile(index) as source:
        parts = {name: source.read(name) for name in source.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (800, 2)})
    with zipfile.ZipFile(index, "w") as target:
        for name, content in (parts | {"spans.npy": header.getvalue() + parts["spans.npy"][-128:]}).items():
            target.writestr(name, content)


def of_another_shape(index: Path) -> None:
    with np.load(index) as stored:
        arrays = dict(stored)
    np.savez(index, **arrays | {"split": arrays["split"][:-1]})


@pytest.mark.parametrize("change", [packed, says_more_than_it_holds, of_another_shape])
def test_an_index_that_is_not_as_it_is_written_is_made_again(change: Any, kept: list[int], tmp_path: Path) -> None:
    write(tmp_path, [annotation(i) for i in range(6)])
    expected = list(datasets(tmp_path)["train"].annotation)
    change(tmp_path / "filter_cap.index.npz")
    assert list(datasets(tmp_path)["train"].annotation) == expected
    assert len(kept) == 2


def test_a_folder_that_cannot_be_written_to(kept: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: AnnotationIndex, path: Path, sha256: str) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(AnnotationIndex, "save", refuse)
    path = write(tmp_path, [annotation(i) for i in range(6)])
    assert index_of(path, lambda: _index(path, "here")) is not None
    assert len(datasets(tmp_path)["train"]) == 4


def test_small_folders_get_no_index(tmp_path: Path) -> None:
    write(tmp_path, [annotation(i) for i in range(6)])
    datasets(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["filter_cap.json"]


def test_places_take_little(tmp_path: Path) -> None:
    path = write(tmp_path, [annotation(i) for i in range(1000)])
    index = _index(path, "here")
    assert index is not None and index.spans.nbytes + index.split.nbytes + index.number.nbytes == 21 * 1000
    assert np.all(index.spans[1:, 0] > index.spans[:-1, 1] - 1)
