"""A training step at 'mid' size: python benchmarks/training_step.py [--repeats 5] [--batch 3] [--profile]

Batches of real Open-i samples whose captions have 100 to 151 tokens, float32, one thread, all in turn. Compared are

- our step: forward, backward, update, as `train.py` does them;
- the bare parts: timm's ViT, transformers' Q-Former and LLaMA by themselves on the same tokens, with logits of the supervised rows, and
  the gradient of the image embeddings;
- the original's way: every logit, keys and values kept, attention mask, prompt embedded for each sample;
- our step when the features are in the cache, against LLaMA's forward and backward by themselves.
"""

from xraygpt.common.startup import started  # first, as in train.py

# isort: split
import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _mid import in_turn, median_and_spread, model_section, of_length, prepare_openi, ratio, size_named, target_row, write_files
from torch import Tensor, nn

from xraygpt.common.optims import build_adamw
from xraygpt.common.schema import check_section
from xraygpt.common.updater import Updater
from xraygpt.datasets.dataloaders import evenly_spaced
from xraygpt.models import MiniGPT4, MiniGPT4Config
from xraygpt.models.frozen_linear import onednn_is_faster, use_onednn
from xraygpt.models.loss import logits_of
from xraygpt.models.sequence import IGNORE, embed, pad_rows
from xraygpt.processors import load_processor, open_image


