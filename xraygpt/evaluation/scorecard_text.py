"""A scorecard as text: Markdown for `scorecard.md`, a plain table for the terminal. What both share with the page stands here too."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xraygpt.common.printable import printable_line
from xraygpt.evaluation.scorecard import FindingRow, Score, Scorecard
from xraygpt.evaluation.verdict import baseline_label, best_baseline, interval, number, standing

NOTICE = "For research only. Not a medical device; not for diagnosis."

HEADLINE = ("finding_f1_macro", "finding_f1_micro", "abnormal_recall", "faithfulness", "rouge_l", "bleu_4", "distinct_ratio")
"""The scores that are shown first."""

GROUPS = {
    "clinical": "Clinical findings",
    "lexical": "Wording",
    "degeneracy": "Signs of degenerate output",
    "model": "Scores of other models",
}
"""The groups of metrics in the order of the tables, and how they are called."""

FINDING_COLUMNS = ("n", "stated", "precision", "recall", "F1")
DIRECTIONS = {True: "↑", False: "↓", None: ""}
MARKS = {"better": " ", "unclear": "~", "worse": "!", None: " "}
LEGEND = "~ the system is not clearly better than this baseline, ! it is worse (paired bootstrap over studies)."
WIDTH = 120  # columns of the terminal
MAX_LABEL = 32  # characters of a metric or finding in the terminal


def headline(card: Scorecard) -> list[Score]:
    """The scores of `HEADLINE` that are on the card; all scores where none of them is."""
    return [score for key in HEADLINE if (score := card.score(key))] or card.scores


def baseline_names(card: Scorecard) -> list[str]:
    """Every baseline of the card, in its order."""
    return list(dict.fromkeys([*card.baselines, *(name for score in card.scores for name in score.baselines)]))


def confidence_label(card: Scorecard) -> str:
    """As "95 % interval"."""
    confidence = card.settings.get("confidence")
    return f"{100 * confidence:g} % interval" if isinstance(confidence, (int, float)) else "interval"


def detail_rows(section: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Nested values as (label, text): {"model": {"checkpoint": "x"}} is ("model · checkpoint", "x")."""
    return [(" · ".join(label), text) for label, text in _details(section)]


