"""One self-contained HTML page to look at a prepared folder: its numbers, its issues, and random images with their texts.

The page makes no request (images are data URIs, the style is inline, there is no script). Every text is escaped. It holds what the data
set holds, so it may be kept only where the data may.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from xraygpt.common.errors import DataError
from xraygpt.common.files import write_text
from xraygpt.common.printable import template_text
from xraygpt.datasets.preparation.folder_checks import Issue
from xraygpt.datasets.preparation.folder_summary import STATUSES, FolderSummary, Sample, summary_rows
from xraygpt.processors import open_image

IMAGE_SIDE = 384  # pixels of a thumbnail's longer side


@dataclass(frozen=True)
class Tile:
    """One image of the grid: its annotation, and a data URI or the reason why there is none."""

    sample: Sample
    image: str
    problem: str


def make_tile(sample: Sample, folder: Path, files: Mapping[str, str]) -> Tile:
    """Read the image of a sample; one that is missing or damaged is told on the tile.

    Args:
        sample: what to show.
        folder: the prepared folder.
        files: image_id → file, relative to `image/`.
    """
    if sample.image_id not in files:
        return Tile(sample, "", "The image is missing.")
    path = folder / "image" / files[sample.image_id]
    try:
        return Tile(sample, thumbnail(path), "")
    except DataError as error:
        return Tile(sample, "", str(error).replace(str(path), path.name))


def thumbnail(path: Path) -> str:
    """The image as a JPEG data URI, its longer side at most `IMAGE_SIDE` pixels.

    Raises:
        DataError: `open_image` cannot use the file.
    """
    image = open_image(path)
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    image.info.clear()  # nothing but pixels is written
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def write_contact_sheet(
    path: str | Path,
    *,
    title: str,
    notice: str,
    details: Mapping[str, str],
    summary: FolderSummary,
    issues: Sequence[Issue],
    tiles: Sequence[Tile],
) -> None:
    """Write the page, atomically.

    Args:
        path: where.
        title: the heading.
        notice: the words on research use.
        details: what is shown (label → text), under the heading.
        summary: the numbers.
        issues: what the checks found, worst first.
        tiles: the images to show, in this order.
    """
    environment = Environment(
        loader=PackageLoader("xraygpt.datasets.preparation"),
        autoescape=True,
        finalize=template_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = "{:,}".format
    page = environment.get_template("contact_sheet.html.jinja").render(
        title=title,
        notice=notice,
        details=details,
        summary=summary,
        rows=summary_rows(summary),
        statuses=STATUSES,
        issues=issues,
        tiles=tiles,
    )
    write_text(path, page)