class Steps:
    """The ways to make a step, over one batch.

    Attributes:
        logit_rows: how many rows of logits our step computed last.
    """

    def __init__(self, model: Any, samples: dict[str, Any]) -> None:
        self.model, self.samples = model, samples
        with torch.no_grad():
            self.features = model.encode_queries(samples["image"])
        self.updater = Updater(
            model=model,
            optimizer=build_adamw(model, lr=0.0, weight_decay=0.0, beta2=0.999),  # the weights stay as they are
            lr_scheduler=None,  # type: ignore[arg-type]
            device=torch.device("cpu"),
            amp=False,
            iters_per_epoch=10**9,
        )
        prompts = model.prompt_wrap(model.choose_prompts(samples))
        tokenizer = model.llama_tokenizer
        answers = [tokenizer(text + model.end_sym, add_special_tokens=False).input_ids for text in samples["caption"]]
        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        self.batch = pad_rows(rows, [len(answer) for answer in answers], pad_id=tokenizer.pad_token_id)
        self.real = sum(map(len, rows))
        self.supervised = sum(map(len, answers))
        self.logit_rows = 0
        model.llama_model.get_output_embeddings().register_forward_hook(self._count)
        self.gated = {layer.mlp: layer.mlp.forward for layer in model.llama_model.model.layers}

    def _count(self, module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        self.logit_rows += output.shape[:-1].numel()

    @contextmanager
    def products_by(self, library: str) -> Iterator[None]:
        """The frozen linear layers multiply by MKL or by oneDNN inside."""
        kinds = {module: module.__class__ for module in self.model.modules() if isinstance(module, nn.Linear)}
        separate = {module: module.qkv_bias_separate for module in self.model.modules() if hasattr(module, "qkv_bias_separate")}
        if library == "oneDNN":
            use_onednn(self.model)
        else:
            for module in kinds:
                module.__class__ = nn.Linear
        try:
            yield
        finally:
            for module, kind in kinds.items():
                module.__class__ = kind
            for module, value in separate.items():
                module.qkv_bias_separate = value

    @contextmanager
    def as_in_libraries(self) -> Iterator[None]:
        """And its gated layers transformers' own."""
        for module in self.gated:
            del module.forward
        try:
            with self.products_by("MKL"):
                yield
        finally:
            for module, forward in self.gated.items():
                module.forward = forward

    def ours_by(self, library: str) -> float:
        with self.products_by(library):
            return self.ours()

    def _ours(self, samples: dict[str, Any]) -> float:
        self.logit_rows = 0
        output = self.model(samples)
        self.updater.backward(output["loss"], output["num_tokens"], samples)
        self.updater.update(0)
        return self.updater.settle()[-1].loss

    def ours(self) -> float:
        return self._ours(self.samples)

    def ours_cached(self) -> float:
        return self._ours(self.samples | {"image": self.features})

    def _see(self) -> Tensor:
        model = self.model
        with torch.no_grad():
            seen = model.ln_vision(model.visual_encoder(self.samples["image"]))
            queries = model.query_tokens.expand(len(seen), -1, -1)
            return model.Qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state

    def bare_llm(self) -> float:
        with self.as_in_libraries():
            return self._bare_llm(self.features)

    def bare_parts(self) -> float:
        with self.as_in_libraries():
            return self._bare_llm(self._see())

    def original(self) -> float:
        with self.as_in_libraries():
            return self._original()

    def _bare_llm(self, features: Tensor) -> float:
        model = self.model
        with torch.no_grad():
            image = model.llama_proj(features)
        image.requires_grad_()
        inputs = embed(self.batch, model.llama_model.get_input_embeddings(), image)
        hidden = model.llama_model.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        targets = self.batch.labels[:, 1:]
        chosen = targets != IGNORE
        loss = F.cross_entropy(logits_of(model.llama_model, hidden[:, :-1][chosen]), targets[chosen])
        loss.backward()
        return loss.item()

    def _original(self) -> float:
        """As the original: prompt halves embedded for each sample, everything masked and concatenated, all logits, a cache built."""
        model, llm = self.model, self.model.llama_model
        image = model.llama_proj(self._see())
        tokenizer, look_up = model.llama_tokenizer, llm.get_input_embeddings()
        before, after = (
            tokenizer([text] * len(image), return_tensors="pt", add_special_tokens=False).input_ids
            for text in model.choose_prompts(self.samples)[0].split("<ImageHere>")
        )
        tokenizer.padding_side = "right"
        texts = [text + model.end_sym for text in self.samples["caption"]]
        tokens = tokenizer(texts, return_tensors="pt", padding="longest", truncation=True, max_length=160, add_special_tokens=False)
        begin = look_up(torch.full((len(image), 1), tokenizer.bos_token_id))
        inputs = torch.cat([begin, look_up(before), image, look_up(after), look_up(tokens.input_ids)], dim=1)
        skipped = inputs.shape[1] - tokens.input_ids.shape[1]
        mask = torch.cat([torch.ones(len(image), skipped, dtype=torch.int64), tokens.attention_mask], dim=1)
        labels = F.pad(tokens.input_ids.masked_fill(tokens.attention_mask == 0, IGNORE), (skipped, 0), value=IGNORE)
        loss = llm(inputs_embeds=inputs, attention_mask=mask, labels=labels, use_cache=True).loss
        loss.backward()
        self.updater.optimizer.step()
        self.updater.optimizer.zero_grad()
        return loss.item()


def make_steps(folder: Path, size: dict[str, Any], batch: int) -> Steps:
    """The model at a size, and a batch of real samples."""
    annotations = prepare_openi(folder / "openi")
    write_files(folder, size, [ann["caption"] for ann in annotations])
    cfg, problems = check_section(MiniGPT4Config, model_section(folder, size), "model")
    assert not problems, problems
    model = MiniGPT4.from_config(cfg).place(torch.device("cpu")).train()
    long = of_length(annotations, model.llama_tokenizer)
    chosen = [long[i] for i in evenly_spaced(len(long), batch)]
    processor = load_processor("blip2_image_eval", {"image_size": 224})
    images = [processor(open_image(next((folder / "openi" / "image").glob(f"{ann['image_id']}.*")))) for ann in chosen]
    return Steps(model, {"image": torch.stack(images), "caption": [ann["caption"] for ann in chosen]})


def main() -> None:
    """Measure, and print ratios with their spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a small model, to try the command")
    parser.add_argument("--profile", action="store_true", help="also print torch's profile of our step")
    args = parser.parse_args()
    started()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        steps = make_steps(Path(folder), size_named("small" if args.small else "mid"), args.batch)
        print(f"{args.batch} samples, {steps.real} tokens with images and prompts, {steps.batch.ids.numel()} with padding, "
              f"{steps.supervised} supervised")  # fmt: skip
        own, other = ("oneDNN", "MKL") if onednn_is_faster() else ("MKL", "oneDNN")
        ways = {"ours": steps.ours, "bare parts": steps.bare_parts, "original": steps.original}
        ways |= {"ours, cached": steps.ours_cached, "bare LLM": steps.bare_llm, "ours, other": partial(steps.ours_by, other)}
        losses = {name: way() for name, way in ways.items()}
        assert max(losses.values()) - min(losses.values()) < 1e-3, losses
        steps.ours()
        rows = steps.logit_rows
        seconds = in_turn(ways, args.repeats)
        for name, values in seconds.items():
            print(f"{name:<14} {median_and_spread(values)} s   loss {losses[name]:.5f}")
        vision = [a - b for a, b in zip(seconds["bare parts"], seconds["bare LLM"], strict=True)]
        print(f"{'of it vision':<14} {median_and_spread(vision)} s\n")
        target_row("step without cache", "sum of the bare parts", "≤ 1.10 x", ratio(seconds["ours"], seconds["bare parts"]))
        target_row("step without cache", "the original's way", "≥ 1.3 x faster", ratio(seconds["original"], seconds["ours"]))
        target_row("step with cache", "bare LLM", "≤ 1.10 x", ratio(seconds["ours, cached"], seconds["bare LLM"]))
        target_row("rows of logits", "supervised tokens", "1.00", f"{rows / steps.supervised:.2f} ({rows} of {steps.supervised})")
        target_row(f"step without cache, by {own}", f"the same by {other}", "", ratio(seconds["ours"], seconds["ours, other"]))
        if args.profile:
            with torch.profiler.profile() as profile:
                steps.ours()
            print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))


if __name__ == "__main__":
    main()
