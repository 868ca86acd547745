"""Images without reports, for generation: a folder that is searched whole, or one file.

An image is a file with an image's suffix, or a DICOM file of any name; hidden files and folders are passed over, other files are counted.
Each image is a study of its own, called by its path below the folder, without suffix (`image_names`).

The name of a DICOM file may be the patient's. Identifiers go further than the files, into generated reports, so DICOM files are called
`image_000001` and so on, by their place among all images in the order of their paths; `sources.csv` says which is which.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.common.printable import utf8_name
from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.image_files import IMAGE_SUFFIXES, walk_files
from xraygpt.datasets.preparation.image_names import image_id_of
from xraygpt.datasets.preparation.study import About, Study, StudyImage
from xraygpt.processors.dicom_io import is_dicom

NAMES = ("auto", "keep", "number")

ABOUT = About(
    title="Images without reports",
    licence="that of the images",
    notes=(
        "Without texts: for generation, not for training.",
        "`sources.csv` leads from an identifier back to the file. File names may hold patient data: do not pass it on.",
    ),
)

_DICOM_SUFFIXES = (".dcm", ".dicom")
_DICOM_INDEX = "DICOMDIR"  # DICOM, but a table of contents
_SIGNATURE_BYTES = 132


class ImageFolderSource:
    """The images of a folder.

    Args:
        root: a folder, or one file.
        names: "auto": DICOM files get numbers, others keep their names; "keep": all keep them; "number": all get numbers.

    Raises:
        DataError: there is no such folder or file, or no such way to name.
    """

    name = "images"
    about = ABOUT
    unit = "images"
    filters: tuple[str, ...] = ("other files", "names not usable", "image named twice")

    def __init__(self, root: Path, *, names: str = "auto") -> None:
        if names not in NAMES:
            raise DataError(f"names must be one of {', '.join(NAMES)}, not {names!r}.")
        self.source = Path(os.path.abspath(root))
        if not self.source.exists():
            raise DataError(f"{self.source}: there is no such folder or file.")
        self.root = self.source if self.source.is_dir() else self.source.parent
        self.roots: tuple[Path, ...] = (self.root,)
        self.names = names
        self.options: Mapping[str, Any] = {"names": names}

    def studies(self, account: Account) -> Iterator[Study]:
        """One study for each image, in the order of the paths."""
        taken: dict[str, Path] = {}
        for number, (path, dicom) in enumerate(self._images(account), start=1):
            try:
                relative = path.relative_to(self.root)
                _require_utf8(relative)
                numbered = self.names == "number" or (self.names == "auto" and dicom)
                image_id = f"image_{number:06d}" if numbered else image_id_of(relative.as_posix())
            except DataError as error:
                _skip(account, "names not usable", path, str(error))
                continue
            if image_id in taken:
                reason = f"would be called {image_id!r}, as {taken[image_id]} is. Rename one of them, or let all be numbered"
                _skip(account, "image named twice", path, reason)
                continue
            taken[image_id] = path
            yield Study(study_id=image_id, images=(StudyImage(image_id=image_id, path=path),))

    def _images(self, account: Account) -> Iterator[tuple[Path, bool]]:
        """Each image, and whether it is DICOM."""
        if self.source != self.root:
            yield self.source, _is_dicom_file(self.source)  # it was asked for: if it is no image, the reason is told
            return
        for path in sorted(walk_files(self.root)):
            dicom = _is_dicom_file(path)
            if path.suffix.lower() in IMAGE_SUFFIXES or (dicom and path.name != _DICOM_INDEX):
                yield path, dicom
            else:
                account.count("other files")


def _is_dicom_file(path: Path) -> bool:
    """Whether a file is DICOM, by suffix or content. One that cannot be read may be; why it cannot is told when it is opened."""
    if path.suffix.lower() in _DICOM_SUFFIXES:
        return True
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as handle:
            return is_dicom(handle.read(_SIGNATURE_BYTES))
    except OSError:
        return True


def _require_utf8(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError("the name is not UTF-8; rename it") from error


def _skip(account: Account, name: str, path: Path, reason: str) -> None:
    account.problem(name, f"{utf8_name(path)}: {reason}.", kind="image", where=account.relative_name(path))
