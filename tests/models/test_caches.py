"""What is kept between calls: never more than what is still true, and not without bound."""

import copy
import threading
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from xraygpt.models import caches
from xraygpt.models.caches import ImageCache, PrefixCache
from xraygpt.models.sequence import IMAGE

X = IMAGE


def filled(length: int) -> DynamicCache:
    """Keys and values of one layer that tell their positions."""
    cache = DynamicCache()
    numbers = torch.arange(length, dtype=torch.float32)[None, None, :, None]
    cache.update(numbers, numbers, 0)
    return cache


def images(*numbers: float) -> torch.Tensor:
    """[number of images, 2, 3]"""
    return torch.tensor(numbers)[:, None, None].expand(-1, 2, 3)


@pytest.mark.parametrize(
    ("ids", "seen", "expected"),
    [
        ([1, X, X, 5, 6, 7, 8], images(1), 6),  # longer: all that was read
        ([1, X, X, 5, 6], images(1), 4),  # the same start: the last token is read again
        ([1, X, X, 5, 9, 7], images(1), 4),  # changed within
        ([1, X, X, 5, 6, 7], images(2), 1),  # another image
        ([1, X, X, X, X, 5], images(1, 2), 3),  # a second image
        ([2, X, X, 5], images(1), 0),
        ([1], images(1)[:0], 0),
    ],
)
def test_prefix_is_what_rows_have_in_common(ids: list[int], seen: torch.Tensor, expected: int) -> None:
    cache = PrefixCache()
    cache.keep([1, X, X, 5, 6, 7, 99], images(1), filled(6))  # the last token was written, and not read
    keys_values, shared = cache.take(ids, seen)
    assert shared == keys_values.get_seq_length() == expected
    if expected:
        assert keys_values.layers[0].keys.flatten().tolist() == list(range(expected))


def test_the_second_of_two_images_is_compared_too() -> None:
    cache = PrefixCache()
    cache.keep([1, X, X, 4, X, X, 5], images(1, 2), filled(7))
    assert cache.take([1, X, X, 4, X, X, 5, 6], images(1, 3))[1] == 4


def test_a_cache_serves_one_row_at_a_time() -> None:
    cache = PrefixCache()
    cache.keep([1, 2, 3], images(1), filled(3))
    assert cache.take([1, 2, 3, 4], images(1))[1] == 3
    assert cache.take([1, 2, 3, 4], images(1))[1] == 0


class Encoder:
    """Counts what it encodes."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return image.sum(dim=(1, 2))


def test_an_image_is_known_by_its_content_and_the_oldest_goes_first() -> None:
    cache, encode = ImageCache(size=2), Encoder()
    a, b, c = (torch.full((3, 4, 4), value) for value in (1.0, 2.0, 3.0))
    for image in (a, a.clone(), b, a, c, a):  # c displaces b, since a was asked for later
        assert torch.equal(cache.get(image, encode), image.sum(dim=(1, 2)))
    assert (encode.calls, len(cache)) == (3, 2)
    cache.get(b, encode)
    assert encode.calls == 4
    cache.clear()
    cache.get(b, encode)
    assert encode.calls == 5
    assert len(copy.deepcopy(cache)) == 0


def test_threads_encode_an_image_once() -> None:
    cache, encode = ImageCache(), Encoder()
    image = torch.ones(3, 64, 64)
    threads = [threading.Thread(target=cache.get, args=(image, encode)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert encode.calls == 1


def test_the_model_encodes_an_image_once_until_it_is_trained(tiny_model: Any) -> None:
    calls: list[int] = []
    tiny_model.visual_encoder.register_forward_hook(lambda *_: calls.append(1))
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    first = tiny_model.encode_once(pixels)
    assert torch.equal(tiny_model.encode_once(pixels.flip(0)).flip(0), first)
    assert torch.allclose(first, tiny_model.encode_img(pixels), atol=1e-5)
    assert len(calls) == 3 and not first.requires_grad
    tiny_model.train().eval()
    tiny_model.encode_once(pixels)
    assert len(calls) == 5


# The constant beginning of training prompts ------------------------------------------------------------------------

FROZEN = {"freeze_vit": True, "freeze_qformer": True, "freeze_llm": True}
TEMPLATE = "###Patient: {} ###Doctor: "


def reads(model: Any) -> list[int]:
    """Grows by the number of tokens each time that the language model reads."""
    lengths: list[int] = []
    decoder = model.llama_model.get_decoder()
    decoder.register_forward_pre_hook(lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True)
    return lengths


def losses_and_gradients(model: Any, samples: dict[str, Any]) -> list[torch.Tensor]:
    model.zero_grad()
    loss = model(samples)["loss"]
    loss.backward()
    return [loss.detach(), model.llama_proj.weight.grad.clone(), model.llama_proj.bias.grad.clone()]


@pytest.mark.parametrize("recompute", [False, True])
def test_the_beginning_is_read_once_and_changes_no_number(make_model: Any, samples: dict[str, Any], recompute: bool) -> None:
    model = make_model(**FROZEN, prompt_template=TEMPLATE, grad_checkpoint={"llm": recompute}).train()
    for parameter in model.llama_model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    lengths = reads(model)
    (beginning,) = {tuple(ids[: ids.index(IMAGE)]) for ids in model.prompt_wrap(model.prompt_list)}
    with_beginning = [losses_and_gradients(model, samples) for _ in range(3)]
    assert lengths[0] == len(beginning) > 4
    assert lengths[1] == lengths[2] == lengths[3]
    model.beginning.before = lambda *args: (None, 0)
    whole = losses_and_gradients(model, samples)
    assert lengths[4] == len(samples["caption"]) * len(beginning) + lengths[1]
    for values in with_beginning:
        torch.testing.assert_close(values, whole, rtol=1e-5, atol=1e-6)


def test_a_row_that_begins_otherwise_is_read_whole(make_model: Any, samples: dict[str, Any]) -> None:
    model = make_model(**FROZEN, prompt_template=TEMPLATE).train()
    own = ["Look at this: <Img><ImageHere></Img> What is there?"] + [model.prompt_list[0]] * 3
    lengths = reads(model)
    model({**samples, "instruction": own})
    assert len(lengths) == 1


def test_a_language_model_that_is_trained_reads_all(make_model: Any, samples: dict[str, Any]) -> None:
    model = make_model(prompt_template=TEMPLATE).train()
    lengths = reads(model)
    model(samples)
    assert len(lengths) == 1


def test_other_weights_are_read_anew(make_model: Any, samples: dict[str, Any], tmp_path: Any) -> None:
    """A checkpoint that brings its language model, loaded after a first step."""
    model, other = (make_model(seed, **FROZEN, prompt_template=TEMPLATE) for seed in (0, 1))
    before = model(samples)["loss"]
    torch.save({"model": other.state_dict()}, tmp_path / "other.pth")
    model.load_parts(str(tmp_path / "other.pth"))
    assert model(samples)["loss"] == other(samples)["loss"] != before
    model.place(torch.device("cpu"))
    assert model(samples)["loss"] == other(samples)["loss"]


def test_what_is_no_list_of_keys_and_values_is_not_kept(make_model: Any, samples: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A language model with a sliding window, for one."""
    model = make_model(**FROZEN, prompt_template=TEMPLATE)
    expected = model(samples)["loss"]
    monkeypatch.setattr(caches, "_keeps_all", lambda layer: False)
    model.beginning.forget()
    assert model(samples)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
