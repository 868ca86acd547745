"""Bytes that a training step needs on one GPU, by part, and the largest batch for which they are there.

What is kept for the backward pass is listed layer by layer, as torch's autograd keeps it for the code in `xraygpt.models`, timm and
transformers: inputs of norms, queries, keys, values and outputs of attention, inputs of activation functions, and the inputs of linear
layers whose weight is trained. A test counts the same with `saved_tensors_hooks`.
"""

from dataclasses import replace

from xraygpt.models.precision import WEIGHT_BYTES
from xraygpt.planning.flops import rows_at_a_time
from xraygpt.planning.run import RunShape

MAX_BATCH = 4096
GIB = 2**30


def step_memory(run: RunShape) -> dict[str, float]:
    """Part → bytes at the peak of a step.

    "weights …" as stored; "gradients", "optimizer" (AdamW's two moments) and "DDP buckets" (with several ranks) in float32; "activations"
    as kept for the backward pass; "logits" of a chunk of supervised tokens with their gradient; "workspace" is what one layer has besides.
    """
    longest = run.longest
    trained = trained_parameters(run)
    kept = kept_bytes(longest)
    # In float32, where their gradient is written over them; in half precision as they come, so, and their gradient as it goes.
    logit_bytes = 2 + 4 + 2 if run.half else 4
    logits = logit_bytes * rows_at_a_time(longest) * run.size.llm.vocab_size if run.gradient_reaches("llm") else 0.0
    return {
        **weight_memory(run),
        "gradients": 4.0 * trained,
        "optimizer": 8.0 * trained,
        "DDP buckets": 4.0 * trained if run.num_gpus > 1 else 0.0,
        "activations": sum(kept.values()),
        "logits": logits,
        "workspace": _workspace(longest),
    }


def total_memory(run: RunShape) -> float:
    """Bytes at the peak of a step."""
    return sum(step_memory(run).values())


def largest_batch(run: RunShape, bytes_there: float) -> int:
    """The most samples a step that fit; 0 if not even one does."""
    low, high = 0, MAX_BATCH
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if total_memory(replace(run, batch_size=middle)) <= bytes_there else (low, middle - 1)
    return low


def cache_bytes(run: RunShape, *, num_images: int, views: int = 1) -> float:
    """The feature cache's size on disk, in half precision."""
    return 2.0 * run.size.num_query_token * run.size.qformer.hidden_size * num_images * views


def keys_and_values_bytes(run: RunShape, *, rows: int, tokens: float) -> float:
    """What generation keeps of `tokens` tokens in each row."""
    llm = run.size.llm
    return 2.0 * rows * tokens * llm.num_layers * llm.num_key_value_heads * llm.head_dim * min(4.0, max(2.0, WEIGHT_BYTES[run.llm_dtype]))


# Weights ------------------------------------------------------------------------------------------------------------


def trained_parameters(run: RunShape) -> int:
    """How many numbers are trained."""
    counts = run.size.parameter_counts()
    of_part = {
        "vit": counts["visual_encoder"] + counts["ln_vision"],
        "qformer": counts["Qformer"] + counts["query_tokens"],
        "proj": counts["llama_proj"],
        "llm": counts["llama_model"],
    }
    return sum(of_part[part] for part in run.trained)


def weight_memory(run: RunShape) -> dict[str, float]:
    """Part → bytes of its weights. The Q-Former and the projection are float32; vectors and embeddings are not quantised."""
    counts, llm = run.size.parameter_counts(), run.size.llm
    rest = 2.0 if run.half else 4.0
    quantised = llm.num_layers * llm.layer_matrices if run.llm_dtype in ("int8", "nf4") else 0
    others = WEIGHT_BYTES[run.llm_dtype] if not quantised else rest
    # Under autocast, float32 matrices that a gradient goes through have a copy in half precision until the step's end.
    copies = {part: 2.0 * (run.half and run.gradient_reaches(part)) for part in ("vit", "qformer", "llm")}
    others += copies["llm"] if run.llm_dtype == "fp32" else 0.0
    weights = {"weights LLM": quantised * WEIGHT_BYTES[run.llm_dtype] + (counts["llama_model"] - quantised) * others}
    weights["weights projection"] = 4.0 * counts["llama_proj"]
    if not run.cached:
        weights["weights ViT"] = counts["visual_encoder"] * (WEIGHT_BYTES[run.vit_dtype] + copies["vit"])
        weights["weights Q-Former"] = (4.0 + copies["qformer"]) * (counts["Qformer"] + counts["query_tokens"] + counts["ln_vision"])
    return weights


# What is kept for the backward pass ---------------------------------------------------------------------------------


