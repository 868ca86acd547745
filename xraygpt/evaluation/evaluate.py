"""Scores reports and writes the result: the scorecard in three forms, and the files to compute it again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xraygpt.common.files import write_json, write_text
from xraygpt.evaluation.baselines import BaselineReports, text_baselines
from xraygpt.evaluation.metric import Corpus
from xraygpt.evaluation.model_scores import export_for_other_tools
from xraygpt.evaluation.provenance import environment
from xraygpt.evaluation.report_html import choose_cases, write_report_page
from xraygpt.evaluation.result_folder import describe_data, write_inputs
from xraygpt.evaluation.scorecard import Scorecard
from xraygpt.evaluation.scorecard_text import format_markdown
from xraygpt.evaluation.scoring import Settings, make_scorecard


@dataclass(frozen=True, kw_only=True)
class EvaluatedSet:
    """A set of reports to score, with what its page shows.

    Attributes:
        corpus: reports and references.
        split: of the data, or "" for files without splits.
        training_reports: what the model was trained on, for the baselines; None where it is not known.
        extra_baselines: further baselines, by name.
        images: id → image file, for the cases of the page.
        provenance: where the reports come from; versions, commit and hardware are added.
        title: heading of the page.
    """

    corpus: Corpus
    split: str
    training_reports: Sequence[str] | None
    extra_baselines: Mapping[str, BaselineReports]
    images: Mapping[str, Path]
    provenance: Mapping[str, Any]
    title: str


def write_evaluation(folder: Path, evaluated: EvaluatedSet, *, settings: Settings, num_cases: int, export: Path | None = None) -> Scorecard:
    """Score, and write predictions.jsonl, references.jsonl, baselines.jsonl, scorecard.json, scorecard.md and report.html to `folder`.

    Args:
        num_cases: cases in each group of the page.
        export: folder that gets the files which other tools read; None: none.
    """
    corpus = evaluated.corpus
    baselines = {
        **text_baselines(corpus, evaluated.training_reports, settings.seed),
        **evaluated.extra_baselines,
    }
    files = write_inputs(folder, corpus, baselines)
    card = make_scorecard(
        corpus,
        baselines=baselines,
        settings=settings,
        data=describe_data(corpus, split=evaluated.split, files=files),
        provenance={**evaluated.provenance, **environment()},
    )
    write_json(folder / "scorecard.json", card.to_dict())
    write_text(folder / "scorecard.md", format_markdown(card))
    cases = choose_cases(corpus, evaluated.images, count=num_cases, seed=settings.seed)
    write_report_page(folder / "report.html", card=card, cases=cases, title=evaluated.title)
    if export is not None:
        export_for_other_tools(corpus, export)
    return card
