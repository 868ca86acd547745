"""Reports in XML, tables in CSV, TSV, JSON lines and Parquet, archives, texts: damage is a DataError."""

import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.preparation.made_archives import make_tgz, member
from tests.reliability.fuzzing import attempt, damaged, fuzz
from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.archive import Archive, unpack
from xraygpt.datasets.preparation.mimic_reports import open_archive
from xraygpt.datasets.preparation.mimic_tables import read_images, read_labels, read_splits
from xraygpt.datasets.preparation.openi_reports import parse_xml_report, read_projections, read_table
from xraygpt.datasets.preparation.sections import read_sections
from xraygpt.datasets.preparation.table_files import read_rows

XML = b"""<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR4"/><MedlineCitation><Abstract>
<AbstractText Label="FINDINGS">No effusion &amp; no edema.</AbstractText><AbstractText Label="IMPRESSION">Normal.</AbstractText>
</Abstract></MedlineCitation><parentImage id="CXR4_IM-2050-1001"><URL>x</URL></parentImage></eCitation>"""
LAUGHS = b'<!DOCTYPE x [<!ENTITY a "ha">%s]><eCitation><uId id="CXR4"/><AbstractText Label="FINDINGS">&j;</AbstractText></eCitation>' % (
    b"".join(b'<!ENTITY %c "%s">' % (letter, b"&%c;" % (letter - 1) * 10) for letter in b"bcdefghij")
)
ENTITIES = {
    "a billion laughs": LAUGHS,
    "one long entity many times": b'<!DOCTYPE x [<!ENTITY a "%s">]><x>%s</x>' % (b"a" * 10_000, b"&a;" * 10_000),
    "a file": b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><eCitation><uId id="&a;"/></eCitation>',
    "a parameter entity": b'<!DOCTYPE x [<!ENTITY % a SYSTEM "http://127.0.0.1:9/x.dtd"> %a;]><eCitation><uId id="CXR4"/></eCitation>',
}
CSV = (
    b'uid,projection,image,findings,impression\r\n1,Frontal,CXR1_1_IM-0001-3001,"No ""x"", y\r\nz",Normal\r\n2,Lateral,CXR2_IM-2-1,a,b\r\n'
)
JSON_LINES = b'{"uid": 1, "projection": "Frontal", "image": "x", "findings": null, "impression": ["a", "b"]}\n{"uid": 2.5}\n'
MIMIC = (
    b"dicom_id,subject_id,study_id,split,ViewPosition,Atelectasis,No Finding\n"
    b"02aa804e-bde0afdd-112c0b34-7bc16630-4e384014,10000032,50414267,train,PA,1.0,\n"
    b"174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962,10000032,53189527,test,LATERAL,,-1.0\n"
)
REPORT = """FINAL REPORT
 EXAMINATION: CHEST (PA AND LAT)
 COMPARISON: ___
 FINDINGS: The lungs are clear. No effusion.
 IMPRESSION: 1. Normal. RECOMMENDATION(S): none
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the file of each example."""
    return tmp_path_factory.mktemp("tables")


def parquet() -> bytes:
    """A small Parquet file."""
    arrow = pytest.importorskip("pyarrow")
    stream = BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(
        arrow.table({"uid": [1, 2], "findings": ["a", None], "impression": ["x", "y"]}), stream
    )
    return stream.getvalue()


@fuzz()
@given(
    content=damaged([XML, XML.replace(b"utf-8", b"utf-16"), XML.decode().replace("utf-8", "utf-16").encode("utf-16"), *ENTITIES.values()])
)
def test_xml(content: bytes) -> None:
    report = attempt(lambda: parse_xml_report(content, Path("1.xml")))
    assert report is None or report.study_id.isprintable()


@pytest.mark.parametrize(
    "content",
    [*ENTITIES.values(), b"<a>" * 100_000, b'<?xml version="1.0" encoding="hex"?><a/>'],
    ids=[*ENTITIES, "elements without end", "an unknown encoding"],
)
def test_no_entity_is_followed(content: bytes) -> None:
    assert attempt(lambda: parse_xml_report(content, Path("1.xml"))) is None


@fuzz()
@given(data=st.data())
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_tables(data: st.DataObject, suffix: str, place: Path) -> None:
    original = {".csv": CSV, ".tsv": CSV.replace(b",", b"\t"), ".jsonl": JSON_LINES}[suffix]
    path = place / f"table{suffix}"
    path.write_bytes(data.draw(damaged([original, original.decode().encode("utf-16"), b'"' * 2000, b"[" * 20_000])))
    for columns in ((), ("uid", "findings")):
        attempt(lambda columns=columns: list(read_rows(path, columns, lists=("impression",))))
        attempt(lambda columns=columns: list(read_rows(path, columns, bad_row=lambda line, reason: None)))
    attempt(lambda: list(read_table(path, Account(roots=[place]))))
    attempt(lambda: read_projections(path, Account(roots=[place])))


@fuzz()
@given(data=st.data())
def test_parquet(data: st.DataObject, place: Path) -> None:
    path = place / "table.parquet"
    path.write_bytes(data.draw(damaged([parquet()])))
    attempt(lambda: list(read_rows(path)))


@fuzz()
@given(content=damaged([MIMIC]))
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_mimic_tables(content: bytes, suffix: str, place: Path) -> None:
    path = place / f"mimic{suffix}"
    path.write_bytes(content)
    owners = {50414267: 10000032, 53189527: 10000032}
    attempt(lambda: read_images(path, Account(roots=[place]), with_views=True))
    attempt(lambda: read_splits(path, Account(roots=[place]), owners))
    attempt(lambda: read_labels(path, Account(roots=[place]), owners))


@fuzz()
@given(text=st.one_of(damaged([REPORT.encode()]).map(lambda content: content.decode(errors="replace")), st.text(max_size=300)))
def test_sections(text: str) -> None:
    attempt(lambda: read_sections(text))


def zipped() -> bytes:
    """A small archive of reports."""
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("files/p10/p10000032/s50414267.txt", REPORT)
        archive.writestr("files/../../p10/p10000032/s50414268.txt", REPORT)
    return stream.getvalue()


@fuzz()
@given(content=damaged([zipped()]))
def test_zip(content: bytes, place: Path) -> None:
    path = place / "reports.zip"
    path.write_bytes(content)

    def read_all() -> None:
        with open_archive(path) as archive:
            for subject, study in list(archive.studies(Account(roots=[place]))):
                attempt(lambda subject=subject, study=study: archive.read(subject, study))

    attempt(read_all)


@fuzz(0.5)
@given(content=damaged([make_tgz(member("xml/1.xml", XML), member("xml/2.xml", XML), member("xml/" + "a" * 200 + ".xml", b""))]))
def test_tar(content: bytes, place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tar")
    (folder / "reports.tgz").write_bytes(content)
    attempt(lambda: unpack(Archive(name="reports.tgz", folder="xml", suffixes=(".xml",)), folder))
    outside = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder / "xml" and path.name != "reports.tgz"]
    assert not outside
