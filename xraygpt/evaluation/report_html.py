"""One self-contained HTML page: warnings, scores beside the baselines, a chart of the findings, and cases to look at.

The page makes no request and runs nothing (images are data URIs, the style is inline, there is no script, and its content policy forbids
both), so that it can be mailed or opened years later. Every text is escaped.
"""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.common.files import write_text
from xraygpt.common.limits import DECODING_ERRORS, MAX_PIXELS
from xraygpt.common.printable import printable_line, template_text
from xraygpt.evaluation.faithfulness import judge_report
from xraygpt.evaluation.metric import Corpus
from xraygpt.evaluation.scorecard import FindingRow, Score, Scorecard
from xraygpt.evaluation.scorecard_text import DIRECTIONS, GROUPS, NOTICE, baseline_names, confidence_label, detail_rows, headline
from xraygpt.evaluation.verdict import baseline_label, best_baseline, interval, number, standing

IMAGE_SIDE = 512  # pixels of an embedded image's longer side


@dataclass(frozen=True)
class Case:
    """One sample of the page: its image (None: no image is shown), its reference reports and the generated report."""

    id: str
    image: Path | None
    references: tuple[str, ...]
    prediction: str


@dataclass(frozen=True)
class CaseGroup:
    """Cases that stand under one heading, in the order of the page; `hint` says how they were chosen."""

    title: str
    hint: str
    cases: tuple[Case, ...]


def choose_cases(corpus: Corpus, images: Mapping[str, Path], *, count: int, seed: int) -> list[CaseGroup]:
    """The least faithful, the most faithful and some random cases, `count` of each; all cases in one group if there are no more.

    The order of the samples does not matter: equal faithfulness goes by id, and the random cases depend on the ids and the seed. They
    are drawn from all cases, so one of the others may be among them. Cases whose texts state no finding, which have no faithfulness,
    are neither the least nor the most faithful ones before all others are.

    Args:
        corpus: references and generated reports.
        images: id → image file; an id may be missing.
        count: cases of a group; 0 for a page without cases.
        seed: of the random ones.
    """
    cases = sorted(
        (
            Case(key, images.get(key), references, prediction)
            for key, references, prediction in zip(corpus.ids, corpus.references, corpus.predictions, strict=True)
        ),
        key=lambda case: case.id,
    )
    if not count:
        return []
    faithfulness = {case.id: judge_report(case.prediction, case.references).faithfulness for case in cases}
    known = sorted((case for case in cases if not math.isnan(faithfulness[case.id])), key=lambda case: faithfulness[case.id])
    unknown = [case for case in cases if math.isnan(faithfulness[case.id])]
    if len(cases) <= count:
        return [CaseGroup("All cases", "The least faithful first.", (*known, *unknown))]
    most = sorted(known, key=lambda case: -faithfulness[case.id]) + unknown
    drawn = np.random.default_rng(seed).choice(len(cases), size=count, replace=False)
    return [
        CaseGroup("Least faithful", f"{count} of {len(cases)}; equal ones by id.", (*known, *unknown)[:count]),
        CaseGroup("Most faithful", f"{count} of {len(cases)}; equal ones by id.", tuple(most[:count])),
        CaseGroup("At random", f"{count} of all {len(cases)}, drawn with seed {seed}: the usual case.", tuple(cases[i] for i in drawn)),
    ]


