"""What need not be computed again: the language model's reading of the same beginning, and what was made of the same image.

`Q` query tokens of an image, `D_l` width of the language model, `S` image size.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from xraygpt.models.sequence import IMAGE

_MIN_SHARED = 16  # a shorter beginning is read with each row: a pass of its own would cost more than it saves


@dataclass(frozen=True)
class _ReadRow:
    ids: list[int]
    images: Tensor
    keys_values: DynamicCache


class PrefixCache:
    """Keys and values of the row that was read and written last, so that a longer or changed one is read only from where it differs.

    Rows are compared by their tokens and their images' embeddings: undone, edited and left-out turns need no special care. It may serve
    one row at a time: it is empty from `take` to `keep`.
    """

    def __init__(self) -> None:
        self._row: _ReadRow | None = None

    def take(self, ids: Sequence[int], images: Tensor) -> tuple[DynamicCache, int]:
        """Give away what is known of a new row.

        Args:
            ids: of its prompt, with `IMAGE` slots.
            images: [number of images, Q, D_l], in the order of the slots.

        Returns:
            Keys and values of its first tokens, and their number; the last token of the prompt is never among them.
        """
        row, self._row = self._row, None
        if row is None:
            return DynamicCache(), 0
        shared = min(_shared_tokens(row, ids, images), len(ids) - 1, row.keys_values.get_seq_length())
        if shared == 0:
            return DynamicCache(), 0
        row.keys_values.crop(shared - row.keys_values.get_seq_length())
        return row.keys_values, shared

    def keep(self, ids: Sequence[int], images: Tensor, keys_values: DynamicCache) -> None:
        """Keep a row: all its ids, those that were written too, of which the last need not have been read."""
        self._row = _ReadRow(list(ids), images, keys_values)


def _shared_tokens(row: _ReadRow, ids: Sequence[int], images: Tensor) -> int:
    """How many tokens two rows have in common at their beginning, an image's slots only if its embeddings are equal."""
    pairs = enumerate(zip(row.ids, ids, strict=False))
    shared = next((i for i, (old, new) in pairs if old != new), min(len(row.ids), len(ids)))
    different = (i for i, (old, new) in enumerate(zip(row.images, images, strict=False)) if not torch.equal(old, new))
    same_images = next(different, min(len(row.images), len(images)))
    slots = [i for i in range(shared) if ids[i] == IMAGE]
    same_slots = same_images * images.shape[1]
    return slots[same_slots] if len(slots) > same_slots else shared


def read_shared_prefix(read: Callable[..., Any], rows: Sequence[Sequence[int]], embeds: Tensor) -> tuple[DynamicCache, int]:
    """Read once what all rows begin with, if that is worth a pass of its own.

    Args:
        read: the language model's forward.
        rows: ids of each row, without padding.
        embeds: [B, T, D_l] of the rows, padded on the left.

    Returns:
        Its keys and values, for each row, and the number of its tokens; every row has at least one more.
    """
    shortest, width = min(map(len, rows)), embeds.shape[1]
    if len(rows) == 1 or shortest <= _MIN_SHARED:
        return DynamicCache(), 0
    beginnings = torch.stack([embeds[i, width - len(row) :][: shortest - 1] for i, row in enumerate(rows)])
    equal = (beginnings == beginnings[:1]).all(2).all(0).int()
    shared = int(equal.cumprod(0).sum())
    cache = DynamicCache()
    if shared < _MIN_SHARED:
        return cache, 0
    read(inputs_embeds=beginnings[:1, :shared], past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(len(rows))
    return cache, shared


class ImageCache:
    """What was made of the images that were seen last, by the content of their tensors.

    Args:
        size: most images that are kept; the one that was not asked for longest goes first.
    """

    def __init__(self, size: int = 32) -> None:
        self.size = size
        self._seen: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "ImageCache":
        return ImageCache(self.size)

    def __len__(self) -> int:
        return len(self._seen)

    def get(self, image: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """What `encode` returns for `image` [3, S, S], or returned for it earlier.

        Another thread waits meanwhile, so that no image is encoded twice.
        """
        key = hashlib.sha256(f"{image.dtype} {tuple(image.shape)}".encode() + image.cpu().contiguous().numpy().tobytes()).digest()
        with self._lock:
            if key not in self._seen:
                self._seen[key] = encode(image)
            self._seen.move_to_end(key)
            while len(self._seen) > self.size:
                self._seen.popitem(last=False)
            return self._seen[key]

    def clear(self) -> None:
        """Forget all: the weights change."""
        with self._lock:
            self._seen.clear()
