"""MiniGPT-4 for chest radiographs: EVA-ViT → Q-Former → one linear projection → a language model.

`B` samples, `S` image size, `Q` query tokens (32), `D_q` Q-Former width (768), `D_l` language model width, `T` tokens of a row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from omegaconf import MISSING, OmegaConf
from torch import Tensor, nn
from transformers import GenerationConfig

from xraygpt.common.checkpoint import load_checkpoint, model_state
from xraygpt.common.errors import CheckpointError, DataError
from xraygpt.common.registry import registry
from xraygpt.common.schema import path_field
from xraygpt.conversation.prompts import IMAGE_PLACEHOLDER, load_prompts, question_prompt, split_at_images
from xraygpt.models.blip2 import QFormerSize, VitSize, build_qformer, build_vit, half_dtype_for, halve_matrices
from xraygpt.models.language_model import identity_differences, identity_of, load_language_model, load_tokenizer
from xraygpt.models.report_writer import ReportWriter
from xraygpt.models.sequence import IGNORE, TokenBatch, answer_ids, embed, pad_rows, prompt_ids
from xraygpt.models.weights import load_into, load_qformer_weights, load_vit_weights


@dataclass
class MiniGPT4Config:
    """The `model:` block. A part is built at the size given here and trained, or loaded from a file and frozen, or both."""

    arch: str = "mini_gpt4"
    model_type: str = MISSING
    """Which default file fills in what is not given."""
    image_size: int = 224
    """Width and height of the processed image, in pixels."""

    vit_model: str = "eva_clip_g"
    vit: VitSize = field(default_factory=VitSize)
    vit_weights: Any = path_field(how_to_get="This is eva_vit_g.pth of LAVIS' BLIP-2; docs/training.md says where it is published.")
    """EVA-ViT weights; "": random."""
    freeze_vit: bool = True
    vit_precision: str = "auto"
    """Of a frozen ViT: auto, fp32, fp16, bf16. The CPU always computes in fp32."""
    drop_path_rate: float = 0.0
    use_grad_checkpoint: bool = False
    """Recompute the ViT's activations in the backward pass instead of keeping them."""

    num_query_token: int = 32
    qformer: QFormerSize = field(default_factory=QFormerSize)
    q_former_model: Any = path_field(
        how_to_get="This is blip2_pretrained_flant5xxl.pth of LAVIS' BLIP-2; docs/training.md says where it is published."
    )
    """BLIP-2 checkpoint with the Q-Former, ln_vision and query tokens; "": random."""
    freeze_qformer: bool = True

    llama_model: Any = path_field(
        default=MISSING,
        how_to_get="A language model folder as transformers saves it (Vicuna-7B: docs/training.md); for the small one: xraygpt tokenizer.",
    )
    """Folder of the language model."""
    llm_from_scratch: bool = False
    """Random weights of the size in the folder's config.json, for training all parts."""
    freeze_llm: bool = True
    llm_precision: str = "auto"
    """Of a frozen language model: auto, fp32, fp16, bf16. The CPU always computes in fp32."""
    low_resource: bool = False
    """Load the language model with 8-bit weights (needs the extra `quant`)."""

    freeze_proj: bool = False
    prompt_path: Any = path_field(default="", how_to_get="A text file with one prompt a line, such as prompts/alignment.txt.")
    """Prompts, one a line, each with <ImageHere>; "": the image alone, put into the template."""
    prompt_template: str = "###Patient: {} ###Doctor: "
    max_txt_len: int = 160
    """Longest target, in tokens, with its end symbol."""
    end_sym: str = "###"
    """Ends every target; generation stops at it."""
    ckpt: Any = path_field(
        default="",
        how_to_get="A checkpoint of an earlier stage (the quickstart's: make quickstart), or a published projection: docs/training.md.",
    )
    """Checkpoint, or list of checkpoints of which later ones win, with the weights of any parts."""
    allow_other_llm: bool = False
    """Load a checkpoint even if it was trained with another language model."""


