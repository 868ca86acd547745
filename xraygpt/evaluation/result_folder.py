"""The files from which a scorecard can be computed again, beside the scorecard.

    predictions.jsonl   {"id", "report"} and, where it is known, "truncated"
    references.jsonl    {"id", "study", "report"}; the report is a list where there are several references
    baselines.jsonl     {"id", name of a baseline: its report, …}

Their hashes stand in the scorecard, so that a change of any of them is noticed.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.common.files import sha256_file, write_json_lines
from xraygpt.evaluation.baselines import BaselineReports
from xraygpt.evaluation.metric import Corpus
from xraygpt.evaluation.report_files import load_predictions, load_references, pair, read_text

PREDICTIONS, REFERENCES, BASELINES = "predictions.jsonl", "references.jsonl", "baselines.jsonl"


def write_inputs(folder: Path, corpus: Corpus, baselines: Mapping[str, BaselineReports]) -> dict[str, str]:
    """Write the three files; returns the SHA-256 of each by its name."""
    cut = corpus.truncated or (None,) * len(corpus.ids)
    write_json_lines(
        folder / PREDICTIONS,
        (
            {"id": key, "report": report} | ({} if truncated is None else {"truncated": truncated})
            for key, report, truncated in zip(corpus.ids, corpus.predictions, cut, strict=True)
        ),
    )
    write_json_lines(
        folder / REFERENCES,
        (
            {"id": key, "study": study, "report": texts[0] if len(texts) == 1 else list(texts)}
            for key, study, texts in zip(corpus.ids, corpus.studies, corpus.references, strict=True)
        ),
    )
    rows: Iterable[dict[str, str]] = (
        {"id": key} | {name: baseline.reports[index] for name, baseline in baselines.items()} for index, key in enumerate(corpus.ids)
    )
    write_json_lines(folder / BASELINES, rows)
    return {name: sha256_file(folder / name) for name in (PREDICTIONS, REFERENCES, BASELINES)}


def read_inputs(folder: Path, descriptions: Mapping[str, str]) -> tuple[Corpus, dict[str, BaselineReports]]:
    """Read the three files back.

    Args:
        descriptions: name → description of the baselines, as in the scorecard.

    Raises:
        DataError: a file is missing or does not hold what `write_inputs` writes.
    """
    corpus = pair(load_predictions(folder / PREDICTIONS), load_references(folder / REFERENCES))
    rows = [json.loads(line) for line in read_text(folder / BASELINES).split("\n") if line]
    if [row.get("id") for row in rows] != list(corpus.ids) or not all(row.keys() == {"id", *descriptions} for row in rows):
        raise DataError(
            f"{folder / BASELINES}: expected the fields id, {', '.join(descriptions)} for each id of {REFERENCES}, in its order."
        )
    baselines = {name: BaselineReports(tuple(row[name] for row in rows), text) for name, text in descriptions.items()}
    return corpus, baselines


def split_hash(corpus: Corpus) -> str:
    """SHA-256 over ids, studies and references, in sorted order of the ids: equal for equal test sets, whatever the order of a file."""
    digest = hashlib.sha256()
    for row in sorted(zip(corpus.ids, corpus.studies, corpus.references, strict=True)):
        digest.update(json.dumps(row, ensure_ascii=False).encode(errors="surrogatepass") + b"\n")
    return digest.hexdigest()


def describe_data(corpus: Corpus, *, split: str, files: Mapping[str, str]) -> dict[str, Any]:
    """The `data` of a scorecard."""
    return {
        "split": split,
        "split_sha256": split_hash(corpus),
        "num_samples": len(corpus.ids),
        "num_studies": len(set(corpus.studies)),
        "num_references": sum(map(len, corpus.references)),
        "files_sha256": dict(files),
    }
