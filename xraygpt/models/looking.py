"""Where the model looked: which places of the image a sentence of an answer depends on.

`S` image size, `N` tokens of an answer, `K` places in a row of the grid.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from xraygpt.models.sequence import embed, pad_rows

GRID = 8
"""Places in a row and in a column that are hidden, one after the other."""
SPREAD = 0.125
"""Of the soft disc that hides a place: standard deviation, of the image's side. A hard edge would be something to see itself."""
FILL_QUANTILE = 0.2
"""Which of the image's own greys hides: about that of a healthy lung, so that a dense thing looks as if it were not there."""


@torch.no_grad()
def look_maps(
    model: Any,
    image: Tensor,
    parts: Sequence[str],
    answer_ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
    *,
    batch_size: int = 16,
) -> NDArray[np.float32]:
    """For each sentence, how much the model needed each place of the image to write it.

    Occlusion (Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, section 4.2) for written text. Each of
    K x K places is hidden in turn, and the model reads its own answer again: with x the image, x_k the image with place k hidden,
    p what the model read before and t_first … t_last the tokens of the sentence,

        need_k = max(0, log P(t_first … t_last | x, p, t_0 … t_first-1) - log P(t_first … t_last | x_k, p, t_0 … t_first-1))

    The map is `need`, bilinearly between the places and scaled so that its largest value is 1 - exp(-max need): the share of the sentence's
    probability that is lost with the place that it needs most. It shows what this model used, be that right or wrong. Attention (the
    Q-Former's cross-attention times the language model's attention to the image tokens) costs less, but points to the finding no more often
    than elsewhere: benchmarks/heat_map.py compares both, and other methods.

    All spans together cost one pass over K² + 1 images and answers, so ask for all sentences of an answer at once. No state of the model is
    changed.

    Args:
        model: a `MiniGPT4` in eval mode.
        image: float32 [3, S, S] on the CPU, as the model read it.
        parts: the prompt in parts, with one `<ImageHere>`, as the model read it.
        answer_ids: tokens that the model wrote.
        spans: first and last token of each sentence, counted from 0; the last one belongs to it.
        batch_size: images at a time.

    Returns:
        float32 [number of spans, S, S] in 0..1. A map is all 0 if hiding never made the sentence less likely.
    """
    if not spans:
        return np.zeros((0, *image.shape[1:]), dtype=np.float32)
    read = max(last + 1 for _, last in spans)
    (prompt,) = model.prompt_wrap([parts])
    batches = _with_places_hidden(image, batch_size)
    log_probs = torch.cat([_log_probs(model, batch, prompt, answer_ids[:read]) for batch in batches])  # [1 + K², N]
    needs = [(log_probs[0] - log_probs[1:])[:, first : last + 1].sum(1) for first, last in spans]
    grids = torch.stack(needs).clamp_min(0).view(-1, 1, GRID, GRID)
    maps = F.interpolate(grids, size=image.shape[1:], mode="bilinear").squeeze(1)
    peaks = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(peaks > 0, maps / peaks * -torch.expm1(-peaks), 0.0).numpy()


def _with_places_hidden(image: Tensor, batch_size: int) -> Iterator[Tensor]:
    """The image, then the image with each place hidden, row by row: [≤ batch_size, 3, S, S] at a time."""
    size = image.shape[-1]
    fill = image.flatten(1).quantile(FILL_QUANTILE, dim=1)[:, None, None]
    centres = (torch.arange(GRID) + 0.5) * size / GRID
    bells = torch.exp(-(((torch.arange(size) + 0.5 - centres[:, None]) / (SPREAD * size)) ** 2) / 2)  # [K, S]
    hidden = (bells[:, None, :, None] * bells[None, :, None, :]).view(GRID * GRID, 1, size, size)
    for batch in torch.cat([torch.zeros_like(hidden[:1]), hidden]).split(batch_size):
        yield torch.lerp(image, fill, batch)


def _log_probs(model: Any, images: Tensor, prompt: list[int], answer: Sequence[int]) -> Tensor:
    """float32 [B, N] on the CPU: log-probability of each token of the answer, for each of B images."""
    num_tokens = len(answer)
    batch = pad_rows([prompt + list(answer)] * len(images), [num_tokens] * len(images), pad_id=model.llama_tokenizer.pad_token_id)
    embeds = embed(batch, model.llama_model.get_input_embeddings(), model.encode_img(images))
    logits = model.llama_model(inputs_embeds=embeds, use_cache=False, logits_to_keep=num_tokens + 1).logits[:, :-1]
    targets = batch.labels[:, len(prompt) :].to(logits.device)
    return -F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none").cpu()


def heat_layer(heat: NDArray[np.float32]) -> Image.Image:
    """A map [S, S] of `look_maps` as a layer to lay over the image: mode "RGBA", S x S pixels.

    The colours (matplotlib's "inferno") grow steadily in brightness, so that they can be told apart without red and green. Where the map is
    0 the layer is transparent, from 0.5 on opaque.
    """
    import matplotlib  # a second and more, which only a map that is drawn need wait for

    layer = matplotlib.colormaps["inferno"](heat, bytes=True)
    layer[..., 3] = np.clip(heat * 2 * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(layer)


def overlay(image: Image.Image, heat: NDArray[np.float32], *, opacity: float = 0.6) -> Image.Image:
    """The image in colour, mode "RGB" and of its own size, with a map of `look_maps` over it.

    The map covers the whole image, since the model reads all of it, squeezed into a square. What stays uncovered keeps its grey values.

    Args:
        image: the film, of any size and shape.
        heat: float32 [S, S] in 0..1.
        opacity: 0..1, of the layer where it is opaque.
    """
    layer = heat_layer(heat).resize(image.size, Image.Resampling.BILINEAR)
    layer.putalpha(layer.getchannel("A").point(lambda value: round(value * opacity)))
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")
