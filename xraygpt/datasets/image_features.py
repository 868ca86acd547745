"""Which row of a feature cache belongs to which sample: by the content of its image file, the processor, and the view."""

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xraygpt.common.errors import DataError
from xraygpt.common.files import read_small_json, sha256_file, write_json
from xraygpt.common.seed import stateless_seed
from xraygpt.datasets.feature_cache import FeatureCache, Names

_MAX_BYTES = 1 << 30
"""Of the checksums that are remembered, about 150 bytes a file."""
_SETTLED_SECONDS = 2.0
"""A file that changed within so short a time may change once more without another time of change; its checksum is not remembered."""


class FileChecksums:
    """SHA-256 of files, remembered by size and time of change, so that a file that has not changed is read once.

    Args:
        path: the JSON file that remembers; a damaged or missing one costs reading the files again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            known = read_small_json(path, max_bytes=_MAX_BYTES)
        except (OSError, ValueError):
            known = {}
        entries = known.items() if isinstance(known, dict) else ()
        self.known: dict[str, list[Any]] = {
            file: entry for file, entry in entries if isinstance(entry, list) and list(map(type, entry)) == [int, int, str]
        }

    def of(self, files: Sequence[Path | str | None]) -> list[str | None]:
        """The checksum of each file; None for one that cannot be read."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self._of, files))

    def _of(self, file: Path | str | None) -> str | None:
        if file is None:
            return None
        path = Path(file).expanduser().absolute()
        try:
            stat = path.stat()
            known = self.known.get(str(path))
            if known and known[:2] == [stat.st_size, stat.st_mtime_ns]:
                return known[2]
            checksum = sha256_file(path)
        except OSError:
            return None
        if time.time() - stat.st_mtime > _SETTLED_SECONDS:
            self.known[str(path)] = [stat.st_size, stat.st_mtime_ns, checksum]
        return checksum

    def save(self) -> None:
        """Remember."""
        write_json(self.path, self.known)


WHOLE, ALL_PIXELS = "whole", "all pixels"
"""Views of a whole image: read as a dataset does, which decodes a large JPEG at a reduced scale; and with every pixel, as asking does."""


def row_name(image_sha256: str, processor: Any, view: int | str) -> bytes:
    """The name of the row of one view: `WHOLE`, `ALL_PIXELS`, or the number of a random crop."""
    if processor.settings is None:
        raise DataError(f"{type(processor).__name__} was not built by load_processor: the feature cache does not know its settings.")
    settings = json.dumps(processor.settings, sort_keys=True, default=list)
    return hashlib.sha256(f"{image_sha256} {settings} {view}".encode()).digest()


def crop_seed(name: bytes) -> int:
    """The seed of the crop of a row: the same image, processor and view are the same crop, in every run."""
    return int.from_bytes(name[:7], "little")


class ImageFeatures:
    """The rows of a dataset's images.

    Args:
        cache: that has them, or will have them.
        checksums: SHA-256 of each sample's image file; None where there is none.
        processor: what makes the views.
        views: 1: the view of evaluation; more: so many random crops.
        only: the samples that will be asked for; None: all.

    Attributes:
        is_wanted: bool [N], the samples that will be asked for.
        names: S32 [N, views], the names of the rows; "" where there is no image.
        rows: int64 [N, views], their numbers in the cache; -1 where there is none.
    """

    def __init__(
        self, cache: FeatureCache, checksums: Sequence[str | None], processor: Any, *, views: int = 1, only: Sequence[int] | None = None
    ) -> None:
        self.cache = cache
        self.is_wanted = np.full(len(checksums), only is None)
        self.is_wanted[list(only or ())] = True
        which = [WHOLE] if views == 1 else range(views)
        rows = [[row_name(checksum, processor, view) if checksum else b"" for view in which] for checksum in checksums]
        self.names: Names = np.array(rows, dtype="S32").reshape(len(checksums), views)
        self.look()

    def look(self) -> None:
        """Find the rows in the cache as it is now."""
        self.rows = self.cache.find(self.names.ravel()).reshape(self.names.shape)

    def view_of(self, seed: int) -> int:
        """Which view a sample has: a function of the seed of its draw. Not the bits that choose its prompt."""
        views = len(self.rows[0])
        return stateless_seed(seed, views) % views if views > 1 else 0

    def read(self, index: int, seed: int) -> torch.Tensor:
        """What the query tokens read in a sample's image, [Q, D_q] in the cache's type.

        Raises:
            DataError: the image could not be used when the cache was filled, or its row is damaged.
        """
        row = int(self.rows[index, self.view_of(seed)])
        if row < 0:
            raise DataError("its image could not be read when the feature cache was filled.")
        return torch.from_numpy(self.cache.read(row))


class FilmFeatures:
    """The rows of single image files, all pixels of which are looked at; those that are new are added.

    Args:
        cache: of the model's vision parts.
        processor: as the images are processed for evaluation.
    """

    def __init__(self, cache: FeatureCache, processor: Any) -> None:
        self.cache, self.processor = cache, processor
        self._writer = cache.writer()

    @property
    def key(self) -> str:
        """Names the vision parts."""
        return self.cache.key

    def name_of(self, path: Path) -> bytes:
        """The name of an image file's row."""
        return row_name(sha256_file(path), self.processor, ALL_PIXELS)

    def find(self, name: bytes) -> torch.Tensor | None:
        """The row, float32 [Q, D_q]; None if there is none."""
        (row,) = self.cache.find(np.array([name], dtype="S32"))
        return None if row < 0 else torch.from_numpy(self.cache.read(int(row))).float()

    def keep(self, names: Sequence[bytes], queries: Sequence[torch.Tensor]) -> None:
        """Add rows, which are safe after `close`, and but for the last few hundred before."""
        self._writer.add(names, torch.stack(list(queries)).float().cpu().numpy())

    def close(self) -> None:
        """Make what was added safe."""
        self._writer.close()
