"""Written texts: batches, the end symbol, and the values recorded from the original code."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.reference import unloaded_model
from xraygpt.conversation import CONV_VISION, Chat
from xraygpt.models import MiniGPT4
from xraygpt.models.generation import clean
from xraygpt.models.weights import load_into

QUESTIONS = ["What?", "Describe this chest X-ray.", "Is there a pleural effusion on the left side?", "Heart?"] * 2


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(8, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def prompts() -> list[str]:
    return [f"###Patient: <Img><ImageHere></Img> {question} ###Doctor: " for question in QUESTIONS]


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"repetition_penalty": 1.3}])
def test_batch_of_eight_writes_what_eight_single_calls_write(tiny_model: Any, images: torch.Tensor, settings: dict[str, Any]) -> None:
    embeds = tiny_model.encode_img(images)
    together = tiny_model.generate(prompts(), embeds, max_new_tokens=20, **settings)
    alone = [tiny_model.generate([p], embeds[i : i + 1], max_new_tokens=20, **settings)[0] for i, p in enumerate(prompts())]
    assert together == alone
    assert len({written.text for written in together}) > 4


def test_defaults_of_the_language_models_folder_do_not_leak_in(tiny_model: Any, images: torch.Tensor) -> None:
    embeds = tiny_model.encode_img(images)
    plain = tiny_model.generate(prompts(), embeds, max_new_tokens=20)
    parts = {name: getattr(tiny_model, name) for name in ("visual_encoder", "ln_vision", "query_tokens", "llama_tokenizer", "llama_model")}
    parts["llama_model"].generation_config.update(repetition_penalty=5.0, no_repeat_ngram_size=1, top_k=3)
    model = MiniGPT4(**parts, qformer=tiny_model.Qformer)
    assert model.generate(prompts(), embeds, max_new_tokens=20) == plain


def test_each_row_stops_at_its_own_end_symbol(tiny_model: Any, images: torch.Tensor) -> None:
    embeds = tiny_model.encode_img(images)
    free = tiny_model.generate(prompts(), embeds, max_new_tokens=30, end_sym="")
    end_sym = next(
        piece
        for piece in (tiny_model.llama_tokenizer.decode([token]) for row in free for token in row.token_ids[2:10])
        if piece.strip() == piece and 0 < sum(piece in row.text for row in free) < len(free)
    )
    stopped = tiny_model.generate(prompts(), embeds, max_new_tokens=30, end_sym=end_sym)
    for before, after in zip(free, stopped, strict=True):
        assert after.text == clean(before.text, end_sym)
        assert after.token_ids == before.token_ids[: len(after.token_ids)]
        assert (len(after.token_ids) < len(before.token_ids)) == (end_sym in before.text)
        assert before.truncated
        assert after.truncated == (end_sym not in before.text)


def test_a_row_that_ends_with_the_end_of_text_token_is_not_truncated(tiny_model: Any, images: torch.Tensor) -> None:
    embeds = tiny_model.encode_img(images)
    free = tiny_model.generate(prompts(), embeds, max_new_tokens=12)
    # The second token of the first row becomes the end-of-text token.
    tiny_model.llama_tokenizer.eos_token = tiny_model.llama_tokenizer.convert_ids_to_tokens(free[0].token_ids[1])
    eos = tiny_model.llama_tokenizer.eos_token_id
    ended = tiny_model.generate(prompts(), embeds, max_new_tokens=12)
    assert not ended[0].truncated and ended[0].token_ids[-1] == eos
    assert [row.truncated for row in ended] == [eos not in row.token_ids for row in free]
    assert any(row.truncated for row in ended)


def test_an_end_symbol_in_the_last_token_ends_the_row(tiny_model: Any, images: torch.Tensor) -> None:
    embeds = tiny_model.encode_img(images[:1])
    (free,) = tiny_model.generate(prompts()[:1], embeds, max_new_tokens=6)
    end_sym = tiny_model.llama_tokenizer.decode([free.token_ids[5]]).strip()
    first = next(i for i in range(1, 7) if end_sym in tiny_model.llama_tokenizer.decode(free.token_ids[:i]))
    (stopped,) = tiny_model.generate(prompts()[:1], embeds, max_new_tokens=first, end_sym=end_sym)
    assert len(stopped.token_ids) == first and not stopped.truncated


def test_number_of_images_must_be_that_of_the_placeholders(tiny_model: Any, images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="4 image slots"):
        tiny_model.generate(prompts()[:1], tiny_model.encode_img(images[:2]))


def test_sampling_follows_the_seed(tiny_model: Any, images: torch.Tensor) -> None:
    embeds = tiny_model.encode_img(images[:1])
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(tiny_model.generate(prompts()[:1], embeds, max_new_tokens=20, do_sample=True)[0].text)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("text", "end_sym", "expected"),
    [(" A. B ###Patient: x", "###", "A. B"), ("A.\nB", "\n", "A.\nB"), ("###", "###", ""), ("A", "", "A")],
)
def test_clean(text: str, end_sym: str, expected: str) -> None:
    assert clean(text, end_sym) == expected


# Against the original code ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference_model(test_data: Path) -> MiniGPT4:
    """The model whose outputs were recorded from the original code."""
    folder = test_data / "reference"
    model = unloaded_model(folder)
    load_into(model, torch.load(folder / "state_dict.pt"), str(folder / "state_dict.pt"))
    return model.eval()


@pytest.mark.parametrize(("recorded", "num_beams"), [("ref_stop", 1), ("no_stop_beam3", 3)])
def test_chat_writes_the_tokens_of_the_original(reference_model: MiniGPT4, test_data: Path, recorded: str, num_beams: int) -> None:
    turns = json.loads((test_data / "reference" / "generation.json").read_text(encoding="utf-8"))[recorded]
    image = torch.load(test_data / "reference" / "inputs.pt")["image"][0]
    chat = Chat(reference_model, vis_processor=lambda image: image)
    conv, img_list = CONV_VISION.copy(), []
    chat.upload_img(image, conv, img_list)
    for turn in turns:
        chat.ask(turn["question"], conv)
        read = conv.copy()
        read.append_message(read.roles[1], None)
        assert read.get_prompt() == turn["prompt"]
        assert len(reference_model.prompt_wrap([read.get_parts()])[0]) == turn["prompt_embeds"]
        _, ids = chat.answer(conv, img_list, max_new_tokens=48, num_beams=num_beams)
        assert ids == turn["token_ids"]
        conv.messages[-1][1] = turn["text"]  # decoded as the original did: bytes that are no UTF-8 are one mark there
