"""The loop that writes rows: when a row ends, what it draws, and that ended rows cost nothing."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from xraygpt.common.errors import ConfigError
from xraygpt.models.decoding import Decoding, DecodingSettings, EndSymbol, repeats_itself

EOS, NUM_TOKENS = 2, 40


class Spelling:
    """A tokenizer whose tokens spell what they are given; token 2 is the end of text."""

    eos_token_id = EOS

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = dict(enumerate(pieces, start=10))

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return b"".join(self.pieces.get(token, b"") for token in ids).decode(errors="replace")


def decode(next_token: dict[int, int], first: list[int], *pieces: bytes, **settings: Any) -> Decoding:
    """Rows that begin with the tokens `first` and go on by the table; tokens that are not in it are followed by themselves."""

    def read(**inputs: Any) -> Any:
        if "input_ids" in inputs:
            following = [next_token.get(token, token) for token in inputs["input_ids"][:, 0].tolist()]
        else:
            following = inputs["inputs_embeds"][:, -1, 0].long().tolist()
        num_rows_read.append(len(following))
        return SimpleNamespace(logits=10.0 * torch.nn.functional.one_hot(torch.tensor(following), NUM_TOKENS)[:, None])

    num_rows_read: list[int] = []
    embeds = torch.tensor(first, dtype=torch.float32)[:, None, None].expand(-1, 3, 1)
    chosen = DecodingSettings(**{"end_sym": "###", **settings})
    decoding = Decoding(read, Spelling(*pieces), chosen, embeds, torch.ones(len(first), 3, dtype=torch.long), DynamicCache())
    while not decoding.is_done:
        decoding.step()
    decoding.num_rows_read = num_rows_read  # type: ignore[attr-defined]
    return decoding


def test_rows_end_for_their_own_reasons_and_are_not_read_after_it() -> None:
    table = {20: 21, 21: EOS, 22: 23, 23: 24, 24: 25, 25: 26, 26: 27, 27: 28, 28: 29}
    decoding = decode(table, [20, 21, 22, 10], b"#", max_new_tokens=6)
    assert decoding.token_ids == [[20, 21, EOS], [21, EOS], [22, 23, 24, 25, 26, 27], [10, 10, 10]]
    assert decoding.endings == {0: "end", 1: "end", 2: "length", 3: "end"}
    assert decoding.num_rows_read == [4, 4, 3, 1, 1, 1]  # type: ignore[attr-defined]


def test_a_row_that_repeats_itself_is_ended() -> None:
    loop = {20: 21, 21: 22, 22: 23, 23: 24, 24: 25, 25: 20}
    assert decode(loop, [20, 30], max_new_tokens=60).endings == {0: "repeated", 1: "repeated"}
    assert [len(row) for row in decode(loop, [20, 30], max_new_tokens=60).token_ids] == [24, 16]
    assert decode(loop, [20], max_new_tokens=60, stop_repeats=False).endings == {0: "length"}
    assert len(decode(loop, [20], max_new_tokens=60, min_new_tokens=40).token_ids[0]) == 40


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([5] * 16, True),
        ([5] * 15, False),
        ([9, 8, *[1, 2, 3, 4] * 4], True),
        ([1, 2, 3, 4] * 3, False),
        (list(range(10)) * 3, True),
        ([7, *list(range(10)) * 3], True),
        (list(range(10)) * 2 + list(range(9)), False),
        (list(range(10)) * 2 + [0, 1, 2, 3, 4, 5, 6, 7, 8, 10], False),
        ([], False),
    ],
)
def test_repeats_itself(ids: list[int], expected: bool) -> None:
    assert repeats_itself(ids) == expected


@pytest.mark.parametrize(
    ("end_sym", "pieces", "ends_at"),
    [
        ("###", [b"a", b"#", b"#", b"#"], 4),
        ("###", [b"a ##", b"# b", b"###"], 2),
        ("###", [b"#", b" ##", b"b"], None),
        ("END ", [b"EN", b"D", b" x"], 3),
        ("é", [b"a\xc3", b"\xa9"], 2),
        ("\n", [b"a", b"\n"], None),
        ("", [b"a"], None),
    ],
)
def test_the_end_symbol_is_found_however_it_is_cut(end_sym: str, pieces: list[bytes], ends_at: int | None) -> None:
    symbol = EndSymbol(Spelling(*pieces), end_sym)
    ids = list(range(10, 10 + len(pieces)))
    assert next((n for n in range(1, len(ids) + 1) if symbol.ends(ids[:n])), None) == ends_at


def test_min_new_tokens_holds_back_the_end_of_text() -> None:
    assert EOS not in decode({}, [EOS], max_new_tokens=5, min_new_tokens=3).token_ids[0][:3]


def test_a_stopped_row_lets_the_others_go_on() -> None:
    def read(**inputs: Any) -> Any:
        rows = len(next(iter(value for name, value in inputs.items() if name in ("input_ids", "inputs_embeds"))))
        return SimpleNamespace(logits=torch.arange(NUM_TOKENS, dtype=torch.float32).expand(rows, 1, -1))

    mask = torch.ones(2, 1, dtype=torch.long)
    decoding = Decoding(read, Spelling(), DecodingSettings(end_sym="#", max_new_tokens=3), torch.zeros(2, 1, 1), mask, DynamicCache())
    decoding.step()
    decoding.stop(0)
    while not decoding.is_done:
        decoding.step()
    assert [len(row) for row in decoding.token_ids] == [1, 3]
    assert decoding.endings == {0: "stopped", 1: "length"}


def test_drawn_tokens_have_the_frequencies_of_their_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])

    def read(**inputs: Any) -> Any:
        return SimpleNamespace(logits=probabilities.log().expand(4000, 1, -1))

    def shares(**settings: Any) -> torch.Tensor:
        chosen = DecodingSettings(end_sym="#", max_new_tokens=1, min_new_tokens=0, do_sample=True, seed=3, **settings)
        mask = torch.ones(4000, 1, dtype=torch.long)
        decoding = Decoding(read, Spelling(), chosen, torch.zeros(4000, 1, 1), mask, DynamicCache())
        decoding.step()
        return torch.tensor(decoding.token_ids).flatten().bincount(minlength=4) / 4000

    assert torch.allclose(shares(top_p=1.0), probabilities, atol=0.03)
    assert torch.allclose(shares(top_p=0.7), torch.tensor([0.625, 0.375, 0, 0]), atol=0.03)
    assert shares(temperature=0.01)[0] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"max_new_tokens": 0, "num_beams": 0}, "max_new_tokens must be at least 1, got 0; num_beams"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty"),
        ({"seed": [3, -1]}, "seed must be at least 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DecodingSettings(end_sym="###", **settings)
