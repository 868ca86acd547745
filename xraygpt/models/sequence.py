"""From prompts and answers to the tensors that the language model reads. Pure functions; no model in here.

`B` rows, `T` tokens in the longest row, `Q` image tokens (32), `D` width of the language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xraygpt.conversation.prompts import IMAGE_PLACEHOLDER

IMAGE = -1
"""Stands in a row of token ids for one image embedding."""
IGNORE = -100
"""Label of a position that is not supervised (PyTorch's ignore_index)."""


@dataclass(frozen=True)
class TokenBatch:
    """Rows padded to one length.

    Attributes:
        ids: int64 [B, T]; the pad id where an image embedding or padding stands.
        attention_mask: int64 [B, T], 1 on real positions.
        labels: int64 [B, T]; the token to predict at the position that holds it, `IGNORE` elsewhere.
        is_image: bool [B, T], positions that an image embedding fills, in order.
    """

    ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    is_image: Tensor


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Token ids of plain text. A special token that is spelled out in the text (`</s>`) stays text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


def prompt_ids(tokenizer: Any, parts: Sequence[str], num_image_tokens: int) -> list[int]:
    """BOS, then each part tokenised on its own; `<ImageHere>` becomes `num_image_tokens` times `IMAGE`."""
    ids = [tokenizer.bos_token_id]
    for part in parts:
        ids += [IMAGE] * num_image_tokens if part == IMAGE_PLACEHOLDER else tokenize(tokenizer, part)
    return ids


def answer_ids(tokenizer: Any, text: str, end_sym: str, max_length: int) -> list[int]:
    """Token ids of `text + end_sym`, cut to `max_length`: the text loses its end, the end symbol stays whole at any length."""
    ids = tokenize(tokenizer, text + end_sym)
    if len(ids) <= max_length:
        return ids
    text_only = tokenize(tokenizer, text)
    shared = next((i for i, (a, b) in enumerate(zip(ids, text_only, strict=False)) if a != b), min(len(ids), len(text_only)))
    end = ids[shared:]
    return ids[: max(max_length - len(end), 0)] + end


@dataclass(frozen=True)
class RowLength:
    """Text and prompt seed → how many ids the row of a training sample has: those of its prompt and of `answer_ids`.

    Attributes:
        tokenizer: of the language model.
        of_prompts: ids of each prompt, of which the seed picks one.
        end_sym: ends the text.
        max_length: of the text.
    """

    tokenizer: Any
    of_prompts: Sequence[int]
    end_sym: str
    max_length: int

    def __call__(self, text: str, prompt_seed: int) -> int:
        return self.of_prompts[prompt_seed % len(self.of_prompts)] + len(answer_ids(self.tokenizer, text, self.end_sym, self.max_length))


def pad_rows(rows: Sequence[Sequence[int]], num_supervised: Sequence[int], *, pad_id: int, side: str = "right") -> TokenBatch:
    """Pad rows of ids (with `IMAGE` slots) to the longest; the last `num_supervised[i]` ids of row i are its labels.

    Training pads on the right; generation on the left, so that every row's next token stands at the same place.
    """
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad_id)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORE)
    for i, (row, supervised) in enumerate(zip(rows, num_supervised, strict=True)):
        start = length - len(row) if side == "left" else 0
        stop = start + len(row)
        ids[i, start:stop] = torch.tensor(row)
        mask[i, start:stop] = 1
        labels[i, stop - supervised : stop] = ids[i, stop - supervised : stop]
    is_image = ids == IMAGE
    return TokenBatch(ids.masked_fill(is_image, pad_id), mask, labels, is_image)


def without_padding(batch: TokenBatch, *, skip: int = 0) -> tuple[TokenBatch, list[int]]:
    """The rows one after another, as one row [1, N] without padding and without the first `skip` tokens of each; and their lengths."""
    kept = batch.attention_mask.bool()
    kept[:, :skip] = False
    parts = (each[kept][None] for each in (batch.ids, batch.attention_mask, batch.labels, batch.is_image))
    return TokenBatch(*parts), kept.sum(dim=1).tolist()


def embed(batch: TokenBatch, embed_tokens: Any, image_embeds: Tensor) -> Tensor:
    """The rows as embeddings [B, T, D]: tokens looked up, `image_embeds` [number of images, Q, D] put in their slots in order."""
    slots = int(batch.is_image.sum())
    if slots != image_embeds.shape[0] * image_embeds.shape[1]:
        raise ValueError(f"The prompts have {slots} image slots, but {tuple(image_embeds.shape[:2])} image embeddings came.")
    embeds = embed_tokens(batch.ids.to(image_embeds.device))
    where = batch.is_image.to(image_embeds.device).unsqueeze(-1)
    return embeds.masked_scatter(where, image_embeds.to(embeds.dtype))
