"""From prompts to texts, for evaluation, command line, page and API alike. Greedy unless asked otherwise.

`B` rows, `T` tokens of the longest prompt, `D` width of the language model, `V` size of its vocabulary.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xraygpt.models.caches import PrefixCache, read_shared_prefix
from xraygpt.models.decoding import Decoding, DecodingSettings, Read, row_seeds
from xraygpt.models.sequence import embed, pad_rows


@dataclass(frozen=True)
class GeneratedText:
    """What a model wrote in one row."""

    text: str
    """Without end symbol and special tokens."""
    token_ids: list[int]
    """As generated: the tokens of the end symbol are among them, padding behind them is not."""
    truncated: bool = False
    """Ran out of new tokens: neither the end symbol nor the end-of-text token came."""
    repeated: bool = False
    """Was ended because it repeated itself, see `xraygpt.models.decoding.repeats_itself`."""
    stopped: bool = False
    """Was ended by whoever asked for it, or is still being written."""
    log_probs: list[float] = field(default_factory=list, compare=False)
    """Natural logarithm of each token's probability, as the model has it before penalties, temperature and top_p."""


@dataclass(frozen=True)
class PromptRows:
    """Prompts as the language model reads them.

    Attributes:
        ids: of each row, with `IMAGE` slots.
        images: [number of images, Q, D], in the order of the slots.
        embeds: [B, T, D], padded on the left.
        mask: int64 [B, T].
    """

    ids: list[list[int]]
    images: Tensor
    embeds: Tensor
    mask: Tensor

    @classmethod
    def of(cls, ids: list[list[int]], images: Tensor, *, embed_tokens: Any, pad_id: int) -> "PromptRows":
        """Embed rows of ids and put the images in their slots."""
        batch = pad_rows(ids, [0] * len(ids), pad_id=pad_id, side="left")
        embeds = embed(batch, embed_tokens, images)
        return cls(ids, images, embeds, batch.attention_mask.to(embeds.device))


# Token by token ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def write_rows(
    read: Read, tokenizer: Any, prompts: PromptRows, settings: DecodingSettings, cache: PrefixCache | None = None
) -> Generator[Decoding]:
    """Write all rows together; what has been written can be seen, and rows can be stopped, after each step.

    Args:
        cache: of one row: what it has of the prompt is not read, and it gets the row at the end, or when the iterator is closed.

    Yields:
        The same object after each step.
    """
    if cache is None:
        keys_values, num_read = read_shared_prefix(read, prompts.ids, prompts.embeds)
    else:
        if len(prompts.ids) != 1:
            raise ValueError(f"A prefix cache serves one row, but {len(prompts.ids)} came.")
        keys_values, num_read = cache.take(prompts.ids[0], prompts.images)
    rest = max(map(len, prompts.ids)) - num_read
    # In a shorter row, the last positions reach back into the shared beginning: it has been read, and is masked out here.
    embeds = prompts.embeds[:, -rest:]
    lengths = torch.tensor([len(row) - num_read for row in prompts.ids], device=embeds.device)
    unread = torch.arange(rest, 0, -1, device=embeds.device) <= lengths[:, None]
    decoding = Decoding(read, tokenizer, settings, embeds, F.pad(unread.long(), (num_read, 0), value=1), keys_values)
    is_whole = True
    try:
        while not decoding.is_done:
            is_whole = False  # a step that fails half-way leaves layers of different lengths
            decoding.step()
            is_whole = True
            yield decoding
    finally:
        if cache is not None and is_whole:
            cache.keep(prompts.ids[0] + decoding.token_ids[0], prompts.images, keys_values)


def written_texts(decoding: Decoding) -> list[GeneratedText]:
    """What stands in each row."""
    texts = decoding.tokenizer.batch_decode(decoding.token_ids, skip_special_tokens=True)
    endings = [decoding.endings.get(row, "stopped") for row in range(len(texts))]
    return [
        GeneratedText(
            clean(text, decoding.settings.end_sym),
            list(ids),
            truncated=ending == "length",
            repeated=ending == "repeated",
            stopped=ending == "stopped",
            log_probs=list(log_probs),
        )
        for text, ids, ending, log_probs in zip(texts, decoding.token_ids, endings, decoding.log_probs, strict=True)
    ]


def text_so_far(tokenizer: Any, token_ids: Sequence[int], end_sym: str) -> str:
    """The text of a row that is being written, as far as later tokens will not change it.

    Space at the end, the bytes of a character that is not whole, and what may become the end symbol are held back.
    """
    text = tokenizer.decode(token_ids, skip_special_tokens=True)
    if end_sym.strip():
        text = text.split(end_sym)[0]
        begun = next((n for n in range(len(end_sym) - 1, 0, -1) if text.endswith(end_sym[:n])), 0)
        text = text[: len(text) - begun]
    return text.rstrip("\N{REPLACEMENT CHARACTER}").strip()