def kept_bytes(run: RunShape) -> dict[str, float]:
    """Part → bytes that the forward pass keeps for the backward pass, weights left out."""
    image = run.size.num_query_token * run.size.qformer.hidden_size * run.act_bytes * run.batch_size
    return {
        "vit": _vit(run) if "vit" in run.trained else 0.0,
        "qformer": _qformer(run) if run.gradient_reaches("qformer") else 0.0,
        "proj": image if "proj" in run.trained and not run.gradient_reaches("qformer") else 0.0,
        "llm": _language_model(run) if run.gradient_reaches("llm") else 0.0,
        "logits": _logits(run) if run.gradient_reaches("llm") else 0.0,
    }


def _vit(run: RunShape) -> float:
    """A trained ViT: per layer, inputs and outputs of two norms, queries, keys, values, output, and twice the hidden width."""
    size, act = run.size, run.act_bytes
    width, tokens = size.vit.embed_dim, run.batch_size * size.num_patches
    pixels = 4.0 * run.batch_size * 3 * size.image_size**2
    if "vit" in run.recompute:
        return pixels + tokens * width * 4.0 * (size.vit.depth + 1)
    vectors = 2 * 4 + 6 * act  # norms read float32
    small = 4 * (4 + size.vit.num_heads)  # means and deviations of the norms, logarithms of the attention's sums
    layer = width * vectors + 2 * size.vit_hidden * act + small
    return pixels + tokens * (size.vit.depth * layer + width * (4 + act) + 8)


def _qformer(run: RunShape) -> float:
    """A Q-Former that a gradient goes through; what a trained one keeps besides are the inputs of its linear layers."""
    size, act = run.size, run.act_bytes
    qformer, is_trained = size.qformer, "qformer" in run.trained
    queries, patches = run.batch_size * size.num_query_token, run.batch_size * size.num_patches
    own = 8 if is_trained else 6
    cross = 4 if is_trained else 3
    vectors = own * qformer.num_hidden_layers + cross * size.num_cross_layers + 1
    hidden = (2 if is_trained else 1) * qformer.intermediate_size * qformer.num_hidden_layers
    small = (
        4 * (qformer.num_attention_heads + 4) * qformer.num_hidden_layers + 4 * (qformer.num_attention_heads + 2) * size.num_cross_layers
    )
    image = 2 * qformer.hidden_size * size.num_cross_layers * act
    if is_trained and "vit" not in run.trained:
        image += size.vit.embed_dim * act  # the input of the keys' and values' layers, which a trained ViT keeps in any case
    return queries * ((vectors * qformer.hidden_size + hidden) * act + small) + patches * image


def _language_model(run: RunShape) -> float:
    """Per layer: inputs of two norms in float32, queries, keys, values, output, and the hidden width twice."""
    llm, act = run.size.llm, run.act_bytes
    tokens, width = run.batch_size * run.row_tokens, llm.hidden_size
    before = run.batch_size * run.beginning
    if "llm" in run.recompute:
        return tokens * llm.num_layers * width * act + tokens * (width + 1) * 4
    of_heads = llm.num_heads * llm.head_dim
    keys = (tokens + before) * of_heads * 2 * act
    mask = tokens * (run.row_tokens + run.beginning) * act if run.beginning else 0.0  # of each row, shared by the layers
    vectors = 2 * 4 * width + 2 * of_heads * act + 2 * llm.intermediate_size * act + 4 * (llm.num_heads + 2)
    last = tokens * (width + 1) * 4
    if "llm" in run.trained:  # inputs of the linear layers (of attention's last one, the rows put together), of the norms' weights
        vectors += (4 * width + of_heads + llm.intermediate_size) * act
        last += tokens * width * act
    positions = 2 * tokens * llm.head_dim * act
    return llm.num_layers * (tokens * vectors + keys) + mask + last + positions


def _logits(run: RunShape) -> float:
    """Gradients that are there when the loss is: of the last hidden states, and of the last layer where it is trained."""
    llm = run.size.llm
    of_last_layer = 4.0 * llm.vocab_size * llm.hidden_size if "llm" in run.trained else 0.0
    return run.num_supervised * llm.hidden_size * run.act_bytes + of_last_layer


def _workspace(run: RunShape) -> float:
    """What exists besides while the widest layer is computed, forward in the ViT or backward in the language model."""
    size, act = run.size, run.act_bytes
    vit = 0.0 if run.cached else run.batch_size * size.num_patches * (2 * size.vit_hidden + 4 * size.vit.embed_dim) * act
    layer = run.batch_size * run.row_tokens * (3 * size.llm.intermediate_size + 6 * size.llm.hidden_size) * act
    return max(vit, layer)
