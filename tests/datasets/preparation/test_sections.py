"""The sections of reports as they are really written, one worked case a habit."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xraygpt.datasets.preparation.sections import ReportSections, find_sections, read_sections

RULE = "_" * 78


def test_the_published_example_comes_out_as_published(test_data: Path) -> None:
    folder = test_data / "mimic_format"
    expected = json.loads((folder / "s_example.sections.json").read_text())
    sections = find_sections((folder / "s_example.txt").read_text())
    assert [section.name for section in sections] == expected["section_names"]
    assert [section.text for section in sections] == expected["sections"]
    assert [section.start for section in sections] == expected["section_idx"]


def test_text_and_start_of_the_published_layout() -> None:
    report = "   FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n FINDINGS: \n \n Clear lungs.\n \n IMPRESSION: \n \n Normal chest.\n"
    found = [(section.name, section.text, section.start) for section in find_sections(report)]
    assert found == [
        ("preamble", "   FINAL REPORT\n ", 0),
        ("examination", " CHEST (PA AND LAT)\n ", 30),
        ("findings", "\n \n Clear lungs.\n ", 63),
        ("impression", "\n \n Normal chest.\n", 95),
    ]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        # the chief headings, and where they may stand
        ("FINDINGS: Clear.", ["findings"]),
        (" FINDINGS :  Clear.", ["preamble", "findings"]),
        ("FINDINGS:\nClear.\nIMPRESSION:\nNormal.", ["findings", "impression"]),
        ("FINDINGS: Clear.\r\n\r\nIMPRESSION: Normal.\r\n", ["findings", "impression"]),
        ("FINDINGS\n Clear.\n\n IMPRESSION\n Normal.", ["findings", "impression"]),
        ("Findings\nClear.\nImpression \nNormal.", ["findings", "impression"]),
        ("Findings: Clear.\nImpression: Normal.", ["findings", "impression"]),
        ("IMPRESSION No acute disease.", ["impression"]),
        ("IMPRESSION  1. No acute disease.", ["impression"]),
        ("FINDINGS. The lungs are clear.\n IMPRESSION. Normal.", ["findings", "impression"]),
        ("COMPARISON: None. FINDINGS: The heart is normal. IMPRESSION: Normal.", ["comparison", "findings", "impression"]),
        ("COMPARISON: ___ FINDINGS: The heart is normal.", ["comparison", "findings"]),
        ("INDICATION: Cough  // pneumonia?  COMPARISON: None", ["indication", "comparison"]),
        ("Comparison: None. Findings: The heart is normal.", ["comparison", "findings"]),
        ("FINDINGS: Clear. RECOMMENDATION(S): Repeat in six weeks.", ["findings", "recommendation"]),
        # other names of theirs
        ("HISTORY: Cough.\n CONCLUSION: Normal.", ["indication", "impression"]),
        ("CLINICAL INFORMATION: Cough.\n SUMMARY: Normal.", ["indication", "impression"]),
        ("REASON FOR EXAM: Cough.\n EXAM: Chest.\n TECHNIQUE: Two views.", ["indication", "examination", "technique"]),
        ("REASON FOR THIS EXAMINATION: Cough.", ["indication"]),
        ("CLINICAL HISTORY/INDICATION: Cough.", ["indication"]),
        ("UNDERLYING MEDICAL CONDITION: Asthma.", ["indication"]),
        ("TYPE OF EXAMINATION: Chest.", ["examination"]),
        ("STUDY: Chest.\n COMPARISONS: None.\n REPORT: Clear lungs.", ["examination", "comparison", "findings"]),
        ("FINDINGS/IMPRESSION: Normal.", ["findings/impression"]),
        ("FINDINGS AND IMPRESSION:\n Normal.", ["findings/impression"]),
        ("IMPRESSION & FINDINGS: Normal.", ["findings/impression"]),
        ("FINDINGS (PORTABLE): Clear.", ["findings"]),
        ("FIDNINGS: Clear.\n IMPRSSION: Normal.", ["findings", "impression"]),
        ("IMPRESSION: Normal.\n NOTIFICATION: By telephone.", ["impression", "notification"]),
        ("IMPRESSION: Normal.\n COMMUNICATION: By telephone.", ["impression", "notification"]),
        # the name of the film instead of a heading
        (
            "FRONTAL AND LATERAL VIEWS OF THE CHEST: The heart is normal and the lungs are clear.\n IMPRESSION: Normal.",
            ["findings", "impression"],
        ),
        ("PORTABLE AP CHEST RADIOGRAPH: ___\n FINDINGS: Clear.", ["examination", "findings"]),
        ("IMPRESSION:\n AP CHEST:  No pneumothorax is seen after the chest tube was removed.", ["impression"]),
        # preamble, wet read, addendum
        ("                FINAL REPORT\n CHEST RADIOGRAPH\n\n FINDINGS: Clear.", ["preamble", "findings"]),
        (f"WET READ: ___ ___ 3:10 PM\n  Clear.\n{RULE}\n   FINAL REPORT\n FINDINGS: Clear.", ["wet read", "preamble", "findings"]),
        (
            "WET READ VERSION #1 ___ ___ ___ 1:20 AM\n  FINDINGS: Clear.\n   FINAL REPORT\n FINDINGS: Haze.",
            ["wet read", "preamble", "findings"],
        ),
        (
            "      WET READ VERSION #2 ___ 1:20 AM\n Clear.\n FINAL REPORT\n FINDINGS: Haze.",
            ["preamble", "wet read", "preamble", "findings"],
        ),
        ("WET READ: Clear.\n HISTORY: Cough.\n FINDINGS: Haze.", ["wet read", "indication", "findings"]),
        (
            "PROVISIONAL FINDINGS IMPRESSION (PFI): ___ 9:02 PM\n Clear.\n FINAL REPORT\n IMPRESSION: Normal.",
            ["wet read", "preamble", "impression"],
        ),
        ("FINAL ADDENDUM\n ADDENDUM: Discussed.\n FINAL REPORT\n IMPRESSION: Normal.", ["addendum", "addendum", "preamble", "impression"]),
        ("FINAL REPORT\n ADDENDUM  A nodule.\n FINAL REPORT\n FINDINGS: Clear.", ["preamble", "addendum", "preamble", "findings"]),
        (
            "FINDINGS: Clear.\n IMPRESSION: Normal.\n ADDENDUM: IMPRESSION: Nodule.\n FINDINGS: Nodule.",
            ["findings", "impression", "addendum"],
        ),
        # what is no heading
        ("", []),
        ("The heart is normal. Findings are as above.", ["preamble"]),
        ("FINDINGS: AP: clear.\n NOTE: motion.\n LUNGS: clear.\n HEART: normal.\n ET TUBE: above the carina.", ["findings"]),
        ("FINDINGS: There are two findings: haze\n and an effusion. In comparison: none.", ["findings"]),
        ("FINDINGS: Radiographic\n findings\n suggest edema.", ["findings"]),
        ("FINDINGS: Right lung: clear.\n Left lung: clear.\n Report: none.", ["findings"]),
        ("INDICATION: Seen at 3:10 PM.\n AT 3:10 PM A FILM WAS TAKEN.", ["indication"]),
        ("IMPRESSION: NO SIGNIFICANT FINDINGS.", ["impression"]),
        ("IMPRESSION: NO SIGNIFICANT\n FINDINGS.\n NO EFFUSION.", ["impression"]),
    ],
)
def test_names(report: str, expected: list[str]) -> None:
    assert [section.name for section in find_sections(report)] == expected


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("INDICATION: Cough.\n TECHNIQUE: PA.\n COMPARISON: None.\n FINDINGS: Clear\n lungs.\n IMPRESSION: 1. Normal.",
         {"indication": "Cough.", "technique": "PA.", "comparison": "None.", "findings": "Clear lungs.", "impression": "1. Normal."}),
        ("IMPRESSION:  AP chest compared to ___:\n \n Small effusion.", {"impression": "AP chest compared to ___: Small effusion."}),
        ("FINDINGS: One.\n FINDINGS: Two.\n IMPRESSION: Three.", {"findings": "One. Two.", "impression": "Three."}),
        ("PA CHEST: The heart is normal in size and shape.\n FINDINGS: B.", {"findings": "The heart is normal in size and shape. B."}),
        # a block of both is both, unless one of them stands alone as well
        ("FINDINGS/IMPRESSION: Clear lungs.", {"findings": "Clear lungs.", "impression": "Clear lungs."}),
        ("FINDINGS AND IMPRESSION: Haze.\n IMPRESSION: Edema.", {"findings": "Haze.", "impression": "Edema."}),
        # first readings and later additions are not the report
        (f"WET READ: ___ 3:10 PM\n No edema.\n {RULE}\n FINAL REPORT\n FINDINGS: Haze.\n IMPRESSION: Edema.",
         {"findings": "Haze.", "impression": "Edema."}),
        ("ADDENDUM: Told.\n FINAL REPORT\n FINDINGS: Haze.\n IMPRESSION: Edema.", {"findings": "Haze.", "impression": "Edema."}),
        ("ADDENDUM: IMPRESSION: Nodule.\n FINAL REPORT\n IMPRESSION: Edema.", {"impression": "Edema."}),
        ("IMPRESSION: Edema.\n ADDENDUM: After review, a nodule.", {"impression": "Edema."}),
        (f"IMPRESSION: Edema.\n {RULE}\n ", {"impression": "Edema."}),
        # nothing tells what a text without headings is
        ("The heart is enlarged. No effusion.", {}),
        ("FINAL REPORT\n Portable chest. The heart is enlarged.", {}),
        ("IMPRESSION: Normal.\n RECOMMENDATION: Repeat.\n NOTIFICATION: Told.", {"impression": "Normal."}),
    ],
)  # fmt: skip
def test_read_sections(report: str, expected: dict[str, str]) -> None:
    nothing = dict.fromkeys(("findings", "impression", "indication", "comparison", "technique"), "")
    assert read_sections(report) == ReportSections(**(nothing | expected))


PIECES = [
    "FINDINGS",
    "IMPRESSION:",
    "WET READ",
    "FINAL REPORT",
    "COMPARISON: None. ",
    "AP:",
    "A",
    "a.",
    ":",
    " ",
    "\n",
    "___",
    "PA AND LATERAL CHEST:",
]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=300))
def test_every_section_is_where_it_says(report: str) -> None:
    sections = find_sections(report)
    assert all(report[section.start : section.start + len(section.text)] == section.text for section in sections)
    ends = [section.start + len(section.text) for section in sections]
    assert all(end <= following.start for end, following in zip(ends, sections[1:], strict=False))
    assert find_sections(report) == sections


@pytest.mark.parametrize(
    "piece",
    [" ", "\n", " \n", "A", "A ", "_", "___ ", "FINDINGS", "FINDINGS ", "FINDINGS: ", "\nFINDINGS: ", "Findings\n", "PA AND ", "PA, CHEST",
     "WET READ ", "\nWET READ: a", "\nFINAL REPORT", "CLINICAL ", "REASON FOR ", "a: ", "((", "\t\r\n"],
)  # fmt: skip
def test_long_odd_texts_return(piece: str) -> None:
    report = piece * (100_000 // len(piece))
    assert sum(len(section.text) for section in find_sections(report)) <= len(report)
    assert read_sections(report) == read_sections(report)
