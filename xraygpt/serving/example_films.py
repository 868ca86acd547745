"""Films that the page offers to a visitor who has none at hand."""

import json
from pathlib import Path

from xraygpt.common.files import ANNOTATIONS_NAME

PHANTOMS = Path("data/phantom/openi")
"""Where the quickstart puts its phantoms, below the working directory."""

NUM_EXAMPLES = 6


def example_films() -> list[Path]:
    """Some phantoms that the quickstart's model has not seen, if they were made."""
    annotations = PHANTOMS / ANNOTATIONS_NAME
    if not annotations.is_file():
        return []
    rows = json.loads(annotations.read_text(encoding="utf-8"))["annotations"]
    unseen = [PHANTOMS / "image" / f"{row['image_id']}.png" for row in rows if row["split"] == "test"]
    return [path for path in unseen if path.is_file()][:NUM_EXAMPLES]
