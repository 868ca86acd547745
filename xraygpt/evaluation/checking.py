"""Does a scorecard hold? Computes it again from the files beside it, and compares."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from xraygpt.common.errors import DataError
from xraygpt.common.files import sha256_file
from xraygpt.evaluation.provenance import environment
from xraygpt.evaluation.report_files import read_json
from xraygpt.evaluation.result_folder import describe_data, read_inputs
from xraygpt.evaluation.scorecard import FORMAT
from xraygpt.evaluation.scoring import Settings, make_scorecard

PARTS = ("data", "settings", "scores", "findings", "skipped", "warnings")  # provenance is a statement, not a result
TOLERANCE = 1.5e-6  # one unit of the last stored decimal: where a machine rounds 0.5 the other way


class Verification(NamedTuple):
    """Outcome of a check: how many numbers were compared, what differs, and what in the environment may explain it."""

    num_compared: int
    differences: list[str]
    changes: list[str]


def check_scorecard(path: str | Path) -> Verification:
    """Compute a stored scorecard again from predictions.jsonl, references.jsonl and baselines.jsonl beside it.

    Raises:
        DataError: the scorecard or a file beside it cannot be read, or the scorecard is of another format.
    """
    path = Path(path)
    stored = _read(path)
    corpus, baselines = read_inputs(path.parent, stored["baselines"])
    files = {name: sha256_file(path.parent / name) for name in stored["data"]["files_sha256"]}
    again = make_scorecard(
        corpus,
        baselines=baselines,
        settings=Settings.from_dict(stored["settings"]),
        data=describe_data(corpus, split=stored["data"]["split"], files=files),
        provenance={},
    ).to_dict()
    differences = [line for part in PARTS for line in _compare(part, stored[part], again[part])]
    num_compared = sum(1 for part in PARTS for _ in _leaves(stored[part]))
    return Verification(num_compared, differences, _changed_environment(stored["provenance"]))


def _read(path: Path) -> dict[str, Any]:
    stored = read_json(path)
    expected = {"format", "baselines", "provenance", *PARTS}
    if not isinstance(stored, dict) or (absent := expected - stored.keys()):
        raise DataError(
            f"{path} is no scorecard of xraygpt: it has no {', '.join(sorted(absent)) if isinstance(stored, dict) else 'fields'}."
        )
    if stored["format"] != FORMAT:
        raise DataError(
            f"{path} has format {stored['format']}, this xraygpt writes and checks format {FORMAT}. Check it with the version it names."
        )
    return stored


def _compare(where: str, stored: Any, again: Any) -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(again, dict):
        for key in dict.fromkeys([*stored, *again]):
            yield from _compare(f"{where}.{key}", stored.get(key), again.get(key))
    elif isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        for index, (one, other) in enumerate(zip(stored, again, strict=True)):
            name = one.get("key", one.get("name", index)) if isinstance(one, dict) else index
            yield from _compare(f"{where}.{name}", one, other)
    elif isinstance(stored, (int, float)) and isinstance(again, (int, float)):
        if abs(stored - again) > TOLERANCE:
            yield f"{where}: stored {stored}, computed {again}"
    elif stored != again:
        yield f"{where}: stored {stored!r}, computed {again!r}"


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


def _changed_environment(stored: Mapping[str, Any]) -> list[str]:
    now = environment()
    return [line for name in ("xraygpt", "git_commit", "python", "libraries") for line in _compare(name, stored.get(name), now[name])]
