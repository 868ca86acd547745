"""Written texts: batches, the end symbol, seeds, probabilities, streams, and the values recorded from the original code."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.reference import unloaded_model
from xraygpt.conversation import CONV_VISION, Chat
from xraygpt.models import MiniGPT4
from xraygpt.models.generation import clean, text_so_far, tokens_of_passages
from xraygpt.models.sequence import embed, pad_rows
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


def test_finished_rows_are_not_read(tiny_model: Any, images: torch.Tensor) -> None:
    embeds = tiny_model.encode_img(images)
    free = tiny_model.generate(prompts(), embeds, max_new_tokens=30, stop_repeats=False)
    end_sym = next(
        piece
        for piece in (tiny_model.llama_tokenizer.decode([token]) for row in free for token in row.token_ids[2:10])
        if piece.strip() == piece and 2 < sum(piece in row.text for row in free) < len(free)
    )
    sizes: list[int] = []
    tiny_model.llama_model.register_forward_hook(lambda module, args, kwargs, out: sizes.append(len(out.logits)), with_kwargs=True)
    rows = tiny_model.generate(prompts(), embeds, max_new_tokens=30, end_sym=end_sym, stop_repeats=False)
    assert sizes == [sum(len(row.token_ids) >= step for row in rows) for step in range(1, 31)]
    assert sizes[-1] < 8


def test_what_all_rows_begin_with_is_read_once(tiny_model: Any, images: torch.Tensor) -> None:
    embeds = tiny_model.encode_img(images[:1])
    context = " The heart is normal in size and the lungs are clear."
    asked = [f"###Patient: <Img><ImageHere></Img>{context} {question} ###Doctor: " for question in QUESTIONS[:4]]
    alone = [tiny_model.generate([prompt], embeds, max_new_tokens=20)[0] for prompt in asked]
    shapes: list[tuple[int, ...]] = []
    tiny_model.llama_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs.get("inputs_embeds", kwargs.get("input_ids")).shape[:2])), with_kwargs=True
    )
    together = tiny_model.generate(asked, embeds.expand(4, -1, -1), max_new_tokens=20)
    assert together == alone
    rows = tiny_model.prompt_wrap(asked)
    shared = next(i for i in range(len(rows[0])) if len({row[i] for row in rows}) > 1)
    assert shapes[:3] == [(1, shared), (4, max(map(len, rows)) - shared), (4, 1)]
    shapes.clear()
    tiny_model.generate(asked[:2], tiny_model.encode_img(images[:2]), max_new_tokens=2)  # two images: a short beginning
    assert shapes[0] == (2, max(map(len, rows[:2])))


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_draw_depends_on_the_seed_and_the_row_alone(tiny_model: Any, images: torch.Tensor, num_beams: int) -> None:
    embeds = tiny_model.encode_img(images[:4])
    asked, seeds = prompts()[:4], [5, 5, 6, 7]
    settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": True, "num_beams": num_beams}
    together = tiny_model.generate(asked, embeds, seed=seeds, **settings)
    torch.manual_seed(123)
    alone = [tiny_model.generate([asked[i]], embeds[i : i + 1], seed=seeds[i], **settings)[0] for i in range(4)]
    assert together == alone
    same = tiny_model.generate([asked[0]] * 3, embeds[:1].expand(3, -1, -1), seed=5, **settings)
    assert same[0] == alone[0]
    assert len({row.text for row in same}) == 3
    with pytest.raises(ValueError, match="2 seeds came for 4 rows"):
        tiny_model.generate(asked, embeds, seed=[1, 2], **settings)


def test_sampling_without_a_seed_follows_torchs(tiny_model: Any, images: torch.Tensor) -> None:
    embeds = tiny_model.encode_img(images[:1])
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(tiny_model.generate(prompts()[:1], embeds, max_new_tokens=20, do_sample=True)[0].text)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"do_sample": True, "temperature": 2.0}, {"repetition_penalty": 1.3}])
def test_probabilities_are_those_of_the_model(tiny_model: Any, images: torch.Tensor, settings: dict[str, Any]) -> None:
    embeds = tiny_model.encode_img(images[:3])
    for i, row in enumerate(tiny_model.generate(prompts()[:3], embeds, max_new_tokens=10, **settings)):
        (prompt,) = tiny_model.prompt_wrap(prompts()[i : i + 1])
        batch = pad_rows([prompt + row.token_ids], [0], pad_id=0)
        logits = tiny_model.llama_model(
            inputs_embeds=embed(batch, tiny_model.llama_model.get_input_embeddings(), embeds[i : i + 1])
        ).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(1).gather(1, torch.tensor(row.token_ids)[:, None]).squeeze(1)
        assert torch.allclose(torch.tensor(row.log_probs), expected, atol=1e-4)


def test_a_stream_grows_to_the_whole_text(tiny_model: Any, images: torch.Tensor) -> None:
    embeds = tiny_model.encode_img(images[:1])
    (whole,) = tiny_model.generate(prompts()[:1], embeds, max_new_tokens=20)
    steps = list(tiny_model.stream(prompts()[0], embeds, max_new_tokens=20))
    assert steps[-1] == whole
    assert [len(step.token_ids) for step in steps] == list(range(1, 21))
    assert all(later.text.startswith(earlier.text) for earlier, later in pairwise(steps))
    assert len({step.text for step in steps}) > 10
    assert [step.stopped for step in steps] == [True] * 19 + [False]
    assert list(tiny_model.stream(prompts()[0], embeds, max_new_tokens=20, num_beams=2)) == tiny_model.generate(
        prompts()[:1], embeds, max_new_tokens=20, num_beams=2
    )


def test_a_watched_row_can_be_stopped(tiny_model: Any, images: torch.Tensor) -> None:
    embeds = tiny_model.encode_img(images[:3])
    free = tiny_model.generate(prompts()[:3], embeds, max_new_tokens=10)
    seen: list[tuple[int, int]] = []

    def watch(row: int, token_ids: list[int]) -> bool:
        seen.append((row, len(token_ids)))
        return row == 1 and len(token_ids) == 4

    watched = tiny_model.generate(prompts()[:3], embeds, max_new_tokens=10, watch=watch)
    assert [watched[0], watched[2]] == [free[0], free[2]]
    assert watched[1].token_ids == free[1].token_ids[:4] and watched[1].stopped and not watched[1].truncated
    assert sorted(seen) == [(row, n) for row, last in enumerate((10, 4, 10)) for n in range(1, last + 1)]


def test_text_so_far_holds_back_what_may_change(tiny_model: Any) -> None:
    tokenizer = tiny_model.llama_tokenizer
    ids = tokenizer("A #1 é fine 😀 ## end. ###Patient:", add_special_tokens=False).input_ids
    texts = [text_so_far(tokenizer, ids[:n], "###") for n in range(1, len(ids) + 1)]
    assert texts[-1] == "A #1 é fine 😀 ## end."
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert not any(text.endswith((" ", "\N{REPLACEMENT CHARACTER}")) for text in texts)
    assert {"A", "A #1", "A #1 é fine 😀", "A #1 é fine 😀 ##"} < set(texts)
    assert not {"A #", "A #1 é fine 😀 #", "A #1 é fine 😀 ## end. #"} & set(texts)


def test_tokens_of_passages_spell_them(tiny_model: Any) -> None:
    tokenizer = tiny_model.llama_tokenizer
    passages = ["The heart is 😀 normal.", "Clear.", "Clear.", "é"]
    ids = tokenizer(f" {'  '.join(passages)} ###", add_special_tokens=False).input_ids
    spans = tokens_of_passages(tokenizer, ids, passages)
    assert [tokenizer.decode(ids[first : last + 1]).strip() for first, last in spans] == passages
    assert tokens_of_passages(tokenizer, ids, []) == []


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