@registry.register_model("mini_gpt4")
class MiniGPT4(ReportWriter):
    """Writes a report for a radiograph.

    Args:
        visual_encoder, ln_vision, qformer, query_tokens: see `Blip2Base`.
        llama_tokenizer, llama_model: tokenizer and causal language model, see `xraygpt.models.language_model`.
        prompt_list: prompts with `<ImageHere>`, from which each training sample gets one.
        prompt_template: text around a question, with `{}` in its place.
        max_txt_len: longest target in tokens.
        end_sym: ends every target.
        llm_name: how messages call the language model.
        llm_is_pretrained: whether its first loss should be far below that of guessing.
    """

    config_schema: ClassVar = MiniGPT4Config
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar = {
        "pretrain_vicuna": "configs/models/xraygpt.yaml",
        "quickstart": "configs/models/quickstart.yaml",
    }

    def __init__(
        self,
        *,
        visual_encoder: nn.Module,
        ln_vision: nn.Module,
        qformer: nn.Module,
        query_tokens: nn.Parameter,
        llama_tokenizer: Any,
        llama_model: Any,
        prompt_list: Sequence[str] = (IMAGE_PLACEHOLDER,),
        prompt_template: str = "{}",
        max_txt_len: int = 160,
        end_sym: str = "###",
        llm_name: str = "language model",
        llm_is_pretrained: bool = False,
    ) -> None:
        super().__init__(visual_encoder=visual_encoder, ln_vision=ln_vision, qformer=qformer, query_tokens=query_tokens)
        self.llama_tokenizer = llama_tokenizer
        self.llama_model = llama_model
        # What a call leaves open is transformers' default, not that of the language model's folder.
        self.llama_model.generation_config = GenerationConfig()
        self.llama_proj = nn.Linear(query_tokens.shape[-1], llama_model.config.hidden_size)
        self.prompt_list, self.prompt_template = list(prompt_list), prompt_template
        self.max_txt_len, self.end_sym = max_txt_len, end_sym
        self.llm_name, self.llm_is_pretrained = llm_name, llm_is_pretrained
        self.vit_precision = self.llm_precision = "auto"

    # Building --------------------------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, cfg: Any) -> "MiniGPT4":
        """Build the parts, load their weights, freeze what is to be frozen; see `MiniGPT4Config`. Nothing is downloaded."""
        cfg = OmegaConf.to_object(cfg)
        vit = build_vit(
            name=cfg.vit_model,
            image_size=cfg.image_size,
            size=cfg.vit,
            drop_path_rate=cfg.drop_path_rate,
            grad_checkpointing=cfg.use_grad_checkpoint,
        )
        qformer, query_tokens = build_qformer(vision_width=cfg.vit.embed_dim, num_query_token=cfg.num_query_token, size=cfg.qformer)
        prompts = load_prompts(cfg.prompt_path, cfg.prompt_template) if cfg.prompt_path else [question_prompt("", cfg.prompt_template)]
        model = cls(
            visual_encoder=vit,
            ln_vision=nn.LayerNorm(cfg.vit.embed_dim),
            qformer=qformer,
            query_tokens=query_tokens,
            llama_tokenizer=load_tokenizer(cfg.llama_model),
            llama_model=load_language_model(cfg.llama_model, from_scratch=cfg.llm_from_scratch, quantize_8bit=cfg.low_resource),
            prompt_list=prompts,
            prompt_template=cfg.prompt_template,
            max_txt_len=cfg.max_txt_len,
            end_sym=cfg.end_sym,
            llm_name=str(cfg.llama_model),
            llm_is_pretrained=not cfg.llm_from_scratch,
        )
        model.vit_precision, model.llm_precision = cfg.vit_precision, cfg.llm_precision
        if cfg.vit_weights:
            load_vit_weights(model.visual_encoder, cfg.vit_weights)
        if cfg.q_former_model:
            load_qformer_weights(model.Qformer, model.ln_vision, model.query_tokens, cfg.q_former_model)
        for path in [cfg.ckpt] if isinstance(cfg.ckpt, str) else cfg.ckpt:
            if path:
                model.load_parts(path, allow_other_llm=cfg.allow_other_llm)
        model.freeze_parts(vit=cfg.freeze_vit, qformer=cfg.freeze_qformer, llm=cfg.freeze_llm, proj=cfg.freeze_proj)
        return model

    @classmethod
    def skeleton(cls, cfg: Any) -> "MiniGPT4":
        """The model without storage (meta device), for counting parameters; no weight file is read."""
        without_weights = {"vit_weights": "", "q_former_model": "", "ckpt": "", "llm_from_scratch": True, "low_resource": False}
        return super().skeleton(OmegaConf.merge(cfg, without_weights))  # type: ignore[return-value]

    def freeze_parts(self, *, vit: bool, qformer: bool, llm: bool, proj: bool) -> None:
        """Freeze the named parts; `ln_vision` goes with the ViT, the query tokens with the Q-Former."""
        parts = [
            (vit, self.visual_encoder),
            (vit, self.ln_vision),
            (qformer, self.Qformer),
            (llm, self.llama_model),
            (proj, self.llama_proj),
        ]
        for frozen, part in parts:
            if frozen:
                self.freeze(part)
        self.query_tokens.requires_grad_(not qformer)

    def load_parts(self, path: str, *, allow_other_llm: bool = False) -> None:
        """Load the parts that a checkpoint holds.

        Raises:
            CheckpointError: parameters are missing, unexpected or misshapen; or the checkpoint was trained with another
                language model, unless `allow_other_llm`.
        """
        checkpoint = load_checkpoint(path)
        state = model_state(checkpoint)
        brings_llm = any(key.startswith("llama_model.") for key in state)
        stored = checkpoint.get("llm")
        if stored and not allow_other_llm:
            own = identity_of(self.llama_tokenizer, self.llama_model, self.llm_name)
            different = identity_differences(stored, own, compare_embedding=not brings_llm)
            if different:
                raise CheckpointError(
                    f"{path} was trained with the language model {stored['name']!r}, this model has {self.llm_name!r}: "
                    f"{'; '.join(different)}. Give the right one as model.llama_model; with another one the reports would be garbage "
                    "(model.allow_other_llm=True loads it all the same)."
                )
        load_into(self, state, path)
        self.seen_images.clear()
        self.llm_is_pretrained |= brings_llm

    def identity(self) -> dict[str, Any]:
        """Tokenizer hash, sizes and embedding sample of the language model."""
        return identity_of(self.llama_tokenizer, self.llama_model, self.llm_name)

    def identity_differences(self, stored: dict[str, Any]) -> list[str]:
        """How the language model differs from a stored identity. Embeddings that are trained here will have moved: they do not count."""
        trained = any(parameter.requires_grad for parameter in self.llama_model.parameters())
        return identity_differences(stored, self.identity(), compare_embedding=not trained)

    def place(self, device: torch.device) -> "MiniGPT4":
        """Move to `device`; frozen ViT and language model in half precision on CUDA, everything in float32 on the CPU."""
        quantized = getattr(self.llama_model, "is_quantized", False)
        for part, precision in ((self.visual_encoder, self.vit_precision), (self.llama_model, self.llm_precision)):
            if part is self.llama_model and quantized:
                continue
            frozen = not any(parameter.requires_grad for parameter in part.parameters())
            half = half_dtype_for(device, precision) if frozen else None
            if half is None:
                part.float()
            elif part is self.visual_encoder:
                halve_matrices(part, half)
            else:
                part.to(half)
            self.half_dtype = half or self.half_dtype
        for name, part in self.named_children():
            if not (name == "llama_model" and quantized):
                part.to(device)
        self.query_tokens.data = self.query_tokens.data.to(device)
        self.seen_images.clear()
        return self

    @property
    def device(self) -> torch.device:
        """Where images go."""
        return self.query_tokens.device

    # Training --------------------------------------------------------------------------------------------------

    def encode_img(self, image: Tensor) -> Tensor:
        """float32 [B, 3, S, S] → image embeddings [B, Q, D_l]."""
        with self.maybe_autocast():
            return self.llama_proj(self.encode_queries(image.to(self.device)))

    def prompt_wrap(self, prompts: Sequence[str | Sequence[str]]) -> list[list[int]]:
        """Token ids of each prompt, with `IMAGE` slots; a prompt is text with `<ImageHere>`, or already split into parts."""
        num_image_tokens = self.query_tokens.shape[1]
        parts = [split_at_images(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        return [prompt_ids(self.llama_tokenizer, each, num_image_tokens) for each in parts]

    def choose_prompts(self, samples: dict[str, Any]) -> list[str]:
        """Each sample's prompt: its own `instruction` if the batch has it, else the one of `prompt_list` that its seed picks."""
        if "instruction" in samples:
            return list(samples["instruction"])
        seeds = samples.get("prompt_seed", [0] * len(samples["image"]))
        return [self.prompt_list[int(seed) % len(self.prompt_list)] for seed in seeds]

    def forward(self, samples: dict[str, Any]) -> dict[str, Any]:
        """Mean cross-entropy over the tokens of caption + end symbol.

        Args:
            samples: a batch as documented in `xraygpt.datasets.data_utils`.

        Returns:
            {"loss": scalar float32, "num_tokens": int, number of supervised tokens}

        Raises:
            DataError: a sample has no token to learn from.
        """
        image_embeds = self.encode_img(samples["image"])
        prompts = self.prompt_wrap(self.choose_prompts(samples))
        answers = [answer_ids(self.llama_tokenizer, caption, self.end_sym, self.max_txt_len) for caption in samples["caption"]]
        empty = [str(samples.get("sample_id", range(len(answers)))[i]) for i, answer in enumerate(answers) if not answer]
        if empty:
            raise DataError(f"No token to learn from in sample {', '.join(empty)}: its caption and model.end_sym are empty.")
        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        batch = pad_rows(rows, [len(answer) for answer in answers], pad_id=self.llama_tokenizer.pad_token_id)
        return {"loss": self.loss_of(batch, image_embeds), "num_tokens": sum(map(len, answers))}

    def loss_of(self, batch: TokenBatch, image_embeds: Tensor) -> Tensor:
        """Mean cross-entropy over the labels of `batch`; logits are computed for the supervised positions only."""
        inputs = embed(batch, self.llama_model.get_input_embeddings(), image_embeds)
        targets = F.pad(batch.labels, (0, 1), value=IGNORE)[:, 1:].to(inputs.device)
        supervised = targets != IGNORE
        with self.maybe_autocast():
            logits = self.llama_model(
                inputs_embeds=inputs,
                attention_mask=batch.attention_mask.to(inputs.device),
                logits_to_keep=supervised,
                use_cache=False,
            ).logits
        return F.cross_entropy(logits.float(), targets[supervised])

    def first_loss_warning(self, loss: float) -> str | None:
        """A pretrained language model that starts at the loss of guessing is not the one that was meant."""
        guessing = math.log(self.llama_model.config.vocab_size)
        if not self.llm_is_pretrained or loss < 0.9 * guessing:
            return None
        return (
            f"The first loss is {loss:.2f}, about that of guessing (ln {self.llama_model.config.vocab_size} = {guessing:.2f}), although "
            f"{self.llm_name} is pretrained. Likely causes: its weights are not what they should be (delta weights that were never merged, "
            "another version), its tokenizer belongs to another model, or the end symbol and template are foreign to it."
        )
