"""The loop that writes rows token by token; every text comes out of it but those of beam search.

Rows are read together, padded on the left. One that has ended takes no part in later steps: its keys and values leave the cache. That,
and a cache that outlives the call, is what transformers' `generate` does not offer; its logits processors are used here.

`B` rows, `T` tokens of the longest prompt, `D` width of the language model, `V` size of its vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from xraygpt.common.errors import ConfigError
from xraygpt.common.seed import stateless_seed

if TYPE_CHECKING:
    from transformers import DynamicCache, LogitsProcessorList

Read = Callable[..., Any]
"""The language model's `forward`."""

Ending = Literal["end", "length", "repeated", "stopped"]
"""Why a row ended: end symbol or end-of-text token; no tokens left; it repeated itself; the caller stopped it."""

_REPEATS, _REPEATED_TOKENS, _LOOK_EVERY = 3, 16, 8


@dataclass(frozen=True, kw_only=True)
class DecodingSettings:
    """How texts are written. The names are those of `run.generation` and of transformers' GenerationConfig."""

    end_sym: str
    """A row ends where this string appears, or at the tokenizer's end-of-text token."""
    max_new_tokens: int = 160
    min_new_tokens: int = 1
    """Holds back the end-of-text token, not `end_sym`."""
    num_beams: int = 1
    do_sample: bool = False
    top_p: float = 0.9
    """Sampling only, as `temperature`."""
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    """Beams only."""
    stop_repeats: bool = True
    """End a row that repeats itself, see `repeats_itself`; not with beams, and not within `min_new_tokens`."""
    seed: int | Sequence[int] | None = None
    """Of sampling. A number: row r draws from (seed, r). One for each row: each draws as if it were alone with its own. None: a number
    from torch's global generator."""

    def __post_init__(self) -> None:
        seeds = [] if self.seed is None else [self.seed] if isinstance(self.seed, int) else self.seed
        wanted = [
            (self.max_new_tokens >= 1, "max_new_tokens must be at least 1", self.max_new_tokens),
            (self.min_new_tokens >= 0, "min_new_tokens must be at least 0", self.min_new_tokens),
            (self.num_beams >= 1, "num_beams must be at least 1", self.num_beams),
            (0 < self.top_p <= 1, "top_p must be above 0 and at most 1", self.top_p),
            (0 < self.temperature < math.inf, "temperature must be above 0 (greedy: do_sample=False)", self.temperature),
            (0 < self.repetition_penalty < math.inf, "repetition_penalty must be above 0", self.repetition_penalty),
            (all(seed >= 0 for seed in seeds), "seed must be at least 0", self.seed),
        ]
        if problems := [f"{rule}, got {value}" for holds, rule, value in wanted if not holds]:
            raise ConfigError(f"Generation: {'; '.join(problems)}.")


