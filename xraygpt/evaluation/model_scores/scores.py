"""The scores that need a trained model: their names, and the one function that computes those whose weights are given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from xraygpt.common.errors import CheckpointError, ConfigError
from xraygpt.common.registry import suggest
from xraygpt.evaluation.metric import Corpus, Metric
from xraygpt.evaluation.model_scores import bertscore, chexbert, radgraph_f1


@dataclass(frozen=True)
class _Score:
    """`help` is one line for the command line; `compute` raises CheckpointError or ConfigError where the score cannot be had."""

    help: str
    compute: Callable[[Corpus, Path], list[Metric]]


_SCORES = {
    "bertscore": _Score("BERTScore precision, recall, F1; PATH: folder of any BERT-like encoder", bertscore.compute),
    "chexbert": _Score("CheXbert F1 over 14 and 5 observations; PATH: folder with chexbert.pth, config.json, vocab.txt", chexbert.compute),
    "radgraph": _Score("RadGraph F1 simple, partial, complete; PATH: unpacked archive with its encoder beside it", radgraph_f1.compute),
}

MODEL_SCORES: dict[str, str] = {name: score.help for name, score in _SCORES.items()}
"""Name → one line of help, in the order of the tables."""


def compute_model_scores(corpus: Corpus, weights: Mapping[str, Path]) -> tuple[list[Metric], dict[str, str]]:
    """The model-based metrics whose weights are given, in the order of `MODEL_SCORES`; nothing is downloaded.

    Args:
        weights: name of a score → local folder of its weights. A score that is not named is not computed.

    Returns:
        The metrics (group "model"), and the scores that were asked for and could not be computed: name → what is missing, where it
        was looked for and how to get it.

    Raises:
        ConfigError: a name that `MODEL_SCORES` does not have.
    """
    if unknown := [name for name in weights if name not in _SCORES]:
        raise ConfigError("; ".join(f"There is no model-based score {name!r}.{suggest(name, _SCORES)}" for name in unknown))
    metrics: list[Metric] = []
    skipped: dict[str, str] = {}
    for name, score in _SCORES.items():
        if name not in weights:
            continue
        try:
            metrics += score.compute(corpus, Path(weights[name]))
        except (CheckpointError, ConfigError) as error:
            skipped[name] = str(error)
    return metrics, skipped
