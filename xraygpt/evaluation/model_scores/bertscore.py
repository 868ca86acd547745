"""BERTScore (Zhang et al. 2020, https://arxiv.org/abs/1904.09675): tokens matched by the cosine of their embeddings.

Computed by the package bert-score with any encoder in a local folder. No idf weights and no rescaling with a baseline: published
values that were rescaled, or that come from another encoder or layer, do not compare.
"""

import copy
import importlib.metadata
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from xraygpt.common.checkpoint_guard import check_weights_file
from xraygpt.common.errors import CheckpointError
from xraygpt.common.model_folder import (
    CONFIG,
    accept_config,
    check_folder,
    checked_config,
    read_json,
    tokenizer_options,
    weight_files,
)
from xraygpt.common.model_size import counted, numbers_in
from xraygpt.common.tensor_checks import require_finite
from xraygpt.evaluation.metric import Array, Corpus, Metric, mean_formula, with_count
from xraygpt.evaluation.model_scores.weights import (
    ENCODER_WEIGHTS,
    VOCABULARIES,
    fingerprint,
    reading,
    require_files,
    require_package,
)

INSTALL = "make install-extras EXTRAS=bertscore"
SOURCE = (
    "Put the encoder there as Hugging Face publishes it (config.json, model.safetensors or pytorch_model.bin, the tokenizer): "
    "`hf download distilbert/distilroberta-base --local-dir …`."
)
MAX_TOKENS = 512
"""Texts are cut there if the tokenizer names no limit of its own: all encoders of bert-score's table read as much."""


def compute(corpus: Corpus, folder: Path) -> list[Metric]:
    """Precision, recall and F1: means over the samples, the best of several references each (as bert-score does).

    An empty report counts 0.

    Raises:
        ConfigError: bert-score is not installed.
        CheckpointError: the folder lacks files, or they cannot be read.
    """
    package = require_package("bert_score", install=INSTALL)
    files = require_files(folder, ["config.json", ENCODER_WEIGHTS, VOCABULARIES], source=SOURCE)
    encoder = load_encoder(files[0].parent, fingerprint(files))
    with reading(files[0].parent):
        scores = pair_scores(corpus, encoder)
    setting = f"model:{encoder.name}|layer:{encoder.layer}|tokens:{encoder.max_tokens}|idf:none|rescale:none|refs:best"
    version = f"lib:bert-score-{package.__version__}+transformers-{importlib.metadata.version('transformers')}"
    return [
        Metric(f"bertscore_{part}", f"bertscore_{part}|{setting}|{version}", f"BERTScore {label}", "model", True, statistics, mean_formula)
        for part, label, statistics in zip(
            ("precision", "recall", "f1"), ("precision", "recall", "F1"), (with_count(column) for column in scores.T), strict=True
        )
    ]


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder. `name` holds a hash of its files; `layer` counts from 1; texts are cut after `max_tokens`."""

    name: str
    layer: int
    max_tokens: int
    model: Any
    tokenizer: Any


@lru_cache(maxsize=1)
def load_encoder(folder: Path, content: str) -> Encoder:
    """The encoder of an absolute folder, cut off after the layer that is scored; `content` is the fingerprint of its files."""
    # Loaded here, not by bert-score: that takes every path with "t5" in it for a T5 model, and asks the hub.
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, AutoModel, AutoTokenizer

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    check_folder(folder)
    with reading(folder), checked_config(folder) as checked:
        config = AutoConfig.from_pretrained(checked, **local)
        accept_config(config, folder)
        if config.is_encoder_decoder:
            raise CheckpointError(f"{folder} holds a {config.model_type}, an encoder with a decoder. Expected an encoder such as BERT.")
        if type(config) not in MODEL_FOR_MASKED_LM_MAPPING and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise CheckpointError(f"{folder} holds a {config.model_type}. Expected an encoder of text such as BERT.")
        config.num_hidden_layers = scored_layer(folder, config.num_hidden_layers)
        files = weight_files(folder)
        for path in files:
            check_weights_file(path)
        with counted(numbers_in(files), folder / CONFIG, "the most that its files of weights can hold."):
            AutoModel.from_config(copy.deepcopy(config), trust_remote_code=False)
        model, report = AutoModel.from_pretrained(folder, config=config, **local, output_loading_info=True)
        require_finite(model.named_parameters(), folder)
        # A first word is a word like others. bert-score passes the option on to `encode`, where transformers 5 ignores it.
        prefix = {"add_prefix_space": True} if config.model_type in ("roberta", "gpt2") else {}
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, **local, **tokenizer_options(folder), **prefix)
    # The pooler stands behind the layer that is scored; encoders published with another head have none.
    if missing := sorted(key for key in report["missing_keys"] if not key.startswith("pooler.")):
        raise CheckpointError(f"The weights in {folder} lack {len(missing)} parameters that config.json asks for: {missing[:3]}. {SOURCE}")
    # Without a limit of its own a tokenizer returns a number that overflows in bert-score.
    tokenizer.model_max_length = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", MAX_TOKENS), MAX_TOKENS)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Encoder(f"{folder.name}-{content}", config.num_hidden_layers, tokenizer.model_max_length, model.eval().to(device), tokenizer)


def scored_layer(folder: Path, num_layers: int) -> int:
    """The layer of an encoder that is scored, counted from 1: that of bert-score's table, else the last.

    The table knows an encoder by its published name: the one in config.json, or that of the folder.
    """
    table = require_package("bert_score.utils", install=INSTALL).model2layers
    by_name = {name.rsplit("/", 1)[-1]: layer for name, layer in table.items()}
    published = str(read_json(folder / CONFIG).get("_name_or_path", ""))
    names = (published.rstrip("/").rsplit("/", 1)[-1], folder.name)
    return min(next((by_name[name] for name in names if name in by_name), num_layers), num_layers)


def pair_scores(corpus: Corpus, encoder: Encoder) -> Array:
    """Precision, recall and F1 of each sample: float64 [N, 3]."""
    weight: defaultdict[int, float] = defaultdict(lambda: 1.0)
    weight |= {encoder.tokenizer.sep_token_id: 0.0, encoder.tokenizer.cls_token_id: 0.0}
    # transformers 5 has no longer what bert-score calls for an empty text.
    rows = [row for row, prediction in enumerate(corpus.predictions) if prediction.strip()]
    pairs = [(row, reference) for row in rows for reference in corpus.references[row]]
    scores = np.zeros((len(corpus.ids), 3))
    scores[rows] = -np.inf
    if pairs:
        # One text at a time: within a batch bert-score's order, and so the last digits, would differ from run to run.
        values = require_package("bert_score.utils", install=INSTALL).bert_cos_score_idf(
            encoder.model,
            [reference for _, reference in pairs],
            [corpus.predictions[row] for row, _ in pairs],
            encoder.tokenizer,
            weight,
            batch_size=1,
            device=encoder.model.device,
        )
        np.maximum.at(scores, [row for row, _ in pairs], values.double().numpy())
    return scores
