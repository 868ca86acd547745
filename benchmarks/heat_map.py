"""Whether heat maps point to the findings: python benchmarks/heat_map.py [--cfg-path FILE] [--films 200] [--seed 1] [--methods NAME …]

Phantom films that no training has seen are drawn from --seed (data/phantom is drawn from seed 0), and the model writes a report for each.
For every true sentence about a finding on one side, each method maps where the model looked, and the map's peak lies in the right half
of the film or in the wrong one. All methods see the same sentences, in the same run. `attention` is the baseline; `occlusion` is
`xraygpt.models.looking`. `other sentence` is the control: occlusion's map of a sentence of the same report that names no side; were it
as often right, maps would show what is conspicuous in the film and not what the sentence needs. Needs a trained model: make quickstart.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from xraygpt import load_model
from xraygpt.datasets.preparation.phantom_film import render_film
from xraygpt.datasets.preparation.phantom_findings import PhantomFinding, sample_findings
from xraygpt.evaluation.findings import read_findings
from xraygpt.models.looking import FILL_QUANTILE, look_maps
from xraygpt.models.sequence import IMAGE, embed, pad_rows
from xraygpt.serving.session import ChatSession

FILM_SIZE = 256
INTEGRATION_STEPS = 16
Span = tuple[int, int]
Maps = Any
"""[number of spans, h, w], tensor or array."""


@dataclass(frozen=True)
class Written:
    """A report with true sentences about one-sided findings.

    Attributes:
        image, parts, ids: as `look_maps` takes them.
        spans, findings: of those sentences.
        other: the span of a sentence that names no side; None if there is none.
    """

    image: Tensor
    parts: list[str]
    ids: list[int]
    spans: list[Span]
    findings: list[PhantomFinding]
    other: Span | None


# The reports ---------------------------------------------------------------------------------------------------------


def write(session: ChatSession, findings: Sequence[PhantomFinding], seed: Sequence[int]) -> Written:
    """Draw the film of these findings, and let the model write its report."""
    session.open_image(Image.fromarray(render_film(findings, size=FILM_SIZE, seed=seed)))
    for _ in session.stream(""):
        pass
    answer = session.turns[-1].answer
    spans, true_findings, other = [], [], None
    for sentence in answer.sentences:
        span = (sentence.first_token, sentence.last_token)
        stated = [each for each in read_findings(sentence.text) if each.status == "present" and each.side in ("left", "right")]
        true = [item for item in findings if any((item.finding, item.side) == (each.finding, each.side) for each in stated)]
        if true:
            spans.append(span)
            true_findings.append(true[0])
        elif not stated:
            other = span
    assert session.pixels is not None
    return Written(session.pixels, answer.prompt_parts, answer.token_ids, spans, true_findings, other)


def reports(cfg_path: str, num_films: int, seed: int) -> tuple[Any, list[Written]]:
    """The model, and its reports that have such a sentence."""
    pipeline = load_model(cfg_path).pipeline
    session, written = ChatSession(pipeline), []
    for index in range(num_films):
        findings = sample_findings(np.random.default_rng([seed, index, 100]))
        if any(item.side in ("left", "right") for item in findings):
            written.append(write(session, findings, [seed, index]))
    return pipeline.model, [each for each in written if each.spans]


# The methods: (model, image [3, S, S], parts, ids, spans) → maps --------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A model's own answer and what it answered to."""

    parts: list[str]
    ids: list[int]


@contextmanager
def eager_attention(*parts: Any) -> Iterator[None]:
    """Attention that tells its weights."""
    before = [part.config._attn_implementation for part in parts]
    try:
        for part in parts:
            part.config._attn_implementation = "eager"
        yield
    finally:
        for part, implementation in zip(parts, before, strict=True):
            part.config._attn_implementation = implementation


def features_of(model: Any, images: Tensor) -> Tensor:
    """[B, 3, S, S] → [B, P, D_v], what the Q-Former looks at; the class token comes first."""
    return model.ln_vision(model.visual_encoder(images))