# Beams -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def beam_search(llm: Any, tokenizer: Any, prompts: PromptRows, settings: DecodingSettings) -> list[GeneratedText]:
    """The likeliest text that transformers' beam search finds for each row.

    Sampled beams are searched row by row, so that what a row draws depends on its seed alone.
    """
    if not settings.do_sample:
        return _search(llm, tokenizer, prompts.embeds, prompts.mask, settings)
    texts = []
    devices = [prompts.embeds.device] if prompts.embeds.is_cuda else []
    for i, seed in enumerate(row_seeds(settings.seed, len(prompts.ids))):
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            length = len(prompts.ids[i])
            texts += _search(llm, tokenizer, prompts.embeds[i : i + 1, -length:], prompts.mask[i : i + 1, -length:], settings)
    return texts


def _search(llm: Any, tokenizer: Any, embeds: Tensor, mask: Tensor, settings: DecodingSettings) -> list[GeneratedText]:
    from transformers import GenerationConfig, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

    # Not through GenerationConfig: with embeddings, transformers skips as many new tokens there as a row has padding.
    penalty = [RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)] if settings.repetition_penalty != 1.0 else []
    end_sym = settings.end_sym
    config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens,
        num_beams=settings.num_beams,
        length_penalty=settings.length_penalty,
        do_sample=settings.do_sample,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **({"top_p": settings.top_p, "temperature": settings.temperature} if settings.do_sample else {}),
        **({"stop_strings": [end_sym]} if end_sym.strip() else {}),
    )
    rows = llm.generate(
        inputs_embeds=embeds,
        attention_mask=mask,
        generation_config=config,
        logits_processor=LogitsProcessorList(penalty),
        tokenizer=tokenizer,
    )
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    return [
        GeneratedText(
            clean(text, end_sym),
            ids := _without_padding(row, tokenizer.pad_token_id),
            truncated=tokenizer.eos_token_id not in row and not (end_sym.strip() and end_sym in text),
            log_probs=log_probs[: len(ids)],
        )
        for text, row, log_probs in zip(texts, rows.tolist(), _log_probs(llm, embeds, mask, rows).tolist(), strict=True)
    ]


def _log_probs(llm: Any, embeds: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    """float32 [B, N] of the N tokens written behind prompts; what follows a row's end means nothing."""
    read = torch.cat([embeds, llm.get_input_embeddings()(rows).to(embeds.dtype)], dim=1)
    mask = F.pad(mask, (0, rows.shape[1]), value=1)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    outputs = llm(inputs_embeds=read, attention_mask=mask, position_ids=positions, logits_to_keep=rows.shape[1] + 1, use_cache=False)
    return outputs.logits[:, :-1].float().log_softmax(2).gather(2, rows[..., None]).squeeze(2)


def _without_padding(ids: list[int], pad_id: int) -> list[int]:
    length = next((i for i in range(len(ids), 0, -1) if ids[i - 1] != pad_id), 0)
    return ids[:length]


# Texts and their tokens --------------------------------------------------------------------------------------------


def clean(text: str, end_sym: str) -> str:
    """What stands before the end symbol, without surrounding space."""
    return (text.split(end_sym)[0] if end_sym.strip() else text).strip()


def tokens_of_passages(tokenizer: Any, token_ids: Sequence[int], passages: Sequence[str]) -> list[tuple[int, int]]:
    """The first and the last token, counted from 0, of each passage of a text.

    Args:
        token_ids: of the text, and of what stood around it.
        passages: not empty; they occur in the text in this order. A token that two share belongs to both.
    """
    beginnings = [tokenizer.decode(token_ids[: i + 1], skip_special_tokens=True) for i in range(len(token_ids))]
    text = beginnings[-1] if beginnings else ""
    # A character that lacks bytes is one mark: there it is begun, and not whole. Marks for one may be more than it is characters.
    begun = list(accumulate(reversed([len(beginning) for beginning in beginnings]), min))[::-1]
    whole = [len(beginning.rstrip("\N{REPLACEMENT CHARACTER}")) for beginning in beginnings[:-1]] + begun[-1:]
    spans, place = [], 0
    for passage in passages:
        start = text.index(passage, place)
        place = start + len(passage)
        spans.append((next(i for i, end in enumerate(begun) if end > start), next(i for i, end in enumerate(whole) if end >= place)))
    return spans
