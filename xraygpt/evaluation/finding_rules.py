"""Loads `finding_rules.yaml`: the vocabulary of the reader, and what it takes each word for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from xraygpt.common.errors import ConfigError
from xraygpt.evaluation.phrases import PhraseTree

RULES_FILE = Path(__file__).with_name("finding_rules.yaml")

OBSERVATIONS: tuple[str, ...] = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
"""The 14 observations of CheXpert, in its order."""

CHEXPERT_5: tuple[str, ...] = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""The observations that CheXpert's competition scores."""

Claims = tuple[tuple[str, str], ...]  # ((finding, status), ...)


class Token(NamedTuple):
    """What a phrase is to the reader.

    Attributes:
        kind: "statement", "structure", "quality", "location", "severity", "boundary", "neutral", or the name of a list of cues or
            parting words.
        value: of a structure, a quality or a severity, its name.
        side, zone: of a location.
        claims: of a statement, what it says for each status that the words around it give it.
    """

    kind: str
    value: str = ""
    side: str = ""
    zone: str = ""
    claims: tuple[tuple[str, Claims], ...] = ()


@dataclass(frozen=True)
class FindingRule:
    """What is known of a finding: the observations it counts for, and its kind."""

    observations: tuple[str, ...]
    midline: bool
    device: bool


@dataclass(frozen=True)
class Rules:
    """The rules, ready for use: `states` has the claims of each (structure, quality), by status."""

    findings: dict[str, FindingRule]
    tree: PhraseTree[Token]
    states: dict[tuple[str, str], dict[str, Claims]]
    headings: dict[str, bool]  # heading -> whether its section is read


def load_rules(path: Path = RULES_FILE) -> Rules:
    """Read and check the rules.

    Raises:
        ConfigError: an unknown observation, finding, structure or quality, or a pattern that `PhraseTree.add` refuses.
    """
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    findings = {name: _finding_rule(name, rule) for name, rule in raw["findings"].items()}
    tree: PhraseTree[Token] = PhraseTree()
    for pattern, token in _vocabulary(raw):
        tree.add(pattern, token)
    states = {
        (structure, quality): _state_claims(meaning)
        for structure, qualities in raw["states"].items()
        for quality, meaning in qualities.items()
    }
    _check_names("structure", {structure for structure, _ in states}, raw["structures"])
    _check_names("quality", {quality for _, quality in states}, raw["qualities"])
    named = {name for claims in states.values() for by_status in claims.values() for name, _ in by_status}
    _check_names("finding", named | {name for rule in raw["general"].values() for name in rule["absent"]}, findings)
    headings = {heading: read for kind, read in (("read", True), ("skipped", False)) for heading in raw["sections"][kind]}
    return Rules(findings, tree, states, headings)


def _finding_rule(name: str, rule: Mapping[str, Any]) -> FindingRule:
    observations = tuple(rule.get("observations", ()))
    _check_names(f"observation of {name}", set(observations), OBSERVATIONS)
    return FindingRule(observations, rule.get("midline", False), rule.get("device", False))


def _vocabulary(raw: Mapping[str, Any]) -> Iterator[tuple[str, Token]]:
    for name, rule in raw["findings"].items():
        claims = tuple((status, ((name, status),)) for status in ("present", "absent", "uncertain"))
        yield from ((pattern, Token("statement", claims=claims)) for pattern in rule["mentions"])
    for rule in raw["general"].values():
        denied = tuple((name, "absent") for name in rule["absent"])
        yield from ((pattern, Token("statement", claims=(("absent", denied),))) for pattern in rule["phrases"])
    for kind, section in (("structure", "structures"), ("quality", "qualities"), ("severity", "severities")):
        yield from ((pattern, Token(kind, value=name)) for name, patterns in raw[section].items() for pattern in patterns)
    for rule in raw["locations"]:
        token = Token("location", side=rule.get("side", ""), zone=rule.get("zone", ""))
        yield from ((pattern, token) for pattern in rule["phrases"])
    words = {**raw["cues"], **raw["parting_words"], "boundary": raw["clause_boundaries"], "neutral": raw["neutral"]}
    yield from ((pattern, Token(kind)) for kind, patterns in words.items() for pattern in patterns)


def _state_claims(meaning: Mapping[str, list[str]]) -> dict[str, Claims]:
    """The claims of a state such as "heart enlarged" where the words around it affirm, deny or doubt it.

    A normal state (it makes findings absent) that is denied says nothing; one that is doubted is taken as stated.
    """
    claims: dict[str, Claims] = {"present": (), "absent": (), "uncertain": ()}
    for status, names in meaning.items():
        claims["present"] += tuple((name, status) for name in names)
        claims["uncertain"] += tuple((name, "absent" if status == "absent" else "uncertain") for name in names)
        claims["absent"] += tuple((name, "absent") for name in names if status != "absent")
    return claims


def _check_names(what: str, names: set[str], known: Any) -> None:
    unknown = sorted(names - set(known))
    if unknown:
        raise ConfigError(f"{RULES_FILE.name}: unknown {what}: {', '.join(unknown)}. Known: {', '.join(known)}.")
