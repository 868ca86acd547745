"""RadGraph F1 (Delbrouck et al. 2022, https://aclanthology.org/2022.findings-emnlp.319): entities and relations of both reports.

Computed by the package radgraph, whose three levels are three metrics: `simple` compares entities (tokens and label), `partial` also
whether an entity has relations, `complete` also the relations themselves. They differ by many points on the same text, and so do the
models (radgraph, radgraph-xl, modern-radgraph-xl): compare only numbers with the same id.
"""

import importlib.metadata
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from xraygpt.common.checkpoint_guard import check_weights_file
from xraygpt.common.errors import CheckpointError
from xraygpt.common.files import make_folder, write_json
from xraygpt.common.model_folder import (
    CONFIG,
    TOKENIZER_CONFIG,
    accept_config,
    check_folder,
    clean_config,
    read_json,
    tokenizer_options,
)
from xraygpt.common.model_size import counted, numbers_in
from xraygpt.common.tensor_checks import require_finite
from xraygpt.evaluation.metric import Array, Corpus, Metric, mean_formula, with_count
from xraygpt.evaluation.model_scores.weights import (
    VOCABULARIES,
    fingerprint,
    reading,
    require_files,
    require_package,
)

LEVELS = ("simple", "partial", "complete")
VARIANTS = ("modern-radgraph-xl", "radgraph-xl", "radgraph")
"""Models for chest radiographs that the package knows."""

ENCODER = "encoder"
"""Folder, inside that of the weights, of the encoder's configuration and tokenizer."""
INSTALL = "make install-extras EXTRAS=radgraph"
SOURCE = (
    "The folder must hold the content of radgraph-xl.tar.gz (or another variant) of huggingface.co/StanfordAIMI/RRG_scorers: config.json, "
    f"vocabulary/, weights.th; and in {ENCODER}/ the config.json and the tokenizer of the encoder that its config.json calls model_name."
)


def compute(corpus: Corpus, folder: Path) -> list[Metric]:
    """F1 at the three levels: means over the samples, the best of several references each. An empty report counts 0.

    Raises:
        ConfigError: radgraph is not installed.
        CheckpointError: the folder lacks files, or they cannot be read.
    """
    require_package("radgraph", install=INSTALL)
    needed = ["config.json", "weights.th", "vocabulary", f"{ENCODER}/config.json", [f"{ENCODER}/{name}" for name in VOCABULARIES]]
    config, weights, vocabulary, *encoder = require_files(folder, needed, source=SOURCE)
    reader = load_reader(config.parent, fingerprint([config, weights, *sorted(vocabulary.glob("*.txt")), *encoder]))
    with reading(config.parent):
        scores = reader.scores(corpus)
    setting = f"model:{reader.name}|refs:best|lib:radgraph-{importlib.metadata.version('radgraph')}"
    return [
        Metric(f"radgraph_{level}", f"radgraph_{level}|{setting}", f"RadGraph F1 {level}", "model", True, with_count(column), mean_formula)
        for level, column in zip(LEVELS, scores.T, strict=True)
    ]


class Reader:
    """Reads entities and relations from reports; each distinct text once, also over several calls."""

    def __init__(self, name: str, model: Any) -> None:
        self.name = name
        self._model = model
        self._known: dict[str, dict[str, Any]] = {}

    def scores(self, corpus: Corpus) -> Array:
        """F1 of each sample at the three levels: float64 [N, 3]."""
        rewards = require_package("radgraph.rewards", install=INSTALL)
        rows = [row for row, prediction in enumerate(corpus.predictions) if prediction.strip()]
        self._read([text for row in rows for text in (corpus.predictions[row], *corpus.references[row])])
        scores = np.zeros((len(corpus.ids), len(LEVELS)))
        for row in rows:
            stated = self._known[corpus.predictions[row]]
            scores[row] = np.max([rewards.compute_reward(stated, self._known[text], "all") for text in corpus.references[row]], axis=0)
        return scores

    def _read(self, texts: Sequence[str]) -> None:
        unknown = sorted(set(texts) - self._known.keys())
        if unknown:
            with removed_tokenizer_methods():
                annotations = self._model(unknown)
            self._known |= {text: annotations[str(index)] for index, text in enumerate(unknown)}


