"""One self-contained HTML page: the scores, the baseline beside them, and cases to look at.

The page makes no request (images are data URIs, the style is inline, there is no script), so that it can be mailed or opened
years later. Every text is escaped.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.common.files import write_text
from xraygpt.evaluation.labels import SCORED_FINDINGS, findings_present
from xraygpt.evaluation.scorecard import Scorecard, Truth, number, places_of, summary_rows

NOTICE = "For research only. Not a medical device; not for diagnosis."
IMAGE_SIDE = 512  # pixels of an embedded image's longer side
OUTCOMES = ("missed", "false", "wrong side", "found")  # worst first


@dataclass(frozen=True)
class Case:
    """One study of the page: its image (None: no image is shown), the two reports, and the true findings."""

    id: str
    image: Path | None
    reference: str
    prediction: str
    truth: Sequence[Truth]


class Chip(NamedTuple):
    """How one finding of a case came out: `outcome` is one of `OUTCOMES`, `label` says what and where."""

    outcome: str
    label: str


def compare_case(case: Case) -> list[Chip]:
    """True findings against those that the generated report states, worst first; empty when both are normal."""
    truth = places_of(case.truth, case.id)
    stated = {name: (item.side, item.zone) for name, item in findings_present(case.prediction).items()}
    chips = []
    for name in SCORED_FINDINGS:
        if name in truth and name not in stated:
            chips.append(Chip("missed", _label(name, truth[name])))
        elif name in stated and name not in truth:
            chips.append(Chip("false", _label(name, stated[name])))
        elif name in truth and _wrong_side(truth[name][0], stated[name][0]):
            chips.append(Chip("wrong side", f"{_label(name, truth[name])}, stated: {stated[name][0] or 'no side'}"))
        elif name in truth:
            chips.append(Chip("found", _label(name, truth[name])))
    return sorted(chips, key=lambda chip: OUTCOMES.index(chip.outcome))


def num_errors(case: Case) -> int:
    """How many findings of the case were missed, stated falsely, or put on the wrong side."""
    return sum(chip.outcome != "found" for chip in compare_case(case))


def write_report_page(path: str | Path, *, card: Scorecard, cases: Sequence[Case], title: str, details: Mapping[str, str]) -> None:
    """Write the page.

    Args:
        path: where; written atomically.
        card: the scores, shown beside the always-normal baseline.
        cases: the studies to show, in this order; images are embedded as JPEGs of at most `IMAGE_SIDE` pixels.
        title: the heading.
        details: what was scored (label -> text), shown under the heading.

    Raises:
        DataError: an image cannot be read.
    """
    environment = Environment(
        loader=PackageLoader("xraygpt.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    shown = [{"case": case, "image": case.image and image_data_uri(case.image), "chips": compare_case(case)} for case in cases]
    page = environment.get_template("report.html.jinja").render(
        title=title, notice=NOTICE, details=details, card=card, summary=summary_rows(card), cases=shown, words=_words
    )
    write_text(path, page)


def image_data_uri(path: Path) -> str:
    """The image as a grey JPEG data URI, its longer side at most `IMAGE_SIDE` pixels; 16-bit images are scaled to 8 bits."""
    try:
        with Image.open(path) as image:
            eight_bit = image.point(lambda value: value * (1 / 256)) if image.mode.startswith("I") else image
            grey = eight_bit.convert("L")
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: the image cannot be read ({error}).") from error
    grey.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    buffer = io.BytesIO()
    grey.save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _wrong_side(true: str, stated: str) -> bool:
    """A true finding on one side must be stated there; a bilateral one may be stated without a side, not on one side."""
    return stated != true if true in ("left", "right") else true == "bilateral" and stated in ("left", "right")


def _label(finding: str, place: tuple[str, str]) -> str:
    return " ".join(part for part in (*place, _words(finding)) if part)


def _words(name: str) -> str:
    return "endotracheal tube" if name == "tube" else name.replace("_", " ")