def write_report_page(path: str | Path, *, card: Scorecard, cases: Sequence[CaseGroup], title: str) -> None:
    """Write the page.

    Args:
        path: where; written atomically.
        card: what is shown.
        cases: groups of cases, in this order; images are embedded as JPEGs of at most `IMAGE_SIDE` pixels.
        title: the heading.

    Raises:
        DataError: an image cannot be read.
    """
    environment = Environment(
        loader=PackageLoader("xraygpt.evaluation"),
        autoescape=True,
        finalize=template_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "position": _position, "baseline": baseline_label, "words": _words}
    names = baseline_names(card)
    page = environment.get_template("report.html.jinja").render(
        title=printable_line(title),
        notice=NOTICE,
        card=card,
        counts=_counts(card),
        confidence=confidence_label(card),
        interval=interval,
        standing=standing,
        directions=DIRECTIONS,
        baselines=names,
        tiles=[_tile(score) for score in headline(card)],
        tables=[(group, heading, scores) for group, heading in GROUPS.items() if (scores := _of_group(card, group))],
        charts=_charts(card.findings),
        groups=[(group, [_case_view(case) for case in group.cases]) for group in cases],
        sections=[("Data", detail_rows(card.data)), ("Settings", detail_rows(card.settings)), ("Provenance", detail_rows(card.provenance))],
    )
    write_text(path, page)


def image_data_uri(path: Path) -> str:
    """The image as a grey JPEG data URI, its longer side at most `IMAGE_SIDE` pixels; 16-bit images are scaled to 8 bits."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{path}: {image.width} x {image.height} pixels; at most {MAX_PIXELS} are decoded.")
            eight_bit = image.point(lambda value: value * (1 / 256)) if image.mode.startswith("I") else image
            grey = eight_bit.convert("L")
    except (*DECODING_ERRORS, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: the image cannot be read ({error}).") from error
    grey.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    buffer = io.BytesIO()
    grey.save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


# What the template shows ---------------------------------------------------------------------------------------------------


def _counts(card: Scorecard) -> list[str]:
    """The line under the title: "812 reports", "406 studies", "split val"."""
    counted = [(key, word) for key, word in (("num_samples", "reports"), ("num_studies", "studies")) if key in card.data]
    split = [f"split {card.data['split']}"] if card.data.get("split") else []
    return [f"{card.data[key]} {word}" for key, word in counted] + split


def _tile(score: Score) -> dict[str, Any]:
    """A headline score with the baseline that is hardest to beat."""
    values = {name: baseline.value for name, baseline in score.baselines.items()}
    name, value = best_baseline(values, higher_is_better=score.higher_is_better) or (None, None)
    outcome = standing(score, score.baselines[name]) if name is not None else None
    return {"score": score, "best": name, "value": value, "standing": outcome}


def _of_group(card: Scorecard, group: str) -> list[Score]:
    return [score for score in card.scores if score.group == group]


def _charts(findings: Iterable[FindingRow]) -> dict[str, list[dict[str, Any]]]:
    """The rows of both charts: the observations in their usual order, the finer list by how often the references state a finding."""
    rows = [_chart_row(row) for row in findings]
    finer = sorted((row for row in rows if row["row"].fine), key=lambda item: -item["row"].support)
    return {"observations": [row for row in rows if not row["row"].fine], "finer": finer}


def _chart_row(row: FindingRow) -> dict[str, Any]:
    """A finding with its best baseline; `weak` where the interval of its F1 does not lie above that."""
    best = best_baseline(row.baselines)
    lower = row.f1 if row.low is None else row.low
    return {"row": row, "best": best, "weak": best is not None and lower is not None and lower <= best[1]}


def _case_view(case: Case) -> dict[str, Any]:
    judged = judge_report(case.prediction, case.references)
    return {
        "case": case,
        "image": case.image and image_data_uri(case.image),
        "judged": judged,
        "faithfulness": None if math.isnan(judged.faithfulness) else judged.faithfulness,
        "chips": [
            (kind, topic, topic in judged.contradicted)
            for kind, topics in (("wrong side", judged.wrong_side), ("omitted", judged.omitted), ("hallucinated", judged.hallucinated))
            for topic in topics
        ],
    }


def _position(value: float) -> str:
    """Where a number from 0 to 1 lies on a bar."""
    return f"{100 * min(max(value, 0.0), 1.0):.1f}%"


def _words(name: str) -> str:
    return name.replace("_", " ")
