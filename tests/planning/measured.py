"""Small models of the real architecture, what a step of them does, and the shape that the plan gets of it."""

import math
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from tests.saved_tensors import kept_bytes
from xraygpt.common.schema import check_section
from xraygpt.models import MiniGPT4, MiniGPT4Config
from xraygpt.models.sizes import ModelSize
from xraygpt.models.small_language_model import train_tokenizer, write_language_model
from xraygpt.planning.run import PARTS, RunShape, Texts

CAPTIONS = [
    "The heart is normal in size. The lungs are clear.",
    "No pleural effusion.",
    "The lungs are clear. The heart is enlarged. No pneumothorax.",
]

SIZES: dict[str, dict[str, Any]] = {
    "narrow": {
        "image_size": 56,
        "vit": {"patch_size": 14, "embed_dim": 64, "depth": 2, "num_heads": 4, "mlp_ratio": 4.0},
        "num_query_token": 8,
        "qformer": {
            "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 192,
            "cross_attention_frequency": 2, "dropout": 0.0,
        },
        "llm": {"hidden_size": 96, "num_layers": 3, "num_heads": 4, "intermediate_size": 256, "context_length": 512},
    },
    "deep vision": {
        "image_size": 112,
        "vit": {"patch_size": 14, "embed_dim": 96, "depth": 6, "num_heads": 6, "mlp_ratio": 4.3637},
        "num_query_token": 16,
        "qformer": {
            "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 384,
            "cross_attention_frequency": 1, "dropout": 0.0,
        },
        "llm": {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "intermediate_size": 128, "context_length": 512},
    },
    "wide language": {
        "image_size": 64,
        "vit": {"patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 2, "mlp_ratio": 4.0},
        "num_query_token": 32,
        "qformer": {
            "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128,
            "cross_attention_frequency": 2, "dropout": 0.0,
        },
        "llm": {"hidden_size": 256, "num_layers": 6, "num_heads": 8, "intermediate_size": 688, "context_length": 512},
    },
}  # fmt: skip

GPU_SIZE = {
    "image_size": 224,
    "vit": {"patch_size": 14, "embed_dim": 1408, "depth": 4, "num_heads": 16, "mlp_ratio": 4.3637},
    "num_query_token": 32,
    "qformer": {
        "hidden_size": 768, "num_hidden_layers": 4, "num_attention_heads": 12, "intermediate_size": 3072,
        "cross_attention_frequency": 2, "dropout": 0.0,
    },
    "llm": {"hidden_size": 1024, "num_layers": 12, "num_heads": 16, "intermediate_size": 2816, "context_length": 512},
}  # fmt: skip

WAYS: dict[str, dict[str, Any]] = {
    "projection": {},
    "projection, layers computed again": {"grad_checkpoint": {"vit": False, "llm": True}},
    "projection, logits in chunks": {"loss_chunk_rows": 8},
    "Q-Former": {"freeze_qformer": False},
    "all parts": {"freeze_vit": False, "freeze_qformer": False, "freeze_llm": False},
}
"""What is trained, and how."""

Built = tuple[Any, dict[str, Any], RunShape]


def build(size: str, way: str, folder: Path, device: str = "cpu") -> Built:
    """A model with random weights, a batch for it, and the shape of a step with that batch."""
    values = {**{**SIZES, "mid": GPU_SIZE}[size], **WAYS[way]}
    llm = values.pop("llm")
    if not folder.exists():
        write_language_model(folder, train_tokenizer(CAPTIONS * 4, vocab_size=400), **llm)
    given = {"model_type": "quickstart", "llama_model": str(folder), "llm_from_scratch": True, "vit_weights": "", "q_former_model": ""}
    cfg, problems = check_section(MiniGPT4Config, {**given, **values}, "model")
    assert not problems
    model = MiniGPT4.from_config(cfg).place(torch.device(device)).train()
    samples = {"image": torch.randn(len(CAPTIONS), 3, cfg.image_size, cfg.image_size), "caption": CAPTIONS, "prompt_seed": [0, 0, 0]}
    return model, samples, shape(cfg, model, samples, on_cuda=device == "cuda")


def shape(cfg: Any, model: Any, samples: dict[str, Any], *, on_cuda: bool) -> RunShape:
    """What `xraygpt.planning.run.shape_of` makes of a configuration, for this very batch."""
    frozen = {"vit": cfg.freeze_vit, "qformer": cfg.freeze_qformer, "proj": cfg.freeze_proj, "llm": cfg.freeze_llm}
    size = ModelSize.of(cfg)
    assert size is not None
    (prompt, *_) = model.prompt_wrap(model.choose_prompts(samples))
    answers = [len(model.llama_tokenizer(caption + model.end_sym, add_special_tokens=False).input_ids) for caption in samples["caption"]]
    mean = sum(answers) / len(answers)
    texts = Texts(
        beginning=prompt.index(-1),
        prompt=len(prompt) - size.num_query_token,
        answer=mean,
        longest=max(answers),
        source="counted",
    )
    return RunShape(
        size=size,
        trained=frozenset(part for part in PARTS if not frozen[part]),
        vit_dtype="bf16" if on_cuda and cfg.freeze_vit else "fp32",
        llm_dtype="bf16" if on_cuda and cfg.freeze_llm else "fp32",
        half=on_cuda,
        cached=False,
        recompute=frozenset(part for part in ("vit", "llm") if cfg.grad_checkpoint[part]),
        chunk_rows=cfg.loss_chunk_rows,
        batch_size=len(answers),
        accumulate=1,
        num_gpus=1,
        texts=texts,
    )


@register_flop_formula(torch.ops.mkldnn._linear_pointwise)
def _flops_of_frozen_linear(x: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """2 x R x I x O, as torch counts its own linear layers."""
    return 2 * math.prod(x) * weight[0]


def counted_flops(model: Any, samples: dict[str, Any]) -> int:
    """FLOPs of a step, as torch counts them."""
    model(samples)  # the beginning's keys and values are there from now on
    with FlopCounterMode(display=False) as counter:
        model(samples)["loss"].backward()
    return counter.get_total_flops()


def counted_bytes(model: Any, samples: dict[str, Any]) -> int:
    """Bytes that the forward pass keeps for the backward pass, parameters left out; what is shared counts once."""
    model(samples)  # as in `counted_flops`
    return kept_bytes(model, lambda: model(samples)["loss"])
