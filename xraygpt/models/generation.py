"""Writing text from embeddings: batched, with per-row stop at the end symbol. Greedy unless asked otherwise.

`B` rows, `T` tokens of the longest prompt, `D` width of the language model.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, RepetitionPenaltyLogitsProcessor


@dataclass(frozen=True)
class GeneratedText:
    """What a model wrote in one row."""

    text: str
    """Without end symbol and special tokens."""
    token_ids: list[int]
    """As generated: the tokens of the end symbol are among them, padding behind them is not."""
    truncated: bool = False
    """Ran out of new tokens: neither the end symbol nor the end-of-text token came."""


def generate_texts(
    llm: Any,
    tokenizer: Any,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    *,
    end_sym: str,
    max_new_tokens: int = 160,
    min_new_tokens: int = 1,
    num_beams: int = 1,
    do_sample: bool = False,
    top_p: float = 0.9,
    temperature: float = 1.0,
    repetition_penalty: float = 1.0,
    length_penalty: float = 1.0,
    streamer: Any = None,
) -> list[GeneratedText]:
    """One text for each row, cut at `end_sym`.

    Args:
        inputs_embeds: [B, T, D], prompts padded on the left.
        attention_mask: int64 [B, T].
        end_sym: a row ends where this string appears, or at the tokenizer's end-of-text token.
        streamer: a transformers streamer, for one row.

    The other arguments are those of transformers' GenerationConfig; `top_p` and `temperature` act when sampling,
    `length_penalty` with beams. `min_new_tokens` holds back the end-of-text token, not `end_sym`.
    """
    # Not through GenerationConfig: with embeddings, transformers skips as many new tokens there as a row has padding.
    penalty = [RepetitionPenaltyLogitsProcessor(repetition_penalty)] if repetition_penalty != 1.0 else []
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        num_beams=num_beams,
        do_sample=do_sample,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **({"top_p": top_p, "temperature": temperature} if do_sample else {}),
        **({"length_penalty": length_penalty} if num_beams > 1 else {}),
        **({"stop_strings": [end_sym]} if end_sym.strip() else {}),
    )
    rows = llm.generate(
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask.to(inputs_embeds.device),
        generation_config=config,
        logits_processor=LogitsProcessorList(penalty),
        tokenizer=tokenizer,
        streamer=streamer,
    )
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    return [
        GeneratedText(
            clean(text, end_sym),
            _without_padding(row, tokenizer.pad_token_id),
            truncated=tokenizer.eos_token_id not in row and not (end_sym.strip() and end_sym in text),
        )
        for text, row in zip(texts, rows.tolist(), strict=True)
    ]


def _without_padding(ids: list[int], pad_id: int) -> list[int]:
    length = next((i for i in range(len(ids), 0, -1) if ids[i - 1] != pad_id), 0)
    return ids[:length]


def clean(text: str, end_sym: str) -> str:
    """What stands before the end symbol, without surrounding space."""
    return (text.split(end_sym)[0] if end_sym.strip() else text).strip()
