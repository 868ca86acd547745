"""CheXbert F1 (Smit et al. 2020, https://arxiv.org/abs/2004.09167): findings that a BERT labeller reads from both reports.

The labeller is BERT-base with 14 linear heads on the last hidden state of [CLS]: 4 classes for each of 13 observations (blank,
positive, negative, uncertain), 2 for "No Finding" (blank, positive). Reports are cut after 512 tokens.
"""

import copy
import importlib.metadata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygpt.common.checkpoint_guard import check_weights_file
from xraygpt.common.errors import CheckpointError
from xraygpt.common.model_folder import CONFIG, accept_config, check_folder, checked_config, tokenizer_options
from xraygpt.common.model_size import counted, numbers_in
from xraygpt.common.tensor_checks import require_finite
from xraygpt.evaluation.finding_rules import CHEXPERT_5
from xraygpt.evaluation.label_scores import f1_statistics, macro_f1, micro_f1
from xraygpt.evaluation.metric import Corpus, Metric
from xraygpt.evaluation.model_scores.weights import VOCABULARIES, fingerprint, reading, require_files, require_package

OBSERVATIONS: tuple[str, ...] = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices", "No Finding",
)  # fmt: skip
"""In the order of the checkpoint's heads."""

BLANK, POSITIVE, NEGATIVE, UNCERTAIN = range(4)
POSITIVE_CLASSES = {"negative": (POSITIVE,), "positive": (POSITIVE, UNCERTAIN)}
"""Classes that count as present, by what an uncertain finding counts as."""

MAX_TOKENS = 512
TEXTS_PER_BATCH = 32
CHECKPOINT = "chexbert.pth"
INSTALL = "make install-runtime"
SOURCE = (
    f"The folder must hold {CHECKPOINT} (linked in the README of https://github.com/stanfordmlgroup/CheXbert) and the config.json and "
    "vocab.txt of bert-base-uncased: `hf download google-bert/bert-base-uncased config.json vocab.txt --local-dir …`."
)


def compute(corpus: Corpus, folder: Path) -> list[Metric]:
    """Micro and macro F1 over 14 and over 5 observations, with uncertain as negative and (`_upos`) as positive.

    Several references of a sample are joined: a finding is present if any of them says so, "No Finding" if all of them do.

    Raises:
        ConfigError: transformers is not installed.
        CheckpointError: the folder lacks files, or they are not those of CheXbert.
    """
    require_package("transformers", install=INSTALL)
    files = require_files(folder, [CHECKPOINT, "config.json", VOCABULARIES], source=SOURCE)
    labeller = load_labeller(files[0].parent, fingerprint(files))
    texts = [text for texts in corpus.references for text in texts]
    sample = np.repeat(np.arange(len(corpus.ids)), [len(texts) for texts in corpus.references])
    with reading(files[0].parent):
        predicted, stated = labeller.classes(corpus.predictions), labeller.classes(texts)
    metrics: list[Metric] = []
    for policy, positive in POSITIVE_CLASSES.items():
        reference = _join(np.isin(stated, positive), sample, len(corpus.ids))
        metrics += _metrics(reference, np.isin(predicted, positive), policy, labeller.name)
    return metrics


def _join(stated: NDArray[np.bool_], sample: NDArray[np.int_], num_samples: int) -> NDArray[np.bool_]:
    """Labels of reference texts → of samples: [texts, 14] → [N, 14]; `sample` is the row of each text."""
    counts = np.zeros((num_samples, len(OBSERVATIONS)), dtype=np.int_)
    np.add.at(counts, sample, stated)
    joined = counts > 0
    joined[:, -1] = counts[:, -1] == np.bincount(sample, minlength=num_samples)
    return joined


def _metrics(reference: NDArray[np.bool_], predicted: NDArray[np.bool_], policy: str, labeller: str) -> list[Metric]:
    suffix, hint = ("_upos", ", uncertain as positive") if policy == "positive" else ("", "")
    version = f"labeller:{labeller}|lib:transformers-{importlib.metadata.version('transformers')}"
    metrics = []
    for size, names in ((14, OBSERVATIONS), (5, CHEXPERT_5)):
        columns = [OBSERVATIONS.index(name) for name in names]
        statistics = f1_statistics(reference[:, columns], predicted[:, columns])
        averages = {"macro": ("labels-in-references", macro_f1(reference[:, columns])), "micro": ("all-labels", micro_f1)}
        for average, (over, formula) in averages.items():
            key = f"chexbert_f1_{average}_{size}{suffix}"
            identity = f"{key}|labels:chexpert-{size}|uncertain:{policy}|average:{average}-over-{over}|{version}"
            metrics.append(Metric(key, identity, f"CheXbert F1 {average} {size}{hint}", "model", True, statistics, formula))
    return metrics


