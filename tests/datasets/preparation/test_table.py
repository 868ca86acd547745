"""Own tables → studies, and what is listed of rows that cannot be used."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.preparation.made_source import write_noise
from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.pipeline import PrepareOptions, prepare
from xraygpt.datasets.preparation.study import Study
from xraygpt.datasets.preparation.table import TableColumns, TableSource
from xraygpt.datasets.preparation.table_cells import CellError, locate_image, read_split, read_views

COLUMNS = TableColumns(image="image", report="report")
FULL = TableColumns(image="image", report="report", group="patient", study="study", view="view", split="split")
FULL_HEADER = "image,report,patient,study,view,split"


def read(folder: Path, *lines: str, columns: TableColumns = COLUMNS, **options: Any) -> tuple[list[Study], Account]:
    """The studies of a CSV file with these lines, and the account."""
    (folder / "reports.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = TableSource(folder / "reports.csv", columns, **options)
    account = Account(roots=source.roots)
    return list(source.studies(account)), account


def problems(account: Account) -> list[tuple[str, str]]:
    """(where, reason) of each problem."""
    return [(problem.where, problem.reason) for problem in account.problems]


def test_each_row_is_a_study(tmp_path: Path) -> None:
    studies, account = read(tmp_path, "report,image", "Clear.,films/a.png", ",films/b.dcm", "Opaque.,films/c.jpg; films/d.JPEG|films/e.png")
    assert [(study.study_id, study.text, study.where, study.group_id) for study in studies] == [
        ("films/a", "Clear.", f"{tmp_path}/reports.csv, line 2", "films/a"),
        ("films/b", "", f"{tmp_path}/reports.csv, line 3", "films/b"),
        ("films/c", "Opaque.", f"{tmp_path}/reports.csv, line 4", "films/c"),
    ]
    assert [(image.image_id, image.path) for image in studies[2].images] == [
        ("films/c", tmp_path / "films/c.jpg"),
        ("films/d", tmp_path / "films/d.JPEG"),
        ("films/e", tmp_path / "films/e.png"),
    ]
    assert {image.where for image in studies[2].images} == {studies[2].where}
    assert account.problems == []
    assert [(file.kind, file.file) for file in account.source_files] == [("table", "reports.csv")]


def test_every_column(tmp_path: Path) -> None:
    studies, account = read(
        tmp_path,
        FULL_HEADER,
        "a.png,Clear.,p1,s1,PA,Train",
        "b.png;c.png,Opaque.,p2,s2,frontal;LL,validate",
        'd.png,"Clear.",p1,s1,lateral,TRAIN',
        "e.png,Large heart.,,s3,,test",
        columns=FULL,
    )
    assert [(study.study_id, study.subject_id, study.split, study.text) for study in studies] == [
        ("s1", "p1", "train", "Clear."),
        ("s2", "p2", "val", "Opaque."),
        ("s3", "", "test", "Large heart."),
    ]
    assert [[(image.image_id, image.view, image.view_position) for image in study.images] for study in studies] == [
        [("a", "frontal", "PA"), ("d", "lateral", "LATERAL")],
        [("b", "frontal", ""), ("c", "lateral", "LL")],
        [("e", "", "")],
    ]
    assert account.problems == []
    assert account.counts == {"rows": 1, "further rows of a study": 1}
    assert account.notes == {"studies without group": 1}


FINDINGS, IMPRESSION = "The lungs are clear. The heart is not enlarged.", "No acute disease."


@pytest.mark.parametrize(
    ("header", "row", "columns", "text", "expected"),
    [
        ("image,report", f'a.png,"FINDINGS:\n{FINDINGS}\n\nIMPRESSION:\n{IMPRESSION}"', COLUMNS, "summary", (FINDINGS, IMPRESSION, None)),
        ("image,report", 'a.png,"FINDINGS:\nClear."', COLUMNS, "as-is", ("", "", "FINDINGS:\nClear.")),
        *(
            (
                "image,f,i",
                f"a.png,{FINDINGS},{IMPRESSION}",
                TableColumns(image="image", findings="f", impression="i"),
                text,
                (FINDINGS, IMPRESSION, f"{FINDINGS} {IMPRESSION}"),
            )
            for text in ("summary", "as-is")
        ),
    ],
)
def test_text(tmp_path: Path, header: str, row: str, columns: TableColumns, text: str, expected: tuple[str, str, str | None]) -> None:
    [study], _ = read(tmp_path, header, row, columns=columns, text=text)
    assert (study.findings, study.impression) == expected[:2]
    assert expected[2] is None or study.text == expected[2]


def test_identifiers_do_not_change_when_rows_are_added(tmp_path: Path) -> None:
    before, _ = read(tmp_path, "image,report", "b.png,Clear.")
    after, _ = read(tmp_path, "image,report", "a.png,Opaque.", "b.png,Clear.")
    assert after[1].study_id == before[0].study_id == "b"


# Rows that are left out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "count", "reason"),
    [
        ("b.png,Clear.,p2,s2,PA", "rows unreadable", "the row has 5 cells, the header 6;"),
        ("b.png,Clear.,p2,s2,PA,holdout", "rows of unknown split", "the split must be train, val or test, not 'holdout'"),
        ("b.png,Clear.,p2,s2,PA,", "rows of unknown split", "the split must be train, val or test, not ''"),
        (f"b.png,Clear.,p2,s2,PA,{FINDINGS}", "rows of unknown split", "the split must be train, val or test, not a text of "),
        ("b.png,Clear.,p2,s2,oblique,test", "rows of unknown view", "the view must be one of UNKNOWN, UNK, FRONTAL, PA,"),
        ("b.png,Clear.,p2,s2,PA;LL,test", "rows of unknown view", "there are 2 views for 1 images"),
        ("b.png,Clear.,p2,,PA,test", "rows without study", "the column 'study' is empty"),
        ("b.png,Opaque.,p1,s1,PA,train", "rows at odds with their study", "the text is another than in reports.csv, line 2, "),
        ("b.png,Clear.,p2,s1,PA,train", "rows at odds with their study", "the group is another than in reports.csv, line 2, "),
        ("b.png,Clear.,p1,s1,PA,test", "rows at odds with their study", "the split is another than in reports.csv, line 2, "),
        ("a.png,Clear.,p2,s2,PA,test", "image named twice", "the image 'a' stands in reports.csv, line 2 already"),
        ("a.jpg,Clear.,p2,s2,PA,test", "image named twice", "a.jpg would be called 'a', as a.png of reports.csv, line 2 is"),
        ("../b.png,Clear.,p2,s2,PA,test", "image paths refused", "the path '../b.png' leaves the image folder, or names no file in it"),
    ],
)
def test_bad_row(tmp_path: Path, row: str, count: str, reason: str) -> None:
    studies, account = read(tmp_path, FULL_HEADER, "a.png,Clear.,p1,s1,PA,train", row, "c.png,Clear.,p3,s3,PA,train", columns=FULL)
    assert [study.study_id for study in studies] == ["s1", "s3"]
    [(where, told)] = problems(account)
    assert where == "reports.csv, line 3"
    assert told.startswith(f"reports.csv, line 3: {reason}")
    assert FINDINGS not in told
    assert account.counts == {"rows": 1, count: 1}
    assert count in TableSource.filters


def test_the_good_images_of_a_row_stay(tmp_path: Path) -> None:
    studies, account = read(tmp_path, "image,report", "a.png;a.png;/etc/b.png;c.png,Clear.", "c.jpg;d.png,Opaque.")
    assert [(study.study_id, [image.image_id for image in study.images]) for study in studies] == [("a", ["a", "c"]), ("d", ["d"])]
    assert [where for where, _ in problems(account)] == ["reports.csv, line 2"] * 2 + ["reports.csv, line 3"]


def test_a_row_without_image_is_delivered_to_be_listed(tmp_path: Path) -> None:
    studies, _ = read(tmp_path, "image,report", ",Clear.", "a.png,Clear.", ";,Opaque.")
    assert [(study.study_id, len(study.images), study.where[-6:]) for study in studies] == [
        ("", 0, "line 2"),
        ("a", 1, "line 3"),
        ("", 0, "line 4"),
    ]


def test_on_error_stop_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,report\na.png,Clear.\n../b.png,Clear.\n")
    source = TableSource(tmp_path / "t.csv", COLUMNS)
    with pytest.raises(DataError, match=r"t\.csv, line 3: the path '\.\./b\.png' leaves the image folder"):
        list(source.studies(Account(roots=source.roots, on_error="stop")))


# Cells ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "image_id", "path"),
    [
        ("a.png", "a", "a.png"),
        ("./p1//s1/a.PNG", "p1/s1/a", "p1/s1/a.PNG"),
        ("p1\\s1\\a.png", "p1/s1/a", "p1/s1/a.png"),
        ("scan.dcm.png", "scan.dcm", "scan.dcm.png"),
        ("there/upper", "there/upper", "there/upper.DCM"),
        ("there/1.2.840", "there/1.2.840", "there/1.2.840"),
        ("there/1.2.841", "there/1.2.841", "there/1.2.841.png"),
        ("there/missing", "there/missing", "there/missing"),
        ("Röntgen/胸部 1.png", "Röntgen/胸部 1", "Röntgen/胸部 1.png"),
        ("Ro\u0308ntgen.png", "Röntgen", "Ro\u0308ntgen.png"),
        ("scan (1), PA.png", "scan _28_1_29__2c_ PA", "scan (1), PA.png"),
        ("-a/.b/+c.png", "_2d_a/_2e_b/_2b_c", "-a/.b/+c.png"),
    ],
)
def test_located_image(tmp_path: Path, cell: str, image_id: str, path: str) -> None:
    (tmp_path / "there").mkdir()
    for name in ("upper.DCM", "1.2.840", "1.2.841.png"):
        (tmp_path / "there" / name).touch()
    assert locate_image(cell, tmp_path) == (image_id, tmp_path / path)
    (tmp_path / "link").symlink_to(tmp_path)
    assert locate_image(f"{tmp_path}/{path}", tmp_path / "link")[0] == image_id


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("../a.png", "leaves the image folder"),
        ("p1/../../a.png", "leaves the image folder"),
        ("p1\\..\\..\\a.png", "leaves the image folder"),
        ("/etc/passwd", "leaves the image folder"),
        ("C:\\films\\a.png", "leaves the image folder"),
        (".", "names no file"),
        ("two", "'two' may be 'two.png' or 'two.jpg'; write the suffix"),
        ("ä" * 130 + ".png", "a name of 264 bytes is too long for a file"),
        ("a/" * 600 + "a.png", "a text of 1205 characters is no path"),
        ("The lungs are clear and " * 6, "a text of 144 characters is no path"),
    ],
)
def test_refused_path(tmp_path: Path, cell: str, reason: str) -> None:
    for name in ("two.png", "two.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(CellError) as error:
        locate_image(cell, tmp_path)
    assert reason in str(error.value)


def test_splits_and_views() -> None:
    assert [read_split(word) for word in ("TRAIN", "valid", "dev", "Validation", "test")] == ["train", "val", "val", "val", "test"]
    assert read_views("ap", 2) == [("frontal", "AP")] * 2
    assert read_views("", 1) == [("", "")]
    assert read_views("Frontal | LAT", 2) == [("frontal", ""), ("lateral", "LATERAL")]


# Options ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": "", "report": "r"}, "--image-column"),
        ({"image": "i"}, "either --report-column, or both"),
        ({"image": "i", "findings": "f"}, "either --report-column, or both"),
        ({"image": "i", "report": "r", "impression": "p"}, "either --report-column, or both"),
        ({"image": "i", "report": "r", "findings": "f", "impression": "p"}, "either --report-column, or both"),
    ],
)
def test_bad_columns(columns: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TableColumns(**columns)


def test_bad_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        TableSource(tmp_path / "t.csv", COLUMNS)
    (tmp_path / "t.csv").touch()
    with pytest.raises(DataError, match="no such folder of images"):
        TableSource(tmp_path / "t.csv", COLUMNS, image_root=tmp_path / "films")
    with pytest.raises(DataError, match="must be one of as-is, summary, not 'none'"):
        TableSource(tmp_path / "t.csv", COLUMNS, text="none")


# To the prepared folder -------------------------------------------------------------------------------------------------


def prepare_table(table: Path, out: Path, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The manifest and the annotations of a table with the columns image, report and patient."""
    columns = TableColumns(image="image", report="report", group="patient")
    source = TableSource(table, columns, image_root=options.pop("image_root", None))
    manifest = prepare(source, PrepareOptions(out=out, text="as-is", views=("all",), workers=1, **options))
    return manifest, json.loads((out / "filter_cap.json").read_text(encoding="utf-8"))["annotations"]