def _details(value: Any, label: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _details(item, (*label, str(key).replace("_", " ")))
    elif isinstance(value, (list, tuple)) and any(isinstance(item, (Mapping, list, tuple)) for item in value):
        for index, item in enumerate(value, start=1):
            yield from _details(item, (*label, str(index)))
    elif isinstance(value, (list, tuple)):
        yield label, ", ".join(map(str, value)) or "–"
    elif value is None or value == "":
        yield label, "–"
    else:
        yield label, {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


# Markdown ------------------------------------------------------------------------------------------------------------------


def format_markdown(card: Scorecard) -> str:
    """The whole card: warnings, a table a group of metrics, findings, metric ids, and where everything comes from."""
    parts = ["# Scorecard", NOTICE]
    if card.warnings:
        parts.append("**Read this first**\n\n" + "\n".join(f"- {_plain(sentence)}" for sentence in card.warnings))
    for group, title in GROUPS.items():
        if scores := [score for score in card.scores if score.group == group]:
            parts += [f"## {title}", _markdown_scores(card, scores)]
    if card.scores:
        parts.append(f"{LEGEND} ↑ higher is better, ↓ lower is better.")
    if card.skipped:
        parts += ["## Not computed", "\n".join(f"- {_plain(name)}: {_plain(reason)}" for name, reason in card.skipped.items())]
    for fine, title in ((False, "F1 of each observation"), (True, "F1 of each finding of the finer list")):
        if rows := [row for row in card.findings if row.fine is fine]:
            parts += [f"## {title}", _markdown_findings(card, rows)]
    if card.baselines:
        parts += ["## Baselines", "\n".join(f"- {baseline_label(name)}: {_plain(text)}" for name, text in card.baselines.items())]
    for title, section in (("Data", card.data), ("Settings", card.settings), ("Provenance", card.provenance)):
        if rows_of_section := detail_rows(section):
            parts += [f"## {title}", _markdown_table(["", ""], rows_of_section, right_from=2)]
    if card.scores:
        ids = "\n".join(f"- {score.label}: `{score.id}`" for score in card.scores)
        parts += ["## Metric ids", "Only numbers with the same id compare.", ids]
    return "\n\n".join(parts) + "\n"


def _markdown_scores(card: Scorecard, scores: Sequence[Score]) -> str:
    names = baseline_names(card)
    rows = [
        [
            f"{score.label} {DIRECTIONS[score.higher_is_better]}".rstrip(),
            f"**{number(score.value)}**",
            interval(score.low, score.high),
            *_beside(score, names),
        ]
        for score in scores
    ]
    return _markdown_table(["metric", "value", confidence_label(card), *map(baseline_label, names)], rows)


def _markdown_findings(card: Scorecard, findings: Sequence[FindingRow]) -> str:
    names = baseline_names(card)
    header = ["finding", *FINDING_COLUMNS, confidence_label(card), *(f"F1, {baseline_label(name)}" for name in names)]
    rows = [[*_finding_cells(row), *(number(row.baselines.get(name)) for name in names)] for row in findings]
    return _markdown_table(header, rows)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right_from: int = 1) -> str:
    rule = ["---" if column < right_from else "---:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(map(_plain, cells)) + " |" for cells in (header, rule, *rows))


def _plain(text: str) -> str:
    """One line that neither ends a table's cell nor opens an HTML tag."""
    return printable_line(" ".join(text.split())).replace("|", "\\|").replace("<", "&lt;")


# The terminal --------------------------------------------------------------------------------------------------------------


def format_table(card: Scorecard) -> str:
    """Warnings, the headline scores beside the baselines, and the 14 observations, within `WIDTH` columns (up to four baselines)."""
    names = baseline_names(card)
    blocks = []
    if card.warnings:
        wrapper = textwrap.TextWrapper(width=WIDTH, initial_indent="! ", subsequent_indent="  ")
        blocks.append("\n".join(wrapper.fill(sentence) for sentence in card.warnings))
    rows = [[score.label, number(score.value), interval(score.low, score.high), *_beside(score, names)] for score in headline(card)]
    blocks.append(_columns(["score", "value", confidence_label(card), *map(baseline_label, names)], rows) + f"\n{LEGEND}" * bool(names))
    if observations := [row for row in card.findings if not row.fine]:
        header = ["observation", *FINDING_COLUMNS, confidence_label(card), "best baseline"]
        blocks.append(_columns(header, [[*_finding_cells(row), _best(row)] for row in observations]))
    blocks += [textwrap.fill(f"{name} not computed: {reason}", WIDTH) for name, reason in card.skipped.items()]
    return "\n\n".join(blocks)


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest cell; the first one to the left and cut at `MAX_LABEL`, the others to the right."""
    table = [[_cut(cells[0]), *cells[1:]] for cells in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]).rstrip()
        for cells in table
    )


def _cut(label: str) -> str:
    return label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "…"


# Cells of both -------------------------------------------------------------------------------------------------------------


def _beside(score: Score, names: Sequence[str]) -> list[str]:
    """The value of each baseline, marked where the system is not clearly better."""
    baselines = [score.baselines.get(name) for name in names]
    return [f"{number(item.value)} {MARKS[standing(score, item)]}" if item else number(None) for item in baselines]


def _finding_cells(row: FindingRow) -> list[str]:
    scores = (row.precision, row.recall, row.f1)
    return [row.name.replace("_", " "), str(row.support), str(row.stated), *map(number, scores), interval(row.low, row.high)]


def _best(row: FindingRow) -> str:
    best = best_baseline(row.baselines)
    return f"{number(best[1])} {baseline_label(best[0])}" if best else number(None)