class Labeller:
    """Reads the 14 observations from reports; each distinct text once, also over several calls."""

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        self.name = name
        self._model = model
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def classes(self, texts: Sequence[str]) -> NDArray[np.int8]:
        """The class of each observation: int8 [N, 14], values BLANK, POSITIVE, NEGATIVE, UNCERTAIN."""
        words = [" ".join(text.split()) for text in texts]
        unknown = sorted(set(words) - self._known.keys())
        if unknown:
            self._read(unknown)
        return np.array([self._known[text] for text in words], dtype=np.int8).reshape(-1, len(OBSERVATIONS))

    def _read(self, texts: list[str]) -> None:
        import torch

        tokens = self._tokenizer(texts, truncation=True, max_length=MAX_TOKENS, return_attention_mask=False)["input_ids"]
        by_length = sorted(range(len(texts)), key=lambda index: len(tokens[index]))
        for rows in _batches(by_length, TEXTS_PER_BATCH):
            batch = self._tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt").to(self._model["bert"].device)
            with torch.inference_mode():
                hidden = self._model["bert"](**batch).last_hidden_state[:, 0]
                classes = torch.stack([head(hidden).argmax(dim=1) for head in self._model["linear_heads"]], dim=1)
            self._known.update(zip((texts[row] for row in rows), classes.tolist(), strict=True))


def _batches(rows: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


@lru_cache(maxsize=1)
def load_labeller(folder: Path, content: str) -> Labeller:
    """The labeller of an absolute folder; `content` is the fingerprint of its files.

    Raises:
        CheckpointError: the checkpoint holds other parameters than CheXbert's, or the vocabulary is not that of the checkpoint.
    """
    import torch
    from torch import nn
    from transformers import BertConfig, BertModel, BertTokenizer

    check_folder(folder)
    with reading(folder), checked_config(folder) as checked:
        config = BertConfig.from_pretrained(checked, local_files_only=True)
        accept_config(config, folder)
        tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True, **tokenizer_options(folder))
        heads = nn.ModuleList(nn.Linear(config.hidden_size, 2 if name == "No Finding" else 4) for name in OBSERVATIONS)
        check_weights_file(folder / CHECKPOINT)
        with counted(numbers_in([folder / CHECKPOINT]), folder / CONFIG, "the most that the checkpoint can hold."):
            BertModel(copy.deepcopy(config))
        model = nn.ModuleDict({"bert": BertModel(config), "linear_heads": heads})
        checkpoint = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
        model.load_state_dict(_state(folder, checkpoint, set(model.state_dict())))
        require_finite(model.named_parameters(), folder / CHECKPOINT)
    if len(tokenizer) != config.vocab_size:
        raise CheckpointError(f"{folder}: the vocabulary has {len(tokenizer)} tokens, config.json says {config.vocab_size}. {SOURCE}")
    return Labeller(f"chexbert-{content}", model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer)


def _state(folder: Path, checkpoint: Any, expected: set[str]) -> dict[str, Any]:
    """The parameters of CheXbert in its checkpoint, without the prefix of the parallel training."""
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model_state_dict"), dict):
        raise CheckpointError(f"{folder / CHECKPOINT} has no 'model_state_dict'. {SOURCE}")
    state = {key.removeprefix("module."): value for key, value in checkpoint["model_state_dict"].items()}
    # A table 0, 1, 2, … that transformers stored between its versions 3 and 4.30; no parameter.
    state.pop("bert.embeddings.position_ids", None)
    if state.keys() != expected:
        missing, unknown = sorted(expected - state.keys()), sorted(state.keys() - expected)
        raise CheckpointError(
            f"{folder / CHECKPOINT} does not hold the parameters of CheXbert: {len(missing)} missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}. {SOURCE}"
        )
    return state
