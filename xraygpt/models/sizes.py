"""The sizes of a MiniGPT4 as plain numbers, from its configuration and the language model's config.json alone.

No part is built and no library of one is imported, which takes several times as long as the rest of `train.py --check`. A test holds the
counts equal to those of the built model.

`P` patches + class token, `Q` query tokens, `D_v`, `D_q`, `D_l` widths of ViT, Q-Former and language model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xraygpt.common.errors import CheckpointError
from xraygpt.common.model_folder import clean_config
from xraygpt.models.blip2 import QFormerSize, VitSize

LLAMA_SHAPED = ("llama", "mistral")
"""Values of "model_type" in config.json: RMS norms, rotary positions, grouped keys and values, a gated feed-forward part."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, kw_only=True)
class LlmSize:
    """Size of a language model of LLaMA's shape."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    is_tied: bool = False
    """Input and output embeddings are one matrix."""
    attention_bias: bool = False
    mlp_bias: bool = False

    @classmethod
    def read(cls, folder: str | Path) -> "LlmSize | None":
        """The size that a language model folder states; None if it is of another shape, or no such folder."""
        folder = Path(folder).expanduser()
        if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
            return None
        try:
            config = clean_config(folder)
            if config["model_type"] not in LLAMA_SHAPED or "quantization_config" in config:
                return None
            width, heads = config["hidden_size"], config["num_attention_heads"]
            size = cls(
                vocab_size=config["vocab_size"],
                hidden_size=width,
                intermediate_size=config["intermediate_size"],
                num_layers=config["num_hidden_layers"],
                num_heads=heads,
                num_key_value_heads=config.get("num_key_value_heads") or heads,
                head_dim=config.get("head_dim") or width // heads,
                is_tied=bool(config.get("tie_word_embeddings", False)),
                attention_bias=bool(config.get("attention_bias", False)),
                mlp_bias=bool(config.get("mlp_bias", False)),
            )
        except (CheckpointError, KeyError, TypeError, ZeroDivisionError):  # building the model says what is wrong with the file
            return None
        return size if all(isinstance(value, bool) or (isinstance(value, int) and value > 0) for value in vars(size).values()) else None

    @property
    def layer_matrices(self) -> int:
        """Numbers in the matrices of one layer: queries, keys, values, output; gate, up, down."""
        attention = 2 * self.hidden_size * (self.num_heads + self.num_key_value_heads) * self.head_dim
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def num_parameters(self) -> int:
        """All parameters."""
        attention_biases = (self.num_heads + 2 * self.num_key_value_heads) * self.head_dim + self.hidden_size
        biases = self.attention_bias * attention_biases + self.mlp_bias * (2 * self.intermediate_size + self.hidden_size)
        layer = self.layer_matrices + biases + 2 * self.hidden_size
        return self.num_layers * layer + self.hidden_size + (1 if self.is_tied else 2) * self.vocab_size * self.hidden_size


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Size of all parts."""

    image_size: int
    vit: VitSize
    num_query_token: int
    qformer: QFormerSize
    llm: LlmSize

    @classmethod
    def of(cls, cfg: Any) -> "ModelSize | None":
        """The sizes in a `model:` block that follows `MiniGPT4Config`; None where `LlmSize.read` has none."""
        llm = LlmSize.read(cfg.llama_model)
        return None if llm is None else cls.with_llm(cfg, llm)

    @classmethod
    def with_llm(cls, cfg: Any, llm: LlmSize) -> "ModelSize":
        """The sizes in a `model:` block, with a language model of another size than that of its folder."""
        return cls(
            image_size=cfg.image_size,
            vit=VitSize(**cfg.vit),
            num_query_token=cfg.num_query_token,
            qformer=QFormerSize(**cfg.qformer),
            llm=llm,
        )

    @property
    def num_patches(self) -> int:
        """P."""
        return (self.image_size // self.vit.patch_size) ** 2 + 1

    @property
    def vit_hidden(self) -> int:
        """Width inside the ViT's feed-forward layers."""
        return int(self.vit.embed_dim * self.vit.mlp_ratio)

    @property
    def num_cross_layers(self) -> int:
        """Layers of the Q-Former in which the queries look at the image."""
        return len(range(0, self.qformer.num_hidden_layers, self.qformer.cross_attention_frequency))

    def parameter_counts(self) -> dict[str, int]:
        """Part, as the model names it → number of parameters."""
        width = self.qformer.hidden_size
        return {
            "query_tokens": self.num_query_token * width,
            "visual_encoder": self._vit_parameters(),
            "ln_vision": 2 * self.vit.embed_dim,
            "Qformer": self._qformer_parameters(),
            "llama_model": self.llm.num_parameters,
            "llama_proj": (width + 1) * self.llm.hidden_size,
        }

    def _vit_parameters(self) -> int:
        width, hidden = self.vit.embed_dim, self.vit_hidden
        attention = 4 * width * width + 3 * width  # biases of queries, values and output
        feed_forward = 2 * width * hidden + hidden + width
        embedding = 3 * self.vit.patch_size**2 * width + width + width + self.num_patches * width
        return embedding + self.vit.depth * (attention + feed_forward + 4 * width)

    def _qformer_parameters(self) -> int:
        width, hidden = self.qformer.hidden_size, self.qformer.intermediate_size
        own = 4 * (width + 1) * width + 2 * width
        cross = 2 * (width + 1) * width + 2 * (self.vit.embed_dim + 1) * width + 2 * width
        feed_forward = (width + 1) * hidden + (hidden + 1) * width + 2 * width
        return 2 * width + self.qformer.num_hidden_layers * (own + feed_forward) + self.num_cross_layers * cross
