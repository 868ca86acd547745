"""The datasheet of a prepared folder: what is in it, where it came from, what was left out, how to train on it."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from xraygpt.datasets.preparation.study import About
from xraygpt.datasets.preparation.texts import count_words

_TEXTS = {
    "summary": "findings and impression of the report, without comparisons, views and de-identification marks, joined",
    "as-is": "the source's text as it stands, on one line",
    "none": "none: images alone, for generation; this folder does not train",
}


def datasheet(manifest: Mapping[str, Any], about: About, annotations: Sequence[Mapping[str, Any]]) -> str:
    """The datasheet as Markdown. It follows from its arguments alone: no date, no machine."""
    options = manifest["options"]
    words = sorted(count_words(annotation["caption"]) for annotation in annotations if "caption" in annotation)
    lines = [
        f"# {about.title}",
        "",
        "Prepared by xraygpt for training and evaluating report models. **For research only: nothing made with it is medical advice.**",
        "",
        f"- Licence and conditions: {about.licence}",
        *([f"- Cite: {about.citation}"] if about.citation else []),
        f"- Text: {_TEXTS[options['text']]}",
        f"- Views kept: {', '.join(options['views'])}",
        f"- Fingerprint: `{manifest['fingerprint']}` (equal fingerprints: the same annotations and images)",
        *(f"- {note}" for note in about.notes),
        "",
        "## What was kept and what was not",
        "",
        *_table(("", "number"), [(name, f"{number:,}") for name, number in manifest["counts"].items()]),
        "",
        "Every report and image that was left out is a line of `dropped.csv`.",
        "",
        "## Splits",
        "",
        *_splits(manifest["splits"]),
        *([f"Words a text: median {median(words):g}, from {words[0]} to {words[-1]}.", ""] if words else []),
        "## Sources",
        "",
        *_table(
            ("files", "number", "bytes", "SHA-256 over all"),
            [(kind, f"{s['count']:,}", f"{s['bytes']:,}", f"`{s['sha256']}`") for kind, s in manifest["sources"].items() if s["count"]],
        ),
        "",
        "Each file is a line of `sources.csv`.",
        "",
        *_use(bool(words)),
    ]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def _splits(splits: Mapping[str, Mapping[str, int]]) -> list[str]:
    if not splits:
        return ["None: images without texts.", ""]
    rows = [
        (split, *(f"{numbers.get(name, 0):,}" for name in ("studies", "images", "images with a caption of train")))
        for split, numbers in splits.items()
    ]
    return [
        *_table(("split", "studies", "images", "of these with a text that also stands in train"), rows),
        "",
        "No subject and no study is in two splits.",
        "",
    ]


def _use(trains: bool) -> list[str]:
    if not trains:
        return [
            "## Use",
            "",
            "```bash",
            "xraygpt generate --cfg-path eval_configs/xraygpt.yaml --images FOLDER --out reports.jsonl",
            "```",
            "",
        ]
    return ["## Use", "", "```yaml", "datasets:", "  my_data: {type: folder, storage: FOLDER}", "```", ""]
