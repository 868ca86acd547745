"""What need not be computed again: the language model's reading of the same beginning, and what was made of the same image.

`Q` query tokens of an image, `D_l` width of the language model, `S` image size.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xraygpt.models.sequence import IMAGE, TokenBatch

if TYPE_CHECKING:
    from transformers import Cache, DynamicCache  # imported where they are made: a configuration is read without them

_MIN_SHARED = 16  # a shorter beginning is read with each row: a pass of its own would cost more than it saves
_MIN_CONSTANT = 4  # a shorter one saves less than it costs to put its keys before those of the row


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
            return _empty_cache(), 0
        shared = min(_shared_tokens(row, ids, images), len(ids) - 1, row.keys_values.get_seq_length())
        if shared == 0:
            return _empty_cache(), 0
        row.keys_values.crop(shared - row.keys_values.get_seq_length())
        return row.keys_values, shared

    def keep(self, ids: Sequence[int], images: Tensor, keys_values: DynamicCache) -> None:
        """Keep a row: all its ids, those that were written too, of which the last need not have been read."""
        self._row = _ReadRow(list(ids), images, keys_values)


def _empty_cache() -> DynamicCache:
    from transformers import DynamicCache

    return DynamicCache()


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
        return _empty_cache(), 0
    beginnings = torch.stack([embeds[i, width - len(row) :][: shortest - 1] for i, row in enumerate(rows)])
    equal = (beginnings == beginnings[:1]).all(2).all(0).int()
    shared = int(equal.cumprod(0).sum())
    cache = _empty_cache()
    if shared < _MIN_SHARED:
        return cache, 0
    read(inputs_embeds=beginnings[:1, :shared], past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(len(rows))
    return cache, shared


class ConstantBeginning:
    """Keys and values of the tokens that every training prompt begins with, for a frozen language model: computed once a run."""

    def __init__(self) -> None:
        self._ids: Tensor | None = None
        self._of: tuple[Any, ...] = ()
        self._cache: Cache | None = None

    def forget(self) -> None:
        """The language model or the prompts change."""
        self._ids, self._of, self._cache = None, (), None

    def before(self, llm: Any, all_prompts: Callable[[], list[list[int]]], batch: TokenBatch) -> tuple[Cache | None, int]:
        """What is known of the beginning of all rows.

        Args:
            all_prompts: returns the ids of every prompt of the run, with `IMAGE` slots. The beginning ends before the first slot.
            batch: rows padded on the right, on the CPU.

        Returns:
            Keys and values of the first tokens, and their number; (None, 0) if a row begins with others, or they are too few.
        """
        if self._ids is None:
            prompts = all_prompts()
            shared = takewhile(lambda ids: len(set(ids)) == 1 and ids[0] != IMAGE, zip(*prompts, strict=False))
            self._ids = torch.tensor([ids[0] for ids in shared][: min(map(len, prompts)) - 1], dtype=torch.int64)
        length = len(self._ids)
        if length < _MIN_CONSTANT or batch.ids.shape[1] <= length:
            return None, 0
        if not ((batch.ids[:, :length] == self._ids) & ~batch.is_image[:, :length]).all():
            return None, 0
        look_up = llm.get_input_embeddings()
        device = look_up.weight.device
        autocast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
        if self._of != (of := (device, look_up.weight.dtype, autocast)):
            self._of, self._cache = of, _read_once(llm, look_up(self._ids.to(device))[None])
        return self._cache, length if self._cache is not None else 0


def _keeps_all(layer: Any) -> bool:
    """Whether a layer keeps the keys and values of every token, and nothing else."""
    from transformers.cache_utils import DynamicLayer

    return type(layer) is DynamicLayer


@functools.cache
def _constant_layer() -> Any:
    """The class of such a layer; transformers is imported when there is one."""
    from transformers.cache_utils import DynamicLayer

    class ConstantLayer(DynamicLayer):
        """Keys and values [1, H, P, D_h] that stand before those of every row, and never change."""

        def __init__(self, keys: Tensor, values: Tensor) -> None:
            super().__init__()
            self.lazy_initialization(keys, values)
            self.keys, self.values = self._beginning = keys, values

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            """[B, H, T, D_h] → [B, H, P + T, D_h]. Nothing is kept, so that a layer may be computed twice, and each batch begins anew."""
            keys, values = (each.expand(len(key_states), -1, -1, -1) for each in self._beginning)
            return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    return ConstantLayer


@torch.no_grad()
def _read_once(llm: Any, embeds: Tensor) -> Cache | None:
    """Keys and values of [1, P, D]; None if the language model keeps something else, such as the state of a recurrent layer."""
    from transformers import Cache

    layers: Any = llm.get_decoder()(inputs_embeds=embeds.detach(), use_cache=True).past_key_values.layers
    if not all(map(_keeps_all, layers)):
        return None
    return Cache(layers=[_constant_layer()(layer.keys, layer.values) for layer in layers])


class ImageCache:
    """What was made of the images that were seen last, by the content of their tensors.

    Args:
        size: most images that are kept; the one that was not asked for longest goes first.
    """

    def __init__(self, size: int = 32) -> None:
        self.size = size
        self._seen: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> ImageCache:
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
