"""The shape of a run: everything that FLOPs, bytes and seconds depend on, as plain numbers.

`B` samples a step and GPU, `T` tokens of a row that are computed, `N` supervised tokens of a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError
from xraygpt.models.sizes import LLAMA_SHAPED, LlmSize, ModelSize

PARTS = ("vit", "qformer", "proj", "llm")

MIN_BEGINNING = 4
"""A shorter constant beginning is read with each row."""

PUBLISHED_SIZES = {
    "7b": LlmSize(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_layers=32, num_heads=32, num_key_value_heads=32, head_dim=128
    ),
    "13b": LlmSize(
        vocab_size=32000, hidden_size=5120, intermediate_size=13824, num_layers=40, num_heads=40, num_key_value_heads=40, head_dim=128
    ),
    "8b": LlmSize(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_layers=32, num_heads=32, num_key_value_heads=8, head_dim=128
    ),
    "mid": LlmSize(
        vocab_size=32000, hidden_size=1024, intermediate_size=2816, num_layers=12, num_heads=16, num_key_value_heads=16, head_dim=64
    ),
}
"""Language models by size, for planning without their files: Vicuna and LLaMA 7B and 13B, Llama 3 8B, and that of the benchmarks."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Tokens of a row, averages over the data.

    Attributes:
        beginning: of the prompt before the image, begin-of-text among them; the same in every row.
        prompt: of the whole prompt, without the image's.
        answer: of a caption with its end symbol.
        longest: of the longest caption; what a batch must have memory for.
        source: where these numbers are from, in words.
    """

    beginning: int
    prompt: float
    answer: float
    longest: float
    source: str


@dataclass(frozen=True, kw_only=True)
class RunShape:
    """One GPU's part of a training step.

    Attributes:
        trained: those of `PARTS` that are trained.
        vit_dtype, llm_dtype: how the parts are stored: fp32, bf16, fp16, int8, nf4.
        half: matrices are multiplied in half precision (autocast on CUDA); trained parts are stored in float32 all the same.
        cached: the images' features come from disk, and the vision parts are not loaded.
        recompute: those of "vit" and "llm" whose activations are computed again in the backward pass.
        chunk_rows: supervised tokens whose logits exist at a time.
        batch_size: B.
        accumulate: steps whose gradients make one update.
        num_gpus: ranks.
    """

    size: ModelSize
    trained: frozenset[str]
    vit_dtype: str
    llm_dtype: str
    half: bool
    cached: bool
    recompute: frozenset[str]
    chunk_rows: int
    batch_size: int
    accumulate: int
    num_gpus: int
    texts: Texts

    @property
    def beginning(self) -> int:
        """Tokens at the beginning of each row whose keys and values are computed once a run: with a frozen language model."""
        return self.texts.beginning if "llm" not in self.trained and self.texts.beginning >= MIN_BEGINNING else 0

    @property
    def row_tokens(self) -> float:
        """T; rows are packed, so that there is no padding."""
        return self.texts.prompt + self.texts.answer + self.size.num_query_token - self.beginning

    @property
    def longest(self) -> "RunShape":
        """The same with a batch of the longest captions, which must fit as well."""
        return replace(self, texts=replace(self.texts, answer=self.texts.longest))

    @property
    def num_supervised(self) -> float:
        """N."""
        return self.batch_size * self.texts.answer

    @property
    def act_bytes(self) -> int:
        """Bytes of a number that is kept between layers."""
        return 2 if self.half else 4

    def gradient_reaches(self, part: str) -> bool:
        """Whether the output of a part carries a gradient: it or one before it is trained."""
        return any(each in self.trained for each in PARTS[: PARTS.index(part) + 1])


def shape_of(cfg: Config, *, texts: Texts, on_cuda: bool, num_gpus: int, llm_size: str | None = None) -> RunShape:
    """The shape of a configuration's training.

    Args:
        on_cuda: decides what "auto" means for the type in which frozen parts are stored.
        llm_size: one of `PUBLISHED_SIZES`, in place of the language model's folder.

    Raises:
        ConfigError: the model is none whose size can be told from numbers alone.
    """
    model, run = cfg.model_cfg, cfg.run_cfg
    if model.get("arch") != "mini_gpt4":
        raise ConfigError(f"xraygpt plan knows the parts of mini_gpt4, not those of {model.get('arch')!r}.")
    llm = PUBLISHED_SIZES[llm_size] if llm_size else LlmSize.read(model.llama_model)
    if llm is None:
        raise ConfigError(
            f"No size of a language model in {Path(model.llama_model).absolute()}: expected config.json with a model_type of "
            f"{' or '.join(LLAMA_SHAPED)}, and a tokenizer. Name a published size instead: --llm-size {' | '.join(PUBLISHED_SIZES)}."
        )
    frozen = {"vit": model.freeze_vit, "qformer": model.freeze_qformer, "proj": model.freeze_proj, "llm": model.freeze_llm}
    trained = frozenset(part for part in PARTS if not frozen[part])
    half = on_cuda and bool(run.amp)
    return RunShape(
        size=ModelSize.with_llm(model, llm),
        trained=trained,
        vit_dtype=_stored(model.frozen_dtype.vit, "vit" in trained, on_cuda),
        llm_dtype=_stored(model.frozen_dtype.llm, "llm" in trained, on_cuda),
        half=half,
        cached=has_feature_cache(cfg),
        recompute=frozenset(part for part in ("vit", "llm") if model.grad_checkpoint[part]),
        chunk_rows=model.loss_chunk_rows,
        batch_size=run.batch_size_train,
        accumulate=run.accum_grad_iters,
        num_gpus=num_gpus,
        texts=texts,
    )


def _stored(wanted: str, is_trained: bool, on_cuda: bool) -> str:
    if is_trained:
        return "fp32"
    return ("bf16" if on_cuda else "fp32") if wanted == "auto" else wanted


def has_feature_cache(cfg: Config) -> bool:
    """Whether the configuration keeps the images' features on disk."""
    cache: Any = cfg.run_cfg.get("feature_cache")
    return bool(cache and cache.get("path"))


def assumed_texts(*, prompt: float, answer: float, longest: float, beginning: int) -> Texts:
    """Numbers of tokens that are given or assumed, where there is no data to count them in."""
    source = f"assumed: {answer:.0f} tokens a caption, {longest:.0f} the longest, {prompt:.0f} of the prompt"
    return Texts(beginning=beginning, prompt=prompt, answer=answer, longest=longest, source=source)


def counted_texts(prompts: Sequence[int], answers: Sequence[int], *, beginning: int, source: str) -> Texts:
    """Averages of counted tokens."""
    return Texts(
        beginning=beginning,
        prompt=sum(prompts) / len(prompts),
        answer=sum(answers) / len(answers),
        longest=max(answers),
        source=source,
    )
