"""Floating-point operations of a training step on one GPU, by part; a multiplication with its addition counts as 2.

Only products of matrices are counted, as torch's FlopCounterMode does, with which a test compares. A linear layer costs 2 m n k in its
forward pass, and in its backward pass as much again for the gradient of its input, where that is needed, and for that of its weight, where
it is trained. Attention (a fused kernel) costs 4 T_q T_k D forward; its backward pass computes five such products where the forward pass
computes two.

`B`, `T`, `N` as in `xraygpt.planning.run`; `P` patches, `Q` query tokens.
"""

from dataclasses import dataclass

from xraygpt.planning.run import RunShape

ATTENTION_BACKWARD = 2.5


@dataclass(frozen=True)
class Flops:
    """Of one part in one step."""

    forward: float = 0.0
    backward: float = 0.0
    recomputed: float = 0.0
    """A second forward pass, in the backward pass."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.forward + self.backward + self.recomputed


def step_flops(run: RunShape) -> dict[str, Flops]:
    """Part → FLOPs of one step on one GPU. With a feature cache the vision parts have none."""
    vision = {} if run.cached else {"vit": _vit(run), "qformer": _qformer(run)}
    return {**vision, "proj": _projection(run), "llm": _language_model(run), "logits": _logits(run)}


def encoding_flops(run: RunShape) -> float:
    """Of one image's way through frozen vision parts: what filling a feature cache costs for each image and view."""
    return _vit_matrices(run) + _vit_attention(run) + _patches(run) + 2 * _qformer_matrices(run)[0] + _qformer_attention(run)


def total_flops(run: RunShape) -> float:
    """Of one step on one GPU."""
    return sum(part.total for part in step_flops(run).values())


# Parts --------------------------------------------------------------------------------------------------------------


def _patches(run: RunShape) -> float:
    """The convolution that cuts one image into patches."""
    size = run.size
    return 2.0 * (size.num_patches - 1) * 3 * size.vit.patch_size**2 * size.vit.embed_dim


def _vit_matrices(run: RunShape) -> float:
    size = run.size
    width = size.vit.embed_dim
    return 2.0 * size.num_patches * size.vit.depth * (4 * width * width + 2 * width * size.vit_hidden)


def _vit_attention(run: RunShape) -> float:
    size = run.size
    return 4.0 * size.num_patches**2 * size.vit.embed_dim * size.vit.depth


def _vit(run: RunShape) -> Flops:
    matrices, attention, patches = _vit_matrices(run), _vit_attention(run), _patches(run)
    forward = matrices + attention + patches
    if "vit" not in run.trained:
        return Flops(run.batch_size * forward)
    backward = 2 * matrices + ATTENTION_BACKWARD * attention + patches  # the image has no gradient
    recomputed = matrices + attention if "vit" in run.recompute else 0.0
    return Flops(*(run.batch_size * each for each in (forward, backward, recomputed)))


def _qformer_matrices(run: RunShape) -> tuple[float, float]:
    """Multiplications of one image: all, and those of keys and values, which are made from the ViT's output."""
    size, qformer = run.size, run.size.qformer
    width = qformer.hidden_size
    keys = 2.0 * size.num_patches * size.vit.embed_dim * width * size.num_cross_layers
    own = 4 * width * width + 2 * width * qformer.intermediate_size
    return size.num_query_token * (qformer.num_hidden_layers * own + size.num_cross_layers * 2 * width * width) + keys, keys


def _qformer_attention(run: RunShape) -> float:
    queries, width = run.size.num_query_token, run.size.qformer.hidden_size
    own = 4.0 * queries**2 * width * run.size.qformer.num_hidden_layers
    return own + 4.0 * queries * run.size.num_patches * width * run.size.num_cross_layers


def _qformer(run: RunShape) -> Flops:
    matrices, keys = _qformer_matrices(run)
    attention = _qformer_attention(run)
    forward = 2 * matrices + attention
    if not run.gradient_reaches("qformer"):
        return Flops(run.batch_size * forward)
    of_inputs = matrices if "vit" in run.trained else matrices - keys
    of_weights = matrices if "qformer" in run.trained else 0.0
    return Flops(run.batch_size * forward, run.batch_size * (2 * (of_inputs + of_weights) + ATTENTION_BACKWARD * attention))


def _projection(run: RunShape) -> Flops:
    forward = 2.0 * run.batch_size * run.size.num_query_token * run.size.qformer.hidden_size * run.size.llm.hidden_size
    return Flops(forward, forward * (("proj" in run.trained) + run.gradient_reaches("qformer")))


def _language_model(run: RunShape) -> Flops:
    llm, rows = run.size.llm, run.batch_size
    tokens = rows * run.row_tokens
    matrices = 2.0 * tokens * llm.num_layers * llm.layer_matrices
    attention = 4.0 * tokens * (run.row_tokens + run.beginning) * llm.num_heads * llm.head_dim * llm.num_layers
    if not run.gradient_reaches("llm"):
        return Flops(matrices + attention)
    backward = matrices * (2 if "llm" in run.trained else 1) + ATTENTION_BACKWARD * attention
    # The last product of a layer keeps nothing, so it is not computed again.
    last = 2.0 * tokens * llm.num_layers * llm.intermediate_size * llm.hidden_size
    recomputed = matrices + attention - last if "llm" in run.recompute else 0.0
    return Flops(matrices + attention, backward, recomputed)


def _logits(run: RunShape) -> Flops:
    llm = run.size.llm
    forward = 2.0 * run.num_supervised * llm.hidden_size * llm.vocab_size
    if not run.gradient_reaches("llm"):
        return Flops(forward)
    return Flops(forward, forward * (2 if "llm" in run.trained else 1))


def rows_at_a_time(run: RunShape) -> float:
    """Supervised tokens whose logits exist at once."""
    return min(run.num_supervised, run.chunk_rows)
