"""The findings labeller beside experts and beside CheXpert's labeller: python benchmarks/labeller_accuracy.py LABELS

LABELS is a folder with `openi_gold_findings.csv` (Open-i reports with expert labels, the gold standard that came with NegBio)
and `chexpert_labeler_sample/` (the sample output of CheXpert's labeller).

The expert file is cut in two by the SHA-256 of a report's text, so that equal reports stand on one side: the rules were written
with the development part (two thirds) in view; the hold-out part was not looked at. Only the development part has its errors
shown (--errors Nodule).
"""

import argparse
import csv
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xraygpt.evaluation import OBSERVATIONS, label_findings, label_report, read_findings
from xraygpt.evaluation.findings import read_passages, read_sentence

EXPERT_LABELS = {  # the experts' name: our findings, of which one must be present (uncertain counts as not)
    "Atelectasis": ("atelectasis",),
    "Cardiomegaly": ("cardiomegaly",),
    "Effusion": ("pleural_effusion", "hydropneumothorax"),
    "Infiltration": ("infiltrate",),
    "Mass": ("mass",),
    "Nodule": ("nodule",),
    "Pneumonia": ("pneumonia",),
    "Pneumothorax": ("pneumothorax", "hydropneumothorax"),
    "Consolidation": ("consolidation",),
    "Edema": ("edema",),
    "Emphysema": ("emphysema",),
    "Fibrosis": ("fibrosis",),
    "Pleural_Thickening": ("pleural_thickening",),
    "Hernia": ("hernia",),
}
MIN_SUPPORT = 20  # positives in the whole file that a label needs to count in the macro-F1

Row = Mapping[str, str]


def report_text(row: Row) -> str:
    """Findings and impression as one text."""
    return f"{row['findings']}\n\n{row['impression']}"


def is_held_out(row: Row) -> bool:
    """True for the third of the reports that was not looked at while the rules were written."""
    text = " ".join(f"{row['findings']} {row['impression']}".lower().split())
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 3 == 0


def outcomes(rows: Sequence[Row]) -> dict[str, list[tuple[bool, bool]]]:
    """For each expert label, (true, ours) of every report."""
    labels = [label_findings(report_text(row)) for row in rows]
    return {
        expert: [(row[expert] == "1", any(label[name] == 1 for name in ours)) for row, label in zip(rows, labels, strict=True)]
        for expert, ours in EXPERT_LABELS.items()
    }


def scores(pairs: Iterable[tuple[bool, bool]]) -> tuple[int, float, float, float]:
    """Support, precision, recall, F1; a ratio with denominator 0 is 0."""
    pairs = list(pairs)
    true, ours, both = (sum(values) for values in ([t for t, _ in pairs], [o for _, o in pairs], [t and o for t, o in pairs]))
    return true, both / ours if ours else 0.0, both / true if true else 0.0, 2 * both / (true + ours) if true + ours else 0.0


def print_table(title: str, rows: Sequence[Row], counted: Sequence[str]) -> None:
    """The scores by label, and their summary, as a Markdown table; `counted` are the labels of the macro-F1."""
    by_label = outcomes(rows)
    print(f"\n{title}: {len(rows)} reports\n\n| label | positives | precision | recall | F1 |\n| --- | ---: | ---: | ---: | ---: |")
    for label, pairs in by_label.items():
        support, precision, recall, f1 = scores(pairs)
        print(f"| {label} | {support} | {precision:.3f} | {recall:.3f} | {f1:.3f} |")
    occurring = [label for label, pairs in by_label.items() if any(true for true, _ in pairs)]
    for what, labels in (("all labels", list(by_label)), ("labels that occur", occurring)):
        support, precision, recall, f1 = scores(pair for label in labels for pair in by_label[label])
        print(f"| **micro, {what}** | {support} | {precision:.3f} | {recall:.3f} | {f1:.3f} |")
    macro = sum(scores(by_label[label])[3] for label in counted) / len(counted)
    print(f"| **macro, {len(counted)} labels** | | | | {macro:.3f} |")
    normal = [(row["normal"] == "1", label_report(report_text(row))["No Finding"] == 1) for row in rows]
    support, precision, recall, f1 = scores(normal)
    print(f"| normal, beside No Finding | {support} | {precision:.3f} | {recall:.3f} | {f1:.3f} |")


def print_errors(rows: Sequence[Row], label: str) -> None:
    """The reports whose label differs from the experts', with what was read of them."""
    for row, (true, ours) in zip(rows, outcomes(rows)[label], strict=True):
        if true != ours:
            read = [f"{item.status}: {item.sentence}" for item in read_findings(report_text(row)) if item.finding in EXPERT_LABELS[label]]
            print(f"\n{row['uid']} {'missed' if true else 'false'} {read or report_text(row)}")


def print_speed(rows: Sequence[Row]) -> None:
    """Reports a second of CPU time, one thread: with the memory of sentences that begins empty, and without any."""
    texts = [report_text(row) for row in rows]
    for what, forget in (("as used (a sentence that came before is remembered)", False), ("every report as the first", True)):
        _forget()
        start = time.process_time()
        for text in texts:
            label_report(text)
            if forget:
                _forget()
        print(f"{len(texts) / (time.process_time() - start):.0f} reports/s {what}")


def _forget() -> None:
    read_passages.cache_clear()
    read_sentence.cache_clear()


def print_chexpert_agreement(path: Path) -> None:
    """For each observation how often the two labellers agree, and every difference."""
    with open(path, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    print(f"\nCheXpert's labeller: {len(rows)} reports\n\n| observation | same | differences (theirs → ours) |\n| --- | ---: | --- |")
    ours = [label_report(row["Reports"]) for row in rows]
    for name in OBSERVATIONS:
        pairs = [(int(float(row[name])) if row[name] else None, label[name]) for row, label in zip(rows, ours, strict=True)]
        differences = [f"report {number}: {theirs} → {mine}" for number, (theirs, mine) in enumerate(pairs, start=1) if theirs != mine]
        print(f"| {name} | {len(pairs) - len(differences)}/{len(pairs)} | {'; '.join(differences)} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labels", type=Path, help="the folder of the label files")
    parser.add_argument("--errors", choices=tuple(EXPERT_LABELS), help="also show the errors of one label in the development part")
    parser.add_argument("--hold-out", action="store_true", help="also score the hold-out part; count how often you look")
    args = parser.parse_args()
    with open(args.labels / "openi_gold_findings.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    print_speed(rows)
    counted = [label for label in EXPERT_LABELS if sum(row[label] == "1" for row in rows) >= MIN_SUPPORT]
    development = [row for row in rows if not is_held_out(row)]
    print_table("Development part", development, counted)
    if args.hold_out:
        print_table("Hold-out part", [row for row in rows if is_held_out(row)], counted)
        print_table("Whole file", rows, counted)
    print_chexpert_agreement(args.labels / "chexpert_labeler_sample" / "labeled_reports.csv")
    if args.errors:
        print_errors(development, args.errors)


if __name__ == "__main__":
    main()
