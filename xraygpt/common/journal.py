"""Reports that are finished, on disk while others are written: an interrupted evaluation or `xraygpt generate` continues where it stood.

Each rank appends to a file of its own, `.predictions.rank{r}.jsonl`:

    {"journal": {what decides the reports}}        first line
    {"id", "report", …}                            one line a finished sample

All files are read at the start, so another number of ranks continues as well.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xraygpt.common.dist_utils import broadcast_object, get_rank, is_main_process
from xraygpt.common.errors import DataError
from xraygpt.common.files import make_folder, private, write_text
from xraygpt.common.printable import json_text

logger = logging.getLogger(__name__)

_PATTERN = ".predictions.rank*.jsonl"

Row = dict[str, Any]


class Journal:
    """The finished samples of one run. Every rank makes one, at the same time.

    Reports of another identity are never mixed in and never deleted: their file gets a name under which they can be found again.

    Args:
        folder: where the files lie.
        identity: all that decides the reports, by name; plain values.

    Attributes:
        rows: id → row of each sample that earlier runs finished.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        header: Row = json.loads(json.dumps({"journal": dict(identity)}))
        self.rows: dict[str, Row] = broadcast_object(self._recover(header) if is_main_process() else None)
        if self.rows:
            logger.info("%d reports were finished before and are kept (%s).", len(self.rows), folder / _PATTERN)
        path = folder / _PATTERN.replace("*", str(get_rank()))
        is_new = not path.exists()
        self._file = open(path, "a", encoding="utf-8", opener=private)  # noqa: SIM115  open as long as the journal is
        if is_new:
            self._append([header])

    def write(self, rows: Iterable[Row]) -> None:
        """Add finished samples; they survive the end of this process, however it comes."""
        self._append(rows)

    def _append(self, rows: Iterable[Row]) -> None:
        self._file.write("".join(json_text(row) + "\n" for row in rows))
        self._file.flush()

    def close(self) -> None:
        """Write no more."""
        self._file.close()

    def remove(self) -> None:
        """Delete the files of all ranks: what they hold is stored elsewhere."""
        for path in self.folder.glob(_PATTERN):
            path.unlink()

    def _recover(self, header: Row) -> dict[str, Row]:
        """The rows of every file with this header; files with another one are set aside."""
        make_folder(self.folder)
        rows: dict[str, Row] = {}
        for path in sorted(self.folder.glob(_PATTERN)):
            found = _read_whole_lines(path)
            if not found:
                path.unlink()
            elif found[0] != header:
                self._set_aside(path, found[0], header)
            else:
                rows |= {row["id"]: row for row in found[1:]}
        return rows

    def _set_aside(self, path: Path, stored: Row, header: Row) -> None:
        number = next(n for n in range(1, 10**6) if not (self.folder / f"unfinished-{n}.jsonl").exists())
        kept = path.rename(self.folder / f"unfinished-{number}.jsonl")
        there, here = stored.get("journal", {}), header["journal"]
        different = ", ".join(name for name in {**there, **here} if there.get(name) != here.get(name))
        logger.warning(
            "%s holds reports of an unfinished run that differs from this one in: %s. They are not used; they are now in %s.",
            path, different, kept,
        )  # fmt: skip


def _read_whole_lines(path: Path) -> list[Row]:
    """The rows of a file. A last line that was cut short is removed from it, so that the next one does not continue it."""
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_text(path, whole)
    rows = []
    for number, line in enumerate(whole.split("\n")[:-1], start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON, the file is damaged. Delete it to write its reports again.") from error
    return rows


def weights_sha256(model: nn.Module) -> str:
    """One hash over the names, types, shapes and values of all parameters and buffers, frozen ones too."""
    digest = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