def read_answer(model: Any, image_embeds: Tensor, asked: Asked, **options: Any) -> tuple[Any, Tensor]:
    """What the language model returns, and the log-probability of each token of the answer, [B, N]."""
    (prompt,) = model.prompt_wrap([asked.parts])
    count = len(image_embeds)
    batch = pad_rows([prompt + asked.ids] * count, [len(asked.ids)] * count, pad_id=model.llama_tokenizer.pad_token_id)
    output = model.llama_model(
        inputs_embeds=embed(batch, model.llama_model.get_input_embeddings(), image_embeds), use_cache=False, **options
    )
    log_probs = output.logits[:, len(prompt) - 1 : -1].log_softmax(2)
    return output, log_probs.gather(2, batch.labels[:, len(prompt) :, None]).squeeze(2)


@dataclass(frozen=True)
class Seen:
    """One pass with all attention weights: `cross` [L, H, Q, P], `own` [L, H, Q, Q] of the queries, `text` [L', H', T, T]."""

    cross: list[Tensor]
    own: list[Tensor]
    text: list[Tensor]
    log_probs: Tensor
    slots: Tensor
    answer_start: int


def see(model: Any, image: Tensor, asked: Asked) -> Seen:
    """Read the image and the answer."""
    with eager_attention(model.Qformer, model.llama_model):
        features = features_of(model, image[None]).detach().requires_grad_()
        queries = model.query_tokens.expand(1, -1, -1)
        looked = model.Qformer(query_embeds=queries, encoder_hidden_states=features, output_attentions=True)
        read, log_probs = read_answer(model, model.llama_proj(looked.last_hidden_state), asked, output_attentions=True)
    (prompt,) = model.prompt_wrap([asked.parts])
    slots = torch.tensor([place for place, token in enumerate(prompt) if token == IMAGE])
    own = [each for each in looked.attentions if each.shape[-1] == queries.shape[1]]
    return Seen(list(looked.cross_attentions), own, list(read.attentions), log_probs[0], slots, len(prompt))


def as_map(patches: Tensor) -> Tensor:
    """[P] with the class token → [G, G] without."""
    side = int((len(patches) - 1) ** 0.5)
    return patches[1:].detach().view(side, side)


def weighed(seen: Seen, text: Tensor, cross: Tensor, spans: Sequence[Span]) -> Tensor:
    """The language model's attention [T, T] from each sentence to the image tokens, times theirs [Q, P] to the patches."""
    rows = [text[seen.answer_start - 1 + first : seen.answer_start + last, seen.slots].mean(0) for first, last in spans]
    return torch.stack([as_map(row @ cross) for row in rows])


def attention(model: Any, image: Tensor, asked: Asked, spans: Sequence[Span]) -> Maps:
    """Both attentions, each the mean over layers and heads."""
    seen = see(model, image, asked)
    text, cross = (torch.cat(layers).mean(dim=(0, 1)) for layers in (seen.text, seen.cross))
    return weighed(seen, text, cross, spans)


def rollout(model: Any, image: Tensor, asked: Asked, spans: Sequence[Span]) -> Maps:
    """Both attentions rolled out over the layers, half of each layer passing by (Abnar and Zuidema, ACL 2020)."""
    seen = see(model, image, asked)
    text = torch.eye(seen.text[0].shape[-1])
    for layer in seen.text:
        text = (layer[0].mean(0) + torch.eye(len(text))) / 2 @ text
    cross = torch.zeros_like(seen.cross[0][0, 0])
    for own, layer in zip(seen.own, seen.cross, strict=True):
        mixed = (own[0].mean(0) + torch.eye(len(cross))) / 2 @ cross
        cross = (mixed + layer[0].mean(0)) / 2
    return weighed(seen, text, cross, spans)


def gradient_attention(model: Any, image: Tensor, asked: Asked, spans: Sequence[Span]) -> Maps:
    """Cross-attention times its gradient, what is positive of it (after Chefer, Gur and Wolf, ICCV 2021)."""
    seen = see(model, image, asked)
    maps = []
    for first, last in spans:
        gradients = torch.autograd.grad(seen.log_probs[first : last + 1].sum(), seen.cross, retain_graph=True)
        positive = [(gradient * weights).clamp_min(0).sum(dim=(0, 1, 2)) for gradient, weights in zip(gradients, seen.cross, strict=True)]
        maps.append(as_map(torch.stack(positive).sum(0)))
    return torch.stack(maps)


