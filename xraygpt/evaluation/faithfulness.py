"""What a generated report states, beside what its references state: sentence by sentence, and as a whole.

Reports are compared by topic (`labels.TOPICS`): a nodule and a mass are both a Lung Lesion, an emphysema is itself. Of several
references, a finding counts as present that one of them states as present, else as uncertain, else as absent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from xraygpt.evaluation.findings import Finding, merge_sides, read_findings, read_passages
from xraygpt.evaluation.labels import TOPICS, read_topics

Verdict = Literal["supported", "contradicted", "unmentioned", "neutral"]

_AFFIRMED = ("present", "uncertain")
_DEVICES = "Support Devices"
_ONE_SIDE = ("left", "right")


@dataclass(frozen=True)
class JudgedSentence:
    """A sentence or heading of the generated report.

    Attributes:
        text: as written, with the white space after it.
        verdict: "contradicted": the references state the opposite of something in it, or put it on the other side. Else
            "unmentioned": they neither confirm nor deny something that it affirms, or all that it denies. Else "supported".
            "neutral": it states no finding, or stands in a section that does not describe the film.
        findings: the topics that it states, in reading order.
    """

    text: str
    verdict: Verdict
    findings: tuple[str, ...]


@dataclass(frozen=True)
class JudgedReport:
    """A generated report beside its references.

    Attributes:
        sentences: all of the generated report; their texts joined give it.
        omitted: topics that the references state as present and the report neither as present nor as uncertain.
        hallucinated: topics that the report states as present and the references neither as present nor as uncertain.
        contradicted: those of both whose absence the other text states.
        wrong_side: topics present in both, on one side in the references, and on the other or both sides in the report.
        faithfulness: share of topics that agree, from 0 to 1; see `judge_report`.
    """

    sentences: tuple[JudgedSentence, ...]
    omitted: tuple[str, ...]
    hallucinated: tuple[str, ...]
    contradicted: tuple[str, ...]
    wrong_side: tuple[str, ...]
    faithfulness: float


def judge_report(prediction: str, references: Sequence[str]) -> JudgedReport:
    """Compare a generated report with its references.

    Faithfulness = agreeing / (agreeing + wrong side + hallucinated + omitted), in topics. A topic agrees that both texts hold to be
    present or possible; two normal texts (they deny something and affirm nothing but devices) agree in one topic more, "No Finding".
    Other shared denials do not count: they would reward a report that calls everything normal. It is 0 where nothing can be counted, as
    for an empty report beside a normal one, and NaN where neither text states any finding.
    """
    stated, truth = read_topics(prediction), read_topics(*references)
    hallucinated = tuple(topic for topic in stated if stated[topic] == "present" and truth.get(topic, "absent") == "absent")
    omitted = tuple(topic for topic in truth if truth[topic] == "present" and stated.get(topic, "absent") == "absent")
    contradicted = tuple(topic for topic in (*hallucinated, *omitted) if topic in stated and topic in truth)
    sides = compare_sides(prediction, references)
    misplaced = [name for name, (true, said) in sides.items() if said not in ("", true)]
    wrong_side = tuple(dict.fromkeys(topic for name in misplaced for topic in TOPICS[name]))
    agreeing = [topic for topic in stated if stated[topic] in _AFFIRMED and truth.get(topic) in _AFFIRMED and topic not in wrong_side]
    num_agreeing = len(agreeing) + (_is_normal(stated) and _is_normal(truth))
    counted = num_agreeing + len(wrong_side) + len(hallucinated) + len(omitted)
    faithfulness = num_agreeing / counted if counted else 0.0
    if not stated and not truth:
        faithfulness = float("nan")
    sentences = _judge_sentences(prediction, _Truth(_statements(references), _present_sides(*references), _is_normal(truth)))
    return JudgedReport(sentences, omitted, hallucinated, contradicted, wrong_side, faithfulness)


def compare_sides(prediction: str, references: Sequence[str]) -> dict[str, tuple[str, str]]:
    """(side in the references, side in the report) of each finding that both state as present and the references put on one side."""
    true_sides, sides = _present_sides(*references), _present_sides(prediction)
    return {name: (true, sides[name]) for name, true in true_sides.items() if true in _ONE_SIDE and name in sides}


def _present_sides(*texts: str) -> dict[str, str]:
    """Finding of the finer list that the texts state as present → "left", "right", "bilateral" or "" (no side is named)."""
    sides: dict[str, list[str]] = {}
    for text in texts:
        for item in read_findings(text):
            if item.status == "present":
                sides.setdefault(item.finding, []).append(item.side)
    return {name: merge_sides(named) for name, named in sides.items()}


def _is_normal(statuses: dict[str, str]) -> bool:
    """True where something is denied and nothing but devices affirmed."""
    return "absent" in statuses.values() and {topic for topic, status in statuses.items() if status in _AFFIRMED} <= {_DEVICES}


# Sentence by sentence ----------------------------------------------------------------------------------------------

# What is found of a statement. The first that one of its statements has gives the verdict of a sentence.
_VERDICTS: dict[str, Verdict] = {
    "contradicted": "contradicted",
    "unsupported": "unmentioned",
    "supported": "supported",
    "silent": "unmentioned",
}


@dataclass(frozen=True)
class _Truth:
    """What the references state: all statements about a topic, the merged side of each finding, whether they are normal."""

    statements: dict[str, list[Finding]]
    sides: dict[str, str]
    is_normal: bool


def _statements(references: Sequence[str]) -> dict[str, list[Finding]]:
    statements: dict[str, list[Finding]] = {}
    for item in (item for reference in references for item in read_findings(reference)):
        for topic in TOPICS[item.finding]:
            statements.setdefault(topic, []).append(item)
    return statements


def _judge_sentences(prediction: str, truth: _Truth) -> tuple[JudgedSentence, ...]:
    sentences = []
    for passage in read_passages(prediction):
        stated = [(item, topic) for item in passage.findings for topic in TOPICS[item.finding]]
        found = {
            _find_denied(item, topic, truth) if item.status == "absent" else _find_affirmed(item, topic, truth) for item, topic in stated
        }
        verdict: Verdict = next((verdict for kind, verdict in _VERDICTS.items() if kind in found), "neutral")
        sentences.append(JudgedSentence(passage.text, verdict, tuple(dict.fromkeys(topic for _, topic in stated))))
    return tuple(sentences)


def _find_affirmed(item: Finding, topic: str, truth: _Truth) -> str:
    """A key of `_VERDICTS` for a statement that something is present or possible."""
    said = truth.statements.get(topic, [])
    if any(other.status in _AFFIRMED for other in said):
        side = truth.sides.get(item.finding)
        misplaced = item.status == "present" and side in _ONE_SIDE and item.side not in ("", side)
        return "contradicted" if misplaced else "supported"
    return "contradicted" if item.status == "present" and any(_meet(item, other) for other in said) else "unsupported"


def _find_denied(item: Finding, topic: str, truth: _Truth) -> str:
    """A key of `_VERDICTS` for a denial; "silent" where the references do not speak of it, which is no error.

    "No effusion on the right" is no contradiction of "left effusion", nor is a denial that the references make too, except that what
    their "lungs are clear" only implies does not back "no nodule" beside their own "small nodule". What the report's "lungs are
    clear" implies is supported by references that are themselves normal.
    """
    said = [other for other in truth.statements.get(topic, []) if _meet(item, other)]
    statuses = {other.status for other in said}
    denials = [other for other in said if other.status == "absent" and (item.implied or not other.implied)]
    if any(other.side in (item.side, "", "bilateral") for other in denials):
        return "supported"
    if "present" in statuses:
        return "contradicted"
    if "uncertain" in statuses:
        return "unsupported"
    return "supported" if "absent" in statuses or (item.implied and truth.is_normal) else "silent"


def _meet(one: Finding, other: Finding) -> bool:
    """False for statements about different sides."""
    return {one.side, other.side} != set(_ONE_SIDE)
