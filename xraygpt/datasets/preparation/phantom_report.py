"""Writes the report of a phantom: a seeded grammar over the same list of findings that the film is drawn from.

Two habits of one vocabulary: "mimic" reports are full sentences with a closing summary, "openi" reports are terse. A report
names every finding of its study, denies some of those that are absent, and says nothing else. The wordings of a finding differ, but all
of them are one observation to a reader of findings: what is drawn as a consolidation is never called a pneumonia or an opacity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xraygpt.datasets.preparation.phantom_findings import PhantomFinding

# What is said of a finding. {Side}, {Zone} and {Size} are capitalised. "both": the finding on both sides.
_FULL: dict[str, tuple[str, ...]] = {
    "cardiomegaly": (
        "The cardiac silhouette is enlarged.",
        "Cardiomegaly is present.",
        "The heart is enlarged with an increased cardiothoracic ratio.",
        "There is cardiomegaly.",
    ),
    "pleural_effusion": (
        "There is a {size} {side} pleural effusion.",
        "A {size} {side} pleural effusion is present.",
        "A {size} pleural effusion is seen on the {side} with a meniscus.",
    ),
    "pleural_effusion, both": (
        "There are {size} bilateral pleural effusions.",
        "{Size} bilateral pleural effusions are present.",
        "{Size} pleural effusions are seen on both sides.",
    ),
    "pneumothorax": (
        "There is a {size} {side} pneumothorax.",
        "A {size} {side} pneumothorax is present with a visible pleural line.",
        "A {size} pneumothorax is seen on the {side}.",
    ),
    "consolidation": (
        "There is consolidation in the {side} {zone} lung.",
        "An airspace consolidation is seen in the {side} {zone} lung zone.",
        "Patchy consolidation with fuzzy margins is present in the {side} {zone} zone.",
    ),
    "edema": (
        "There is {size} pulmonary edema.",
        "{Size} pulmonary edema is present.",
        "Bilateral perihilar haze is consistent with {size} pulmonary edema.",
    ),
    "nodule": (
        "There is a nodule in the {side} {zone} lung.",
        "A pulmonary nodule is seen in the {side} {zone} lung zone.",
        "A round nodule with sharp margins is present in the {side} {zone} zone.",
    ),
    "pacemaker": (
        "A {side} pacemaker is in place with intact leads.",
        "There is a {side} sided pacemaker with two leads.",
        "A pacemaker is present on the {side} with leads in the right atrium and right ventricle.",
    ),
    "tube": (
        "An endotracheal tube is in place.",
        "There is an endotracheal tube with the tip above the carina.",
        "The endotracheal tube ends in standard position above the carina.",
    ),
}

_TERSE: dict[str, tuple[str, ...]] = {
    "cardiomegaly": ("Cardiomegaly.", "Enlarged heart.", "Enlarged cardiac silhouette."),
    "pleural_effusion": ("{Size} {side} pleural effusion.", "{Side} pleural effusion, {size}."),
    "pleural_effusion, both": ("{Size} bilateral pleural effusions.", "Bilateral pleural effusions, {size}."),
    "pneumothorax": ("{Size} {side} pneumothorax.", "{Side} pneumothorax, {size}."),
    "consolidation": (
        "{Side} {zone} lung consolidation.",
        "Patchy airspace consolidation in the {side} {zone} lung.",
        "Consolidation, {side} {zone} zone.",
    ),
    "edema": ("{Size} pulmonary edema.", "Pulmonary edema, {size}."),
    "nodule": ("{Side} {zone} lung nodule.", "Nodule in the {side} {zone} lung.", "Nodule, {side} {zone} zone."),
    "pacemaker": ("{Side} pacemaker with two leads.", "{Side} sided pacemaker in place."),
    "tube": ("Endotracheal tube in place.", "Endotracheal tube above the carina."),
}


class Denial(NamedTuple):
    """What may be said when all of `absent` are absent."""

    absent: tuple[str, ...]
    full: tuple[str, ...]
    terse: tuple[str, ...]


_DENIALS = (
    Denial(
        ("cardiomegaly",),
        ("The heart is normal in size.", "Heart size is normal.", "The cardiac silhouette is within normal limits."),
        ("Heart size normal.", "Normal heart size."),
    ),
    Denial(
        ("consolidation", "edema", "nodule"),
        ("The lungs are clear.", "Both lungs are clear.", "The lungs are well expanded and clear."),
        ("Lungs are clear.", "Clear lungs."),
    ),
    Denial(
        ("consolidation",),
        ("There is no focal consolidation.", "No focal consolidation is seen."),
        ("No focal consolidation.", "No consolidation."),
    ),
    Denial(
        ("pleural_effusion", "pneumothorax"),
        ("There is no pleural effusion or pneumothorax.", "No pleural effusion or pneumothorax is seen."),
        ("No pleural effusion or pneumothorax.", "No pneumothorax or pleural effusion."),
    ),
    Denial(
        ("pleural_effusion",),
        ("There is no pleural effusion.", "The costophrenic angles are sharp without effusion."),
        ("No pleural effusion.", "No effusion."),
    ),
    Denial(
        ("pneumothorax",),
        ("There is no pneumothorax.", "No evidence of pneumothorax is seen."),
        ("No pneumothorax.", "Without pneumothorax."),
    ),
)

# True of every phantom.
_REMARKS = (
    "The bony structures are intact.",
    "No acute osseous abnormality.",
    "The mediastinal contours are normal.",
    "The trachea is midline.",
    "The aorta is unremarkable.",
    "Degenerative changes are not evident in the spine.",
)

_NORMAL_SUMMARIES = ("No acute cardiopulmonary abnormality.", "There is no acute cardiopulmonary process.", "Normal chest radiograph.")


@dataclass(frozen=True)
class ReportStyle:
    """The habits of the people who write one collection's reports.

    Attributes:
        full_share: share of sentences that are full rather than terse.
        denial_share: share of the possible denials that are written down; at least one is.
        remark_share: share of reports that mention some other part of the chest, which is normal in every phantom.
        summary_share: share of normal studies with a closing summary.
    """

    full_share: float
    denial_share: float
    remark_share: float
    summary_share: float


REPORT_STYLES = {
    "mimic": ReportStyle(full_share=0.9, denial_share=0.95, remark_share=0.3, summary_share=0.6),
    "openi": ReportStyle(full_share=0.1, denial_share=0.85, remark_share=0.15, summary_share=0.4),
}

# Heart, lungs, pleura, devices; the denials of a part stand behind its findings.
_READING_ORDER = (
    ("cardiomegaly",),
    ("consolidation", "nodule", "edema"),
    ("pleural_effusion", "pneumothorax"),
    ("tube", "pacemaker"),
)


def write_report(findings: Sequence[PhantomFinding], *, style: ReportStyle, rng: np.random.Generator) -> str:
    """One report: findings and denials in the order of reading, perhaps a remark, and for a normal study perhaps a summary."""
    denials = _choose_denials({item.finding for item in findings}, style, rng)
    sentences = []
    for names in _READING_ORDER:
        sentences += [_state(item, style, rng) for item in findings if item.finding in names]
        sentences += [_deny(denial, style, rng) for denial in denials if denial.absent[0] in names]
    if rng.random() < style.remark_share:
        sentences.append(_pick(_REMARKS, rng))
    if not findings and rng.random() < style.summary_share:
        sentences.append(_pick(_NORMAL_SUMMARIES, rng))
    return " ".join(sentences)


def _state(item: PhantomFinding, style: ReportStyle, rng: np.random.Generator) -> str:
    wording = _FULL if rng.random() < style.full_share else _TERSE
    both = f"{item.finding}, both"
    template = _pick(wording[both if item.side == "bilateral" and both in wording else item.finding], rng)
    words = {"side": item.side, "zone": item.zone, "size": item.size}
    return template.format(**words, **{name.capitalize(): word.capitalize() for name, word in words.items()})


def _deny(denial: Denial, style: ReportStyle, rng: np.random.Generator) -> str:
    return _pick(denial.full if rng.random() < style.full_share else denial.terse, rng)


def _choose_denials(present: set[str], style: ReportStyle, rng: np.random.Generator) -> list[Denial]:
    """The widest denials that hold, no finding twice, each with the style's probability and at least one."""
    possible: list[Denial] = []
    for denial in _DENIALS:
        already = {name for wider in possible for name in wider.absent}
        if not set(denial.absent) & (present | already):
            possible.append(denial)
    chosen = [denial for denial in possible if rng.random() < style.denial_share]
    return chosen if chosen or not possible else [possible[int(rng.integers(len(possible)))]]


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