def integrated_gradients(model: Any, image: Tensor, asked: Asked, spans: Sequence[Span]) -> Maps:
    """Pixels times their gradient on the way from the grey that occlusion hides with (Sundararajan, Taly and Yan, ICML 2017)."""
    fill = image.flatten(1).quantile(FILL_QUANTILE, dim=1)[:, None, None]
    shares = (torch.arange(INTEGRATION_STEPS) + 0.5)[:, None, None, None] / INTEGRATION_STEPS
    pixels = (fill + shares * (image - fill)).requires_grad_()
    _, log_probs = read_answer(model, model.encode_img(pixels), asked)
    maps = []
    for first, last in spans:
        (gradient,) = torch.autograd.grad(log_probs[:, first : last + 1].sum(), pixels, retain_graph=True)
        maps.append(F.avg_pool2d((gradient.mean(0) * (image - fill)).sum(0)[None], image.shape[-1] // 8)[0])
    return torch.stack(maps)


@torch.no_grad()
def feature_occlusion(model: Any, image: Tensor, asked: Asked, spans: Sequence[Span]) -> Maps:
    """Each patch hidden behind the ViT instead of before it: its features are replaced by the mean of all patches."""
    features = features_of(model, image[None])
    hidden = F.pad(torch.eye(features.shape[1] - 1), (1, 0))[..., None]
    every = torch.cat([features, torch.lerp(features, features[:, 1:].mean(1, keepdim=True), hidden)])
    queries = model.query_tokens.expand(len(every), -1, -1)
    embeds = model.llama_proj(model.Qformer(query_embeds=queries, encoder_hidden_states=every).last_hidden_state)
    _, log_probs = read_answer(model, embeds, asked)
    needs = [(log_probs[0] - log_probs[1:])[:, first : last + 1].sum(1) for first, last in spans]
    return torch.stack([as_map(F.pad(need, (1, 0))) for need in needs])


def occlusion(model: Any, image: Tensor, asked: Asked, spans: Sequence[Span]) -> Maps:
    """What the page shows."""
    return look_maps(model, image, asked.parts, asked.ids, spans)


METHODS: dict[str, Callable[[Any, Tensor, Asked, Sequence[Span]], Maps]] = {
    function.__name__: function for function in (attention, rollout, gradient_attention, integrated_gradients, feature_occlusion, occlusion)
}
CONTROL = "other sentence"


# The count -----------------------------------------------------------------------------------------------------------


def peak_side(heat: Any) -> str:
    """The patient's side in whose half of the film the map is largest; the patient's right is on the film's left."""
    heat = np.asarray(heat)
    _, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return "right" if column < heat.shape[1] / 2 else "left"


def count(model: Any, written: Sequence[Written], name: str) -> tuple[Counter, float]:
    """(finding, whether the peak lies on its side) → number of sentences; and the seconds that the maps took."""
    counts: Counter = Counter()
    seconds = 0.0
    for each in written:
        if name == CONTROL and each.other is None:
            continue
        spans = [each.other] * len(each.spans) if name == CONTROL and each.other else each.spans
        start = time.perf_counter()
        maps = METHODS["occlusion" if name == CONTROL else name](model, each.image, Asked(each.parts, each.ids), spans)
        seconds += time.perf_counter() - start
        counts.update((item.finding, peak_side(heat) == item.side) for item, heat in zip(each.findings, maps, strict=True))
    return counts, seconds


def main() -> None:
    """Measure, and print one line for each method."""
    names = [*METHODS, CONTROL]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cfg-path", default="eval_configs/quickstart.yaml")
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=names, default=names, metavar="NAME")
    args = parser.parse_args()
    model, written = reports(args.cfg_path, args.films, args.seed)
    print(f"{args.films} films, {len(written)} reports with true sentences about one-sided findings; {torch.get_num_threads()} threads")
    for name in args.methods:
        counts, seconds = count(model, written, name)
        right, wrong = (sum(number for (_, hit), number in counts.items() if hit is side) for side in (True, False))
        ratio = f"{right / wrong:.2f}" if wrong else "all right"
        each = ", ".join(f"{finding} {counts[finding, True]}:{counts[finding, False]}" for finding in sorted({key[0] for key in counts}))
        per = f"{1000 * seconds / max(1, right + wrong):.0f} ms a sentence, {1000 * seconds / len(written):.0f} ms a report"
        print(f"{name:21s} right side {right:4d}, wrong side {wrong:4d}, ratio {ratio}; {per}; {each}", flush=True)


if __name__ == "__main__":
    main()