def repeats_itself(ids: Sequence[int]) -> bool:
    """True if `ids` end in one block of tokens again and again: at least 3 times, and over at least 16 tokens."""
    for size in range(1, len(ids) // _REPEATS + 1):
        length = size * max(_REPEATS, math.ceil(_REPEATED_TOKENS / size))
        if length <= len(ids) and ids[-1] == ids[-1 - size]:  # the second costs little and is rarely true
            tail = ids[-length:]
            if tail[size:] == tail[:-size]:
                return True
    return False


class EndSymbol:
    """Finds the end symbol in what a tokenizer's tokens spell, however they cut it.

    Args:
        end_sym: white space alone, or nothing, is never found.
    """

    def __init__(self, tokenizer: Any, end_sym: str) -> None:
        self.tokenizer = tokenizer
        self.end_sym = end_sym if end_sym.strip() else ""
        last = self.end_sym[-1:]
        # Only a token that has the last character can complete the symbol. A character of several bytes may be cut between tokens,
        # and space at the edge of a token may not show: there every token is looked at.
        self._last = last if last.isascii() and not last.isspace() else ""
        self._pieces: dict[int, str] = {}

    def ends(self, ids: Sequence[int]) -> bool:
        """True if the last of these tokens completes the end symbol."""
        if not self.end_sym or self._last not in self._piece(ids[-1]):
            return False
        return self.end_sym in self.tokenizer.decode(ids, skip_special_tokens=True)

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self.tokenizer.decode([token])
        return self._pieces[token]


class Decoding:
    """Rows that are being written.

    Args:
        read: the language model's forward.
        tokenizer: of the language model.
        inputs_embeds: [B, T', D], the last T' positions of the prompts: those that are not in `cache`.
        attention_mask: int64 [B, T].
        cache: keys and values of the first T - T' positions; it grows with the rows.

    Attributes:
        token_ids: the tokens of each row so far, those of the end symbol among them.
        log_probs: of each token, as the model has it before penalties, temperature and top_p.
        endings: row → why it ended.
        rows: those in which the last step wrote.
    """

    def __init__(
        self, read: Read, tokenizer: Any, settings: DecodingSettings, inputs_embeds: Tensor, attention_mask: Tensor, cache: DynamicCache
    ) -> None:
        self.read, self.tokenizer, self.settings, self.cache = read, tokenizer, settings, cache
        num_rows, device = len(inputs_embeds), inputs_embeds.device
        self.token_ids: list[list[int]] = [[] for _ in range(num_rows)]
        self.log_probs: list[list[float]] = [[] for _ in range(num_rows)]
        self.endings: dict[int, Ending] = {}
        self.end_symbol = EndSymbol(tokenizer, settings.end_sym)
        self.eos_id = tokenizer.eos_token_id
        self.processors: Any = _processors(settings, self.eos_id, device)
        self._draws = _draws(settings, num_rows).to(device) if settings.do_sample else None
        self.rows = list(range(num_rows))
        # What the next step reads, of these rows.
        self._inputs = {"inputs_embeds": inputs_embeds}
        self._mask = attention_mask.to(device)
        self._is_padded = not bool(self._mask.all())
        self._positions = (self._mask.cumsum(1) - 1).clamp_min(0)[:, -inputs_embeds.shape[1] :]
        self._written = torch.empty(num_rows, 0, dtype=torch.long, device=device)

    @property
    def is_done(self) -> bool:
        """Whether all rows have ended."""
        return len(self.endings) == len(self.token_ids)

    def stop(self, row: int) -> None:
        """End a row here."""
        self.endings.setdefault(row, "stopped")

    @torch.no_grad()
    def step(self) -> None:
        """Write one token in each row that has not ended."""
        self._leave_out_ended()
        outputs = self.read(
            **self._inputs,
            attention_mask=self._mask if self._is_padded else None,
            position_ids=self._positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = outputs.logits[:, -1].float()
        tokens = self._choose(logits)
        log_probs = logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(1)
        for row, token, log_prob in zip(self.rows, tokens.tolist(), log_probs.tolist(), strict=True):
            self.token_ids[row].append(token)
            self.log_probs[row].append(log_prob)
            if ending := self._ending_of(self.token_ids[row]):
                self.endings[row] = ending
        self._inputs = {"input_ids": tokens[:, None]}
        self._mask = F.pad(self._mask, (0, 1), value=1)
        self._positions = self._positions[:, -1:] + 1
        self._written = torch.cat([self._written, tokens[:, None]], dim=1)

    def _choose(self, logits: Tensor) -> Tensor:
        """[rows, V] → the token of each row."""
        scores = self.processors(self._written, logits)
        if self._draws is None:
            return scores.argmax(1)
        cumulated = scores.softmax(1, dtype=torch.float64).cumsum(1)
        drawn = self._draws[self.rows, self._written.shape[1], None] * cumulated[:, -1:]
        return torch.searchsorted(cumulated, drawn, right=True).squeeze(1).clamp_max(logits.shape[1] - 1)

    def _ending_of(self, ids: list[int]) -> Ending | None:
        if ids[-1] == self.eos_id or self.end_symbol.ends(ids):
            return "end"
        if len(ids) >= self.settings.max_new_tokens:
            return "length"
        looks = self.settings.stop_repeats and len(ids) % _LOOK_EVERY == 0 and len(ids) >= self.settings.min_new_tokens
        return "repeated" if looks and repeats_itself(ids) else None

    def _leave_out_ended(self) -> None:
        kept = [i for i, row in enumerate(self.rows) if row not in self.endings]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in kept]
        chosen = torch.tensor(kept, device=self._mask.device)
        self.cache.batch_select_indices(chosen)
        self._inputs = {name: value[chosen] for name, value in self._inputs.items()}
        self._mask, self._positions, self._written = self._mask[chosen], self._positions[chosen], self._written[chosen]


def _processors(settings: DecodingSettings, eos_id: int, device: torch.device) -> LogitsProcessorList:
    from transformers import (
        LogitsProcessorList,
        MinNewTokensLengthLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopPLogitsWarper,
    )

    processors = LogitsProcessorList()
    if settings.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.min_new_tokens:
        processors.append(MinNewTokensLengthLogitsProcessor(0, settings.min_new_tokens, eos_id, device=str(device)))
    if settings.do_sample:
        processors += [TemperatureLogitsWarper(float(settings.temperature)), TopPLogitsWarper(float(settings.top_p))]
    return processors


def row_seeds(seed: int | Sequence[int] | None, num_rows: int) -> list[int]:
    """The seed that each row draws from, see `DecodingSettings.seed`."""
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    if isinstance(seed, int):
        return [stateless_seed(seed, row) for row in range(num_rows)]
    if len(seed) != num_rows:
        raise ValueError(f"{len(seed)} seeds came for {num_rows} rows.")
    return [stateless_seed(each, 0) for each in seed]


def _draws(settings: DecodingSettings, num_rows: int) -> Tensor:
    """float64 [B, max_new_tokens] in [0, 1): each row's from its own generator, so that they depend on no other row."""
    generators = [torch.Generator().manual_seed(seed) for seed in row_seeds(settings.seed, num_rows)]
    return torch.stack([torch.rand(settings.max_new_tokens, generator=each, dtype=torch.float64) for each in generators])
