"""The values recorded from the original code, and our model with its weights."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xraygpt.models import MiniGPT4
from xraygpt.models.blip2 import QFormerSize, VitSize, build_qformer, build_vit
from xraygpt.models.language_model import load_language_model, load_tokenizer
from xraygpt.models.sequence import IGNORE, TokenBatch, pad_rows

TOLERANCE = 1e-4
"""Absolute. Both sides compute in float32, but add in another order (fused attention, other kernels): 1e-5 is expected. A wrong
weight, norm or mask shows at 1e-2 and above."""


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.detach(), theirs, atol=TOLERANCE, rtol=0)


def unloaded_model(folder: Path, **settings: Any) -> MiniGPT4:
    """Our model at the sizes of the recording, with random weights, frozen but for the projection."""
    qformer, query_tokens = build_qformer(vision_width=128, num_query_token=32, size=QFormerSize(128, 4, 4, 512, 2))
    model = MiniGPT4(
        visual_encoder=build_vit(name="eva_clip_g", image_size=224, size=VitSize(14, 128, 4, 4, 4.3637)),
        ln_vision=nn.LayerNorm(128),
        qformer=qformer,
        query_tokens=query_tokens,
        llama_tokenizer=load_tokenizer(folder / "llama"),
        llama_model=load_language_model(folder / "llama", from_scratch=True),
        **settings,
    )
    model.freeze_parts(vit=True, qformer=True, llm=True, proj=False)
    return model


def recorded_batch(model: MiniGPT4, answers: list[list[int]], samples: list[int]) -> TokenBatch:
    """The model's first prompt and the recorded answers of some samples, padded with end-of-text as the original does."""
    prompt = model.prompt_wrap(model.prompt_list[:1])[0]
    chosen = [answers[i] for i in samples]
    return pad_rows([prompt + answer for answer in chosen], list(map(len, chosen)), pad_id=model.llama_tokenizer.eos_token_id)


def supervised_ids(labels: Tensor) -> list[list[int]]:
    """The ids of each row's supervised positions."""
    return [row[row != IGNORE].tolist() for row in labels]
