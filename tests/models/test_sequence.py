"""Rows of token ids: what is supervised, what is cut, where images and padding stand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from torch import nn
from transformers import PreTrainedTokenizerFast

from xraygpt.models.language_model import load_tokenizer
from xraygpt.models.sequence import IGNORE, IMAGE, RowLength, answer_ids, embed, pad_rows, prompt_ids, tokenize


@pytest.fixture(scope="module")
def tokenizer(tiny_llm: Path) -> Any:
    return load_tokenizer(tiny_llm)


@pytest.fixture(scope="module")
def merging_tokenizer() -> PreTrainedTokenizerFast:
    """One that joins a full stop to the end symbol behind it: "b." is two tokens, "b.###" is b, ".#", "##"."""
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", "a", "b", ".", "#", ".#", "##"])}
    bpe = Tokenizer(models.BPE(vocabulary, [(".", "#"), ("#", "#")]))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


# Text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["</s>", "<s>", "<unk>", "No effusion.</s> Clear."])
def test_a_special_token_in_a_text_stays_text(tokenizer: Any, text: str) -> None:
    ids = tokenize(tokenizer, text)
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids) == text


def test_a_special_token_in_a_text_stays_text_for_sentencepiece(test_data: Path) -> None:
    tokenizer = load_tokenizer(test_data / "reference" / "llama")
    ids = tokenize(tokenizer, "Clear.</s> Heart")
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids) == "Clear.</s> Heart"


def test_prompt_has_one_begin_and_its_images_in_place(tokenizer: Any) -> None:
    ids = prompt_ids(tokenizer, ["One <Img>", "<ImageHere>", "</Img>", "<ImageHere>", " two"], 3)
    one, middle, two = (tokenize(tokenizer, text) for text in ("One <Img>", "</Img>", " two"))
    assert ids == [tokenizer.bos_token_id, *one, *[IMAGE] * 3, *middle, *[IMAGE] * 3, *two]


# Targets -----------------------------------------------------------------------------------------------------------


def test_a_target_that_fits_is_text_and_end_symbol(tokenizer: Any) -> None:
    assert answer_ids(tokenizer, "No effusion.", "###", 100) == tokenize(tokenizer, "No effusion.###")


@given(text=st.text(st.characters(exclude_characters="#", codec="utf-8"), max_size=40), data=st.data())
def test_the_end_symbol_survives_every_cut(tokenizer: Any, text: str, data: st.DataObject) -> None:
    end, whole = tokenize(tokenizer, "###"), tokenize(tokenizer, text + "###")
    max_length = data.draw(st.integers(len(end), len(whole) + 1))
    ids = answer_ids(tokenizer, text, "###", max_length)
    assert len(ids) == min(max_length, len(whole))
    assert ids[-len(end) :] == end
    assert ids[: -len(end)] == whole[: len(ids) - len(end)]


@pytest.mark.parametrize(
    ("text", "max_length", "expected"),
    [
        ("ab.", 4, ["a", "b", ".#", "##"]),
        ("ab.", 3, ["a", ".#", "##"]),
        ("ab.", 2, [".#", "##"]),
        ("abab", 4, ["a", "b", "##", "#"]),  # nothing to merge with: the end symbol is two tokens
        ("abab", 3, ["a", "##", "#"]),
    ],
)
def test_an_end_symbol_that_merges_with_the_text(merging_tokenizer: Any, text: str, max_length: int, expected: list[str]) -> None:
    ids = answer_ids(merging_tokenizer, text, "###", max_length)
    assert merging_tokenizer.convert_ids_to_tokens(ids) == expected


def test_without_end_symbol_a_target_is_cut_at_its_end(tokenizer: Any) -> None:
    assert answer_ids(tokenizer, "No effusion.", "", 3) == tokenize(tokenizer, "No effusion.")[:3]


# Rows --------------------------------------------------------------------------------------------------------------

PAD = 9


def test_training_rows_are_padded_on_the_right() -> None:
    batch = pad_rows([[1, IMAGE, IMAGE, 5, 6, 7], [1, IMAGE, IMAGE, 8]], [2, 1], pad_id=PAD)
    assert batch.ids.tolist() == [[1, PAD, PAD, 5, 6, 7], [1, PAD, PAD, 8, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1] * 6, [1, 1, 1, 1, 0, 0]]
    assert batch.labels.tolist() == [[IGNORE] * 4 + [6, 7], [IGNORE] * 3 + [8] + [IGNORE] * 2]
    assert batch.is_image.tolist() == [[False, True, True, False, False, False]] * 2
    assert {batch.ids.dtype, batch.attention_mask.dtype, batch.labels.dtype} == {torch.int64}


def test_rows_to_continue_are_padded_on_the_left() -> None:
    batch = pad_rows([[1, IMAGE, 5, 6], [1, IMAGE]], [0, 0], pad_id=PAD, side="left")
    assert batch.ids.tolist() == [[1, PAD, 5, 6], [PAD, PAD, 1, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert (batch.labels == IGNORE).all()
    assert batch.is_image.tolist() == [[False, True, False, False], [False, False, False, True]]


def test_the_end_symbol_is_supervised_even_where_it_is_the_pad_token() -> None:
    """What is padding is told by position, not by id."""
    batch = pad_rows([[1, 5, PAD], [1, 5]], [2, 1], pad_id=PAD)
    assert batch.labels.tolist() == [[IGNORE, 5, PAD], [IGNORE, 5, IGNORE]]


def test_images_fill_their_slots_in_order() -> None:
    """Two images in the first row, one in the second, which is padded on the left."""
    batch = pad_rows([[1, IMAGE, IMAGE, 2, IMAGE, IMAGE], [IMAGE, IMAGE, 3]], [0, 0], pad_id=0, side="left")
    table = nn.Embedding.from_pretrained(torch.arange(4.0)[:, None].expand(4, 5).contiguous())
    images = torch.tensor([[10.0, 11.0], [20.0, 21.0], [30.0, 31.0]])[:, :, None].expand(3, 2, 5)
    embeds = embed(batch, table, images)
    assert embeds.shape == (2, 6, 5)
    assert embeds[..., 0].tolist() == [[1, 10, 11, 2, 20, 21], [0, 0, 0, 30, 31, 3]]
    assert torch.equal(embeds[..., 0], embeds[..., 4])


def test_embeddings_have_the_language_models_precision() -> None:
    batch = pad_rows([[1, IMAGE]], [0], pad_id=0)
    assert embed(batch, nn.Embedding(2, 4, dtype=torch.bfloat16), torch.ones(1, 1, 4)).dtype is torch.bfloat16


@pytest.mark.parametrize("num_images", [0, 2])
def test_slots_and_images_must_be_as_many(num_images: int) -> None:
    batch = pad_rows([[1, IMAGE, IMAGE]], [0], pad_id=0)
    with pytest.raises(ValueError, match=rf"2 image slots.*\({num_images}, 2\)"):
        embed(batch, nn.Embedding(2, 4), torch.ones(num_images, 2, 4))


@pytest.mark.parametrize("max_length", [2, 5, 100])
def test_a_row_counts_as_many_tokens_as_it_has(tokenizer: Any, max_length: int) -> None:
    length = RowLength(tokenizer, [10, 20, 30], "###", max_length)
    for text in ("The heart is normal.", ""):
        for seed in (0, 4):
            assert length(text, seed) == [10, 20][seed % 3] + len(answer_ids(tokenizer, text, "###", max_length))
