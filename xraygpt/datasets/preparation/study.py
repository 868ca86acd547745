"""What every source delivers: studies, each with its report and its image files."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.account import Account

_SAFE_ID = re.compile(r"\w[\w.+ -]*")  # it becomes a file name


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyImage:
    """One image of a study.

    Attributes:
        image_id: the name of its file in the prepared folder, without suffix; may hold folders ("p10/0001").
        path: where it lies in the source, whether or not it exists.
        view: "frontal", "lateral", or "" if that is not known.
        view_position: the acquisition's own word, such as "PA" or "LL"; "" if it is not known.
        where: file and line that named it, "" if it is its own witness.
    """

    image_id: str
    path: Path
    view: str = ""
    view_position: str = ""
    where: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """One examination: its report and its images.

    Attributes:
        study_id: its name in the source.
        images: its images, of all views.
        where: file (and line) of its report.
        findings: that section of the report, "" if there is none.
        impression: that section of the report, "" if there is none.
        text: the whole text, for sources whose texts are kept as they are.
        subject_id: the patient, "" where the source names none.
        split: the source's own "train", "val" or "test"; "" where it names none.
        extra: more keys for the annotations, such as labels.
    """

    study_id: str
    images: tuple[StudyImage, ...]
    where: str = ""
    findings: str = ""
    impression: str = ""
    text: str = ""
    subject_id: str = ""
    split: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group_id(self) -> str:
        """What must not be divided among splits: the patient where it is known, else the study."""
        return self.subject_id or self.study_id


@dataclass(frozen=True, kw_only=True)
class About:
    """What a datasheet says of a source.

    Attributes:
        title: the collection's name.
        licence: under what conditions it may be used.
        citation: what to cite; "" if nothing is known.
        notes: sentences about its texts, marks and views.
    """

    title: str
    licence: str
    citation: str = ""
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """A download, a tree or a table that studies are read from.

    Attributes:
        name: the dataset's name in the manifest.
        about: for the datasheet.
        roots: the folders it reads.
        options: what shapes the result, for the manifest; no paths of this machine.
        unit: what `studies` delivers, as the first line of the counts calls it: "reports", "images".
        filters: names of the counts that `studies` itself may add to (drops and problems), in order, so that a 0 is shown too.
    """

    name: str
    about: About
    roots: tuple[Path, ...]
    options: Mapping[str, Any]
    unit: str
    filters: tuple[str, ...]

    def studies(self, account: Account) -> Iterator[Study]:
        """Every study, in a fixed order; what cannot be read goes to the account."""
        ...


def require_safe_id(identifier: str, where: str) -> str:
    """Return an identifier that may become a file name.

    Raises:
        DataError: it holds anything but letters, digits, spaces, ".", "_", "+" and "-", or begins with one of the marks.
    """
    if not all(_SAFE_ID.fullmatch(part) and part.strip(". ") for part in identifier.split("/")):
        raise DataError(f"{where}: {identifier!r} cannot be an identifier (letters, digits, '.', '_', '+', ' ' and '-').")
    return identifier
