"""Small scorecards for the tests of warnings, tables and the page."""

from typing import Any

from xraygpt.evaluation.scorecard import Baseline, FindingRow, Score, Scorecard


def score(key: str, value: float | None, *, group: str = "clinical", higher: bool | None = True, **baselines: Any) -> Score:
    """A score with an interval of ± 0.01; baselines as name=(value, low, high of the difference)."""
    low, high = (None, None) if value is None else (value - 0.01, value + 0.01)
    beside = {name: Baseline(*numbers) for name, numbers in baselines.items()}
    return Score(key, f"{key}|made-up|v1", key.upper(), group, higher, value, low, high, beside)


def card(*scores: Score, **parts: Any) -> Scorecard:
    """A card of two samples; `parts` replaces other attributes."""
    content: dict[str, Any] = {
        "findings": [
            FindingRow("Pleural Effusion", False, 40, 30, 0.8, 0.6, 0.686, 0.58, 0.77, {"normal": 0.0, "nearest_training": 0.312}),
            FindingRow("pleural_thickening", True, 0, 2, 0.0, None, None, None, None, {"normal": None, "nearest_training": None}),
        ],
        "skipped": {"bertscore": "no folder at models/<bert>"},
        "warnings": ["The same report is written for 97 % of the images."],
        "data": {"split": "val", "num_samples": 2, "num_studies": 1, "files_sha256": {"predictions.jsonl": "ab12"}},
        "baselines": {"normal": "One fixed report.", "nearest_training": "The report of the nearest image."},
        "settings": {"confidence": 0.95, "resamples": 1000, "metrics": []},
        "provenance": {"prompt": "a | b\n<Img>", "checkpoints": [{"path": "x.pth"}], "decoding": {"do_sample": False, "seed": None}},
    }
    return Scorecard(scores=list(scores), **(content | parts))
