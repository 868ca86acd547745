"""MiniGPT-4 for chest radiographs: EVA-ViT → Q-Former → one linear projection → a language model.

`B` samples, `S` image size, `Q` query tokens (32), `D_q` Q-Former width (768), `D_l` language model width, `T` tokens of a row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from omegaconf import MISSING, OmegaConf
from torch import Tensor, nn

from xraygpt.common.checkpoint import load_checkpoint, model_state
from xraygpt.common.errors import CheckpointError, ConfigError, DataError
from xraygpt.common.registry import registry
from xraygpt.common.schema import path_field
from xraygpt.conversation.prompts import IMAGE_PLACEHOLDER, load_prompts, question_prompt, split_at_images
from xraygpt.models.blip2 import QFormerSize, VitSize, check_vit
from xraygpt.models.caches import ConstantBeginning
from xraygpt.models.compilation import check_compiler, compile_llm
from xraygpt.models.gated_mlp import keep_less_of_gates
from xraygpt.models.language_model import identity_of, load_language_model, load_tokenizer
from xraygpt.models.loss import CHUNK_ROWS, supervised_loss
from xraygpt.models.packing import can_pack, packed
from xraygpt.models.precision import FrozenDtype, check_frozen_dtype, place_part, stored_as
from xraygpt.models.recomputation import recompute_layers
from xraygpt.models.report_writer import ReportWriter
from xraygpt.models.sequence import RowLength, TokenBatch, answer_ids, embed, pad_rows, prompt_ids, without_padding
from xraygpt.models.sizes import ModelSize
from xraygpt.models.vision import (
    VISION_PARTS,
    VisionParts,
    absent_vision,
    build_vision,
    checkpoint_paths,
    load_vision,
    parts_in,
)
from xraygpt.models.weights import load_into, saved_identity_differences, without_weights


@dataclass
class GradCheckpoint:
    """Which parts keep no activations for the backward pass and compute them again there: slower, and far less memory."""

    vit: bool = False
    """Of use where the ViT is trained: a frozen one keeps nothing in any case."""
    llm: bool = False
    """Of use for a frozen language model too: the projection's gradient comes through it."""


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
    drop_path_rate: float = 0.0

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

    freeze_proj: bool = False
    frozen_dtype: FrozenDtype = field(default_factory=FrozenDtype)
    """How frozen parts are stored and computed: auto, fp32, bf16, fp16, int8, nf4, for `vit` and `llm` apart."""
    grad_checkpoint: GradCheckpoint = field(default_factory=GradCheckpoint)
    compile_llm: bool = False
    """torch.compile for the language model's layers in training: a slower first step, faster ones after it (docs/performance.md)."""
    loss_chunk_rows: int = CHUNK_ROWS
    """Supervised tokens whose logits exist at a time: 256 are 32 MiB in float32 at 32,000 tokens. Fewer need less memory."""
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
        loss_chunk_rows: see `xraygpt.models.loss.supervised_loss`.
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
        loss_chunk_rows: int = CHUNK_ROWS,
        llm_name: str = "language model",
        llm_is_pretrained: bool = False,
    ) -> None:
        super().__init__(visual_encoder=visual_encoder, ln_vision=ln_vision, qformer=qformer, query_tokens=query_tokens)
        self.llama_tokenizer = llama_tokenizer
        self.llama_model = llama_model
        keep_less_of_gates(llama_model)
        from transformers import GenerationConfig

        # What a call leaves open is transformers' default, not that of the language model's folder.
        self.llama_model.generation_config = GenerationConfig()
        self.llama_proj = nn.Linear(query_tokens.shape[-1], llama_model.config.hidden_size)
        self.prompt_list, self.prompt_template = list(prompt_list), prompt_template
        self.max_txt_len, self.end_sym, self.loss_chunk_rows = max_txt_len, end_sym, loss_chunk_rows
        self.llm_name, self.llm_is_pretrained = llm_name, llm_is_pretrained
        self.frozen_dtype, self._stored = FrozenDtype(), ["float32", "float32"]
        self.beginning = ConstantBeginning()

    # Building --------------------------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, cfg: Any, *, vision_key: str = "") -> "MiniGPT4":
        """Build the parts, load their weights, freeze what is to be frozen; see `MiniGPT4Config`. Nothing is downloaded.

        Args:
            vision_key: names the feature cache whose rows the model is given in place of images: the vision parts are then not loaded,
                unless an image comes after all. "": there is none.
        """
        cfg = OmegaConf.to_object(cfg)
        _check_parts(cfg)
        paths = checkpoint_paths(cfg.ckpt)
        vision = absent_vision(cfg) if vision_key else build_vision(cfg)
        with without_weights(cfg.llm_from_scratch and any("llama_model" in parts_in(path) for path in paths)):
            llm = load_language_model(cfg.llama_model, from_scratch=cfg.llm_from_scratch)
        prompts = _prompts_of(cfg)
        model = cls(
            **vision,
            llama_tokenizer=load_tokenizer(cfg.llama_model),
            llama_model=llm,
            prompt_list=prompts,
            prompt_template=cfg.prompt_template,
            max_txt_len=cfg.max_txt_len,
            end_sym=cfg.end_sym,
            loss_chunk_rows=cfg.loss_chunk_rows,
            llm_name=str(cfg.llama_model),
            llm_is_pretrained=not cfg.llm_from_scratch,
        )
        model.frozen_dtype = cfg.frozen_dtype
        if vision_key:
            model.vision_key, model.absent_vision = vision_key, lambda: VisionParts.from_config(cfg)
        else:
            load_vision(model, cfg)
        for path in paths:
            model.load_parts(path, allow_other_llm=cfg.allow_other_llm)
        if cfg.compile_llm:
            compile_llm(model.llama_model)
        if cfg.grad_checkpoint.llm:
            recompute_layers(model.llama_model)
        model.freeze_parts(vit=cfg.freeze_vit, qformer=cfg.freeze_qformer, llm=cfg.freeze_llm, proj=cfg.freeze_proj)
        return model

    @classmethod
    def skeleton(cls, cfg: Any) -> "MiniGPT4":
        """The model without storage (meta device), for counting parameters; no weight file is read."""
        no_files = {"vit_weights": "", "q_former_model": "", "ckpt": "", "llm_from_scratch": True}
        return super().skeleton(OmegaConf.merge(cfg, no_files))  # type: ignore[return-value]

    @classmethod
    def count_parameters(cls, cfg: Any) -> dict[str, tuple[int, int]]:
        """As of the skeleton, but without one where the sizes tell all: building it would take most of the time of `--check`."""
        size = ModelSize.of(cfg) if cls is MiniGPT4 else None
        if size is None:
            return super().count_parameters(cfg)
        cfg = OmegaConf.to_object(cfg)
        _check_parts(cfg)
        _prompts_of(cfg)
        frozen = {
            "query_tokens": cfg.freeze_qformer,
            "visual_encoder": cfg.freeze_vit,
            "ln_vision": cfg.freeze_vit,
            "Qformer": cfg.freeze_qformer,
            "llama_model": cfg.freeze_llm,
            "llama_proj": cfg.freeze_proj,
        }
        return {part: (count, 0 if frozen[part] else count) for part, count in size.parameter_counts().items()}

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
        checkpoint = load_checkpoint(path, mmap=True)
        state = model_state(checkpoint, path)
        brings_llm = any(key.startswith("llama_model.") for key in state)
        stored = checkpoint.get("llm")
        if stored and not allow_other_llm:
            own = identity_of(self.llama_tokenizer, self.llama_model, self.llm_name, with_embedding=not brings_llm)
            different = saved_identity_differences(stored, own, path, compare_embedding=not brings_llm)
            if different:
                raise CheckpointError(
                    f"{path} was trained with the language model {stored.get('name')!r}, this model has {self.llm_name!r}: "
                    f"{'; '.join(different)}. Give the right one as model.llama_model; with another one the reports would be garbage "
                    "(model.allow_other_llm=True loads it all the same)."
                )
        if self.absent_vision is not None:
            state = {key: value for key, value in state.items() if key.split(".")[0] not in VISION_PARTS}
        if state:
            load_into(self, state, path)
        if brings_llm:
            self.llama_model.tie_weights()
        self.seen_images.clear()
        self.beginning.forget()
        self.llm_is_pretrained |= brings_llm

    def identity(self) -> dict[str, Any]:
        """Tokenizer hash, sizes and embedding sample of the language model."""
        return identity_of(self.llama_tokenizer, self.llama_model, self.llm_name)

    def identity_differences(self, stored: dict[str, Any]) -> list[str]:
        """How the language model differs from a stored identity. Embeddings that are trained here will have moved: they do not count."""
        trained = any(parameter.requires_grad for parameter in self.llama_model.parameters())
        return saved_identity_differences(stored, self.identity(), "The checkpoint", compare_embedding=not trained)

    def place(self, device: torch.device) -> "MiniGPT4":
        """Move to `device`: frozen ViT and language model as `frozen_dtype` says, everything else in float32."""
        vit = self.frozen_dtype.vit if _is_frozen(self.visual_encoder) else "fp32"
        llm = self.frozen_dtype.llm if _is_frozen(self.llama_model) else "fp32"
        self._stored = [stored_as(vit, device), stored_as(llm, device)]
        self.vision_dtype = place_part(self.visual_encoder, device, vit, keep_vectors=True)
        if not getattr(self.llama_model, "is_quantized", False):  # the folder's own weights may be: transformers has placed them
            place_part(self.llama_model, device, llm, last="lm_head")
        for part in (self.ln_vision, self.Qformer, self.llama_proj):
            place_part(part, device)
        self.query_tokens.data = self.query_tokens.data.to(device, torch.float32)
        self.seen_images.clear()
        self.beginning.forget()
        return self

    @property
    def precision(self) -> str:
        """How ViT and language model are stored: "float32", or "bfloat16, int8" where they differ."""
        return ", ".join(dict.fromkeys(self._stored))

    @property
    def device(self) -> torch.device:
        """Where images go."""
        return self.query_tokens.device

    # Training --------------------------------------------------------------------------------------------------

    def encode_img(self, image: Tensor) -> Tensor:
        """float32 [B, 3, S, S], or features in their place (see `encode_queries`) → image embeddings [B, Q, D_l]."""
        with self.maybe_autocast():
            return self.llama_proj(self.encode_queries(image.to(self.device)))

    def row_length(self) -> RowLength:
        """Counts the tokens of a training row; holding only the tokenizer, it can go to other processes."""
        lengths = [len(prompt) for prompt in self.prompt_wrap(self.prompt_list)]
        return RowLength(self.llama_tokenizer, lengths, self.end_sym, self.max_txt_len)

    def prompt_wrap(self, prompts: Sequence[str | Sequence[str]]) -> list[list[int]]:
        """Token ids of each prompt, with `IMAGE` slots; a prompt is text with `<ImageHere>`, or already split into parts."""
        num_image_tokens = self.query_tokens.shape[1]
        parts = [split_at_images(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        return [prompt_ids(self.llama_tokenizer, each, num_image_tokens) for each in parts]

    def choose_prompts(self, samples: dict[str, Any]) -> list[str]:
        """Each sample's prompt: its own `instruction` if the batch has it, else the one of `prompt_list` that its seed picks."""
        if "instruction" in samples:
            return list(samples["instruction"])
        seeds = samples.get("prompt_seed", [0] * len(samples["caption"]))
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
        """Mean cross-entropy over the labels of `batch`; what a frozen language model reads first in every row is read once a run."""
        llm, look_up = self.llama_model, self.llama_model.get_input_embeddings()
        beginning, read = None, 0
        if _is_frozen(llm):
            beginning, read = self.beginning.before(llm, lambda: self.prompt_wrap(self.prompt_list), batch)
        if can_pack(llm):
            batch, lengths = without_padding(batch, skip=read)
            seen = packed(lengths, beginning).arguments(look_up.weight.device)
            return supervised_loss(llm, embed(batch, look_up, image_embeds), batch.labels, chunk_rows=self.loss_chunk_rows, **seen)
        inputs, labels = embed(batch, look_up, image_embeds)[:, read:], batch.labels[:, read:]
        return supervised_loss(llm, inputs, labels, chunk_rows=self.loss_chunk_rows, past_key_values=beginning)

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


def _check_parts(cfg: MiniGPT4Config) -> None:
    check_vit(name=cfg.vit_model, image_size=cfg.image_size, size=cfg.vit)
    check_frozen_dtype(cfg.frozen_dtype.vit, part="vit", frozen=cfg.freeze_vit)
    check_frozen_dtype(cfg.frozen_dtype.llm, part="llm", frozen=cfg.freeze_llm)
    if cfg.compile_llm:
        check_compiler()
    if cfg.loss_chunk_rows < 1:
        raise ConfigError(f"model.loss_chunk_rows is {cfg.loss_chunk_rows}; at least one token's logits must exist at a time.")


def _prompts_of(cfg: MiniGPT4Config) -> list[str]:
    return load_prompts(cfg.prompt_path, cfg.prompt_template) if cfg.prompt_path else [question_prompt("", cfg.prompt_template)]


def _is_frozen(part: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in part.parameters())