def test_prepared_folder(tmp_path: Path) -> None:
    for seed, name in enumerate(("a.png", "b.png", "c (1).jpg", "e.png")):
        write_noise(tmp_path / "films" / name, seed=seed)
    (tmp_path / "films" / "damaged.png").write_bytes((tmp_path / "films" / "a.png").read_bytes()[:200])
    rows = [
        ["a.png", "Clear.\nNo effusion.", "p1"],
        ["b.png", "Opaque.", "p1"],
        ["c (1).jpg", "Große Masse.", "p2"],
        ["missing.png", "Clear.", "p3"],
        ["damaged.png", "Clear.", "p3"],
        ["e.png", " ", "p4"],
        ["a.png", "Again.", "p5"],
    ]
    with open(tmp_path / "reports.csv", "w", encoding="utf-8-sig", newline="") as handle:
        csv.writer(handle, delimiter=";").writerows([["image", "report", "patient"], *rows])
    manifest, annotations = prepare_table(tmp_path / "reports.csv", tmp_path / "out", image_root=tmp_path / "films")
    assert [(row["image_id"], row["caption"], row["subject_id"]) for row in annotations] == [
        ("a", "Clear. No effusion.", "p1"),
        ("b", "Opaque.", "p1"),
        ("c _28_1_29_", "Große Masse.", "p2"),
    ]
    assert annotations[0]["split"] == annotations[1]["split"]
    assert (tmp_path / "out/image/c _28_1_29_.jpg").is_file()
    told = {name: count for name, count in manifest["counts"].items() if count}
    expected = {"rows": 7, "empty text": 1, "image named twice": 1, "images missing": 1, "images unreadable": 1, "images kept": 3}
    assert told == expected
    assert next(iter(manifest["counts"])) == "rows"
    with open(tmp_path / "out/dropped.csv", encoding="utf-8", newline="") as handle:
        dropped = {row["where"]: row["reason"] for row in csv.DictReader(handle)}
    assert sorted(dropped) == [f"reports.csv, line {line}" for line in (6, 7, 8, 9)]
    assert dropped["reports.csv, line 8"] == "empty text"
    assert str(tmp_path) not in json.dumps(manifest)


def test_the_kind_of_table_does_not_change_the_result(tmp_path: Path) -> None:
    for seed in range(3):
        write_noise(tmp_path / f"{seed}.png", seed=seed)
    rows = [{"image": f"{seed}.png", "report": f"Report {seed}, with a comma.", "patient": seed} for seed in range(3)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pytest.importorskip("pyarrow.parquet").write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), tmp_path / "t.parquet")
    with open(tmp_path / "t.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    prints = {prepare_table(tmp_path / f"t.{kind}", tmp_path / kind)[0]["fingerprint"] for kind in ("csv", "jsonl", "parquet")}
    assert len(prints) == 1


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    for seed in range(2):
        write_noise(tmp_path / f"{seed}.png", seed=seed)
    (tmp_path / "t.csv").write_text("image,report,patient,split\n0.png,Clear.,p1,train\n1.png,Opaque.,p1,test\n")
    source = TableSource(tmp_path / "t.csv", TableColumns(image="image", report="report", group="patient", split="split"))
    with pytest.raises(DataError, match="subject p1: "):
        prepare(source, PrepareOptions(out=tmp_path / "out", text="as-is", views=("all",), workers=1))
