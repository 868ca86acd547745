"""Where the model looked: the place that a sentence depends on, and its picture."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageStat

from xraygpt.conversation.prompts import split_at_images
from xraygpt.models.looking import _log_probs, heat_layer, look_maps, overlay
from xraygpt.models.sequence import IMAGE

SIZE = 32
PARTS = ["What?", "<ImageHere>", "Tell me."]
SAYS_LEFT, SAYS_RIGHT, ALWAYS = ANSWER = [5, 6, 7]


class SpotLanguageModel:
    """Two tokens are as likely as the two image tokens are large; the third token of an answer is certain."""

    def get_input_embeddings(self) -> torch.nn.Module:
        return torch.nn.Embedding(8, 1)

    def __call__(self, *, inputs_embeds: torch.Tensor, use_cache: bool, logits_to_keep: int) -> Any:
        logits = torch.zeros(len(inputs_embeds), logits_to_keep, 8)
        logits[..., SAYS_LEFT], logits[..., SAYS_RIGHT] = inputs_embeds[:, 1], inputs_embeds[:, 2]
        logits[:, 2:3, ALWAYS] = 200.0
        return SimpleNamespace(logits=logits)


class SpotModel:
    """One image token is the brightness of a spot at the left above, the other of one at the right below."""

    llama_tokenizer = SimpleNamespace(pad_token_id=0)
    llama_model = SpotLanguageModel()
    maybe_autocast = staticmethod(nullcontext)

    def __init__(self) -> None:
        self.num_read: list[int] = []

    def prompt_wrap(self, prompts: list[list[str]]) -> list[list[int]]:
        assert prompts == [PARTS]
        return [[1, IMAGE, IMAGE, 3, 4]]

    def encode_img(self, images: torch.Tensor) -> torch.Tensor:
        self.num_read.append(len(images))
        return torch.stack([images[:, 0, 4:8, 4:8].mean((1, 2)), images[:, 0, 24:28, 20:24].mean((1, 2))], dim=1)[..., None]


@pytest.fixture
def spots() -> torch.Tensor:
    image = torch.zeros(3, SIZE, SIZE)
    image[:, 4:8, 4:8] = image[:, 24:28, 20:24] = 3.0
    return image


def peak(heat: np.ndarray) -> tuple[int, int]:
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    return int(row), int(column)


def test_each_sentence_has_the_place_that_it_depends_on(spots: torch.Tensor) -> None:
    left, right, both = look_maps(SpotModel(), spots, PARTS, ANSWER, [(0, 0), (1, 1), (0, 1)])
    for heat in (left, right, both):
        assert heat.shape == (SIZE, SIZE) and heat.dtype == np.float32
        assert heat.min() >= 0 and 0.5 < heat.max() <= 1
    assert peak(left)[0] in range(3, 9) and peak(left)[1] in range(3, 9)
    assert peak(right)[0] in range(23, 29) and peak(right)[1] in range(19, 25)
    assert left[24:28, 20:24].max() == 0 and right[4:8, 4:8].max() == 0
    assert both[4:8, 4:8].max() > 0.4 and both[24:28, 20:24].max() > 0.4


def test_the_largest_value_is_the_share_of_probability_that_is_lost(spots: torch.Tensor) -> None:
    (heat,) = look_maps(SpotModel(), spots, PARTS, ANSWER, [(0, 0)])
    dark, bright = torch.zeros(8), torch.zeros(8)
    dark[SAYS_RIGHT] = bright[SAYS_RIGHT] = bright[SAYS_LEFT] = 3.0
    lost = 1 - dark.softmax(0)[SAYS_LEFT] / bright.softmax(0)[SAYS_LEFT]
    assert lost / 2 < heat.max() < lost  # a soft disc hides the spot in part
    (faint,) = look_maps(SpotModel(), spots / 10, PARTS, ANSWER, [(0, 0)])
    assert 0 < faint.max() < heat.max() / 2


def test_a_sentence_that_needs_no_image_has_an_empty_map(spots: torch.Tensor) -> None:
    certain, left = look_maps(SpotModel(), spots, PARTS, ANSWER, [(2, 2), (0, 0)])
    assert (certain == 0).all() and left.max() > 0


def test_no_sentences_no_maps(spots: torch.Tensor) -> None:
    model = SpotModel()
    assert look_maps(model, spots, PARTS, [], []).shape == (0, SIZE, SIZE) and model.num_read == []


def test_all_sentences_cost_one_pass_in_batches(spots: torch.Tensor) -> None:
    before = spots.clone()
    model = SpotModel()
    together = look_maps(model, spots, PARTS, ANSWER, [(0, 0), (1, 2)], batch_size=64)
    assert model.num_read == [64, 1] and torch.equal(spots, before)
    alone = [look_maps(model, spots, PARTS, ANSWER, [span], batch_size=7)[0] for span in ((0, 0), (1, 2))]
    assert max(model.num_read[2:]) == 7
    np.testing.assert_allclose(together, alone, atol=1e-5)


@torch.no_grad()
def test_a_written_answer_is_read_with_the_probabilities_that_it_was_written_with(tiny_model: Any) -> None:
    image = torch.randn(3, 28, 28, generator=torch.Generator().manual_seed(1))
    prompt = "###Patient: <Img><ImageHere></Img> Heart? ###Doctor: "
    (written,) = tiny_model.generate([prompt], tiny_model.encode_img(image[None]), max_new_tokens=12)
    read = _log_probs(tiny_model, torch.stack([image, -image]), tiny_model.prompt_wrap([prompt])[0], written.token_ids)
    np.testing.assert_allclose(read[0], written.log_probs, atol=1e-4)
    assert (read[0] - read[1]).abs().max() > 0.1
    (heat,) = look_maps(tiny_model, image, split_at_images(prompt), written.token_ids, [(0, len(written.token_ids) - 1)])
    assert heat.shape == (28, 28) and 0 < heat.max() <= 1


# The picture -------------------------------------------------------------------------------------------------------


def test_layer_is_transparent_where_nothing_was_needed_and_grows_brighter() -> None:
    layer = heat_layer(np.linspace(0, 1, 64, dtype=np.float32)[None])
    assert layer.mode == "RGBA" and layer.size == (64, 1)
    alpha = np.asarray(layer)[0, :, 3]
    assert alpha[0] == 0 and (alpha[32:] == 255).all() and (np.diff(alpha.astype(int)) >= 0).all()
    assert (np.diff(np.asarray(layer.convert("RGB").convert("L"))[0].astype(int)) >= 0).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_overlay_has_the_films_shape_and_leaves_the_rest_grey(mode: str) -> None:
    film = Image.new("L", (60, 90), 100).convert(mode)
    heat = np.zeros((SIZE, SIZE), dtype=np.float32)
    heat[20:28, 4:12] = 1
    picture = overlay(film, heat)
    assert picture.mode == "RGB" and picture.size == film.size
    colours = np.asarray(picture).astype(int)
    changed = np.argwhere((colours != 100).any(axis=2))
    assert changed.min(axis=0).tolist() == pytest.approx([20 / SIZE * 90, 4 / SIZE * 60], abs=3)
    assert changed.max(axis=0).tolist() == pytest.approx([28 / SIZE * 90, 12 / SIZE * 60], abs=3)
    assert np.ptp(colours[67, 15]) > 50  # in the middle of the hot place there is a colour
    faint, strong = (ImageStat.Stat(overlay(film, heat, opacity=opacity).convert("L")).extrema[0][1] for opacity in (0.1, 1.0))
    assert 100 < faint < strong
