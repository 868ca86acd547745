"""Which split a study belongs to: a function of its identifier alone.

The same study is in the same split whatever else is prepared with it, in whatever order, on whatever machine, and all images of a study
(of a subject, where the data name subjects) stay together.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from xraygpt.common.errors import DataError

SPLITS = ("train", "val", "test")
VAL_PERCENT = 10
TEST_PERCENT = 10


def split_of(group_id: str) -> str:
    """Return "train" (80 % of the groups), "val" (10 %) or "test" (10 %) for a study or subject identifier.

    The percentile is the first 8 bytes of the identifier's SHA-256, modulo 100.
    """
    percentile = int.from_bytes(hashlib.sha256(group_id.encode()).digest()[:8], "big") % 100
    if percentile < TEST_PERCENT:
        return "test"
    return "val" if percentile < TEST_PERCENT + VAL_PERCENT else "train"


def divided_groups(annotations: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Subjects, and studies, that stand in more than one split: "subject 17" → ["train", "test"]."""
    first: dict[str, dict[str, str]] = {"subject_id": {}, "study_id": {}}  # a set for each group would take ten times the memory
    found: dict[str, set[str]] = {}
    for annotation in annotations:
        if not (split := annotation.get("split")):
            continue
        for key, of_group in first.items():
            if (name := annotation.get(key)) and (before := of_group.setdefault(str(name), split)) != split:
                found.setdefault(f"{key.removesuffix('_id')} {name}", {before}).add(split)
    return {group: sorted(splits) for group, splits in found.items()}


def leakage(annotations: Iterable[Mapping[str, Any]], where: str) -> str:
    """Which subjects or studies stand in more than one split, in words; "" if none does."""
    divided = divided_groups(annotations)
    if not divided:
        return ""
    examples = "\n  ".join(f"{group}: {', '.join(splits)}" for group, splits in list(divided.items())[:10])
    return (
        f"{where}: {len(divided)} subjects or studies stand in more than one split, so that what is tested would have been trained "
        f"on:\n  {examples}\nGive all images of a subject the same split."
    )


def require_no_leakage(annotations: Iterable[Mapping[str, Any]], where: str) -> None:
    """Refuse annotations in which a subject or a study stands in more than one split.

    Raises:
        DataError: names the first of them.
    """
    if words := leakage(annotations, where):
        raise DataError(words)