@lru_cache(maxsize=1)
def load_reader(folder: Path, content: str) -> Reader:
    """The model of an absolute folder; `content` is the fingerprint of its files."""
    package = require_package("radgraph", install=INSTALL)
    from transformers import AutoConfig, AutoModel

    variant = next((name for name in VARIANTS if (folder / "vocabulary" / f"{name}__ner_labels.txt").exists()), None)
    if variant is None:
        raise CheckpointError(f"{folder / 'vocabulary'} holds no <variant>__ner_labels.txt of {', '.join(VARIANTS)}. {SOURCE}")
    encoder = folder / ENCODER
    check_folder(encoder)
    _refuse_own_code(encoder)
    with reading(folder), tempfile.TemporaryDirectory() as cache, removed_tokenizer_methods(), redirect_stdout(io.StringIO()):
        check_weights_file(folder / "weights.th")
        _offline_copy(folder, Path(cache) / variant)
        config = AutoConfig.from_pretrained(Path(cache) / variant / ENCODER, local_files_only=True, trust_remote_code=False)
        accept_config(config, encoder)
        with counted(numbers_in([folder / "weights.th"]), encoder / CONFIG, "the most that weights.th can hold."):
            AutoModel.from_config(config, trust_remote_code=False)
        model = package.RadGraph(model_type=variant, model_cache_dir=cache)
        require_finite(model.named_parameters(), folder / "weights.th")
    return Reader(f"{variant}-{content}", model)


def _refuse_own_code(encoder: Path) -> None:
    """The package does not tell transformers that no code of the folder may run, so that transformers would ask at the terminal."""
    for path in sorted(encoder.glob("*.json")):
        if b'"auto_map"' in path.read_bytes():
            raise CheckpointError(f"{path} names Python code of its own (auto_map), which is not run. Use an encoder that needs none.")


def _offline_copy(folder: Path, copy: Path) -> None:
    """The weights as the package expects them in its cache, but with the encoder's name replaced by a local folder of checked files.

    The vocabulary is copied because the package writes a lock file into it.
    """
    config = read_json(folder / "config.json")
    config["dataset_reader"]["token_indexers"]["bert"]["model_name"] = str(copy / ENCODER)
    config["model"]["embedder"]["token_embedders"]["bert"]["model_name"] = str(copy / ENCODER)
    shutil.copytree(folder / "vocabulary", copy / "vocabulary")
    write_json(copy / "config.json", config)
    (copy / "weights.th").symlink_to(folder / "weights.th")
    make_folder(copy / ENCODER)
    changed = {CONFIG: clean_config(folder / ENCODER)}
    if (folder / ENCODER / TOKENIZER_CONFIG).exists():
        changed[TOKENIZER_CONFIG] = read_json(folder / ENCODER / TOKENIZER_CONFIG) | tokenizer_options(folder / ENCODER)
    for path in (folder / ENCODER).iterdir():
        if path.name in changed:
            write_json(copy / ENCODER / path.name, changed[path.name])
        elif path.is_file():
            (copy / ENCODER / path.name).symlink_to(path.absolute())


@contextmanager
def removed_tokenizer_methods() -> Iterator[None]:
    """Give tokenizers back the two methods that radgraph 0.1.18, the newest, calls and transformers 5 has removed."""
    from transformers import PreTrainedTokenizerBase as Base

    replacements = {"encode_plus": Base.__call__, "build_inputs_with_special_tokens": _between_special_tokens}
    added = [name for name in replacements if not hasattr(Base, name)]
    for name in added:
        setattr(Base, name, replacements[name])
    try:
        yield
    finally:
        for name in added:
            delattr(Base, name)


def _between_special_tokens(tokenizer: Any, ids: list[int]) -> list[int]:
    """How every BERT-like encoder frames one text, and all of RadGraph's are BERT-like."""
    return [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
