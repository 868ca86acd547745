"""Writes the report of a phantom: a seeded grammar over the same list of findings that the film is drawn from.

Two habits of one vocabulary: "mimic" reports are full sentences with a closing summary, "openi" reports are terse. A report
names every finding of its study, denies some of those that are absent, and says nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xraygpt.datasets.preparation.phantom_findings import PhantomFinding

_FULL: dict[str, tuple[str, ...]] = {
    "cardiomegaly": (
        "The cardiac silhouette is enlarged.",
        "Cardiomegaly is present.",
        "The heart is enlarged.",
        "There is cardiomegaly.",
    ),
    "pleural_effusion": (
        "There is a {size} {side} pleural effusion.",
        "A {size} {side} pleural effusion is present.",
        "A {size} pleural effusion is seen on the {side}.",
    ),
    "pleural_effusion, both": (
        "There are {size} bilateral pleural effusions.",
        "{Size} bilateral pleural effusions are present.",
        "{Size} pleural effusions are seen on both sides.",
    ),
    "pneumothorax": (
        "There is a {size} {side} pneumothorax.",
        "A {size} {side} pneumothorax is present.",
        "A {size} pneumothorax is seen on the {side}.",
    ),
    "consolidation": (
        "There is consolidation in the {side} {zone} lung.",
        "An airspace opacity is seen in the {side} {zone} lung zone.",
        "Focal consolidation is present in the {side} {zone} zone.",
    ),
    "edema": (
        "There is {size} pulmonary edema.",
        "{Size} pulmonary edema is present.",
        "Bilateral perihilar haze is consistent with {size} pulmonary edema.",
    ),
    "nodule": (
        "There is a nodule in the {side} {zone} lung.",
        "A pulmonary nodule is seen in the {side} {zone} lung zone.",
        "A round nodule is present in the {side} {zone} zone.",
    ),
    "pacemaker": (
        "A {side} pacemaker is in place with leads in the heart.",
        "There is a {side} sided pacemaker with two leads.",
        "A pacemaker is present on the {side} with leads in the right atrium and ventricle.",
    ),
    "tube": (
        "An endotracheal tube is in place.",
        "There is an endotracheal tube with the tip above the carina.",
        "The endotracheal tube ends above the carina.",
    ),
}

_TERSE: dict[str, tuple[str, ...]] = {
    "cardiomegaly": ("Cardiomegaly.", "Enlarged heart.", "Heart is enlarged."),
    "pleural_effusion": ("{Size} {side} pleural effusion.", "{Side} pleural effusion, {size}."),
    "pleural_effusion, both": ("{Size} bilateral pleural effusions.", "Bilateral pleural effusions, {size}."),
    "pneumothorax": ("{Size} {side} pneumothorax.", "{Side} pneumothorax, {size}."),
    "consolidation": (
        "{Side} {zone} lung consolidation.",
        "Airspace opacity in the {side} {zone} lung.",
        "Consolidation, {side} {zone} zone.",
    ),
    "edema": ("{Size} pulmonary edema.", "Pulmonary edema, {size}."),
    "nodule": ("{Side} {zone} lung nodule.", "Nodule in the {side} {zone} lung.", "Nodule, {side} {zone} zone."),
    "pacemaker": ("{Side} pacemaker with two leads.", "{Side} sided pacemaker in place."),
    "tube": ("Endotracheal tube in place.", "Endotracheal tube above the carina."),
}

# What may be denied, by the findings that must all be absent.
_DENIALS: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {
    ("cardiomegaly",): {
        "full": ("The heart is normal in size.", "Heart size is normal.", "The cardiac silhouette is within normal limits."),
        "terse": ("Heart size normal.", "Normal heart size."),
    },
    ("consolidation", "edema", "nodule"): {
        "full": ("The lungs are clear.", "Both lungs are clear.", "The lungs are clear without focal consolidation."),
        "terse": ("Lungs are clear.", "Clear lungs."),
    },
    ("consolidation",): {
        "full": ("There is no focal consolidation.", "No focal consolidation is seen."),
        "terse": ("No focal consolidation.", "No consolidation."),
    },
    ("pleural_effusion", "pneumothorax"): {
        "full": ("There is no pleural effusion or pneumothorax.", "No pleural effusion or pneumothorax is seen."),
        "terse": ("No pleural effusion or pneumothorax.", "No pneumothorax or pleural effusion."),
    },
    ("pleural_effusion",): {
        "full": ("There is no pleural effusion.", "No pleural effusion is seen."),
        "terse": ("No pleural effusion.", "No effusion."),
    },
    ("pneumothorax",): {
        "full": ("There is no pneumothorax.", "No pneumothorax is seen."),
        "terse": ("No pneumothorax.", "Without pneumothorax."),
    },
}

_NORMAL_SUMMARIES = ("No acute cardiopulmonary abnormality.", "There is no acute cardiopulmonary process.", "Normal chest.")


@dataclass(frozen=True)
class ReportStyle:
    """The habits of the people who write one collection's reports.

    Attributes:
        full_share: share of sentences that are full rather than terse.
        denial_share: share of the possible denials that are written down; at least one is.
        summary_share: share of normal studies with a closing summary.
        devices_first: share of reports that begin with tubes and pacemakers.
    """

    full_share: float
    denial_share: float
    summary_share: float
    devices_first: float


REPORT_STYLES = {
    "mimic": ReportStyle(full_share=0.9, denial_share=0.8, summary_share=0.8, devices_first=0.5),
    "openi": ReportStyle(full_share=0.1, denial_share=0.6, summary_share=0.5, devices_first=0.0),
}

# The order in which a chest is read; the denials of a part stand where its findings would.
_PARTS = {
    "devices": ("tube", "pacemaker"),
    "heart": ("cardiomegaly",),
    "lungs": ("consolidation", "nodule", "edema"),
    "pleura": ("pleural_effusion", "pneumothorax"),
}


def write_report(findings: Sequence[PhantomFinding], *, style: ReportStyle, rng: np.random.Generator) -> str:
    """One report: the findings in the order of reading, some denials, and for a normal study often a summary."""
    parts = list(_PARTS)
    if rng.random() >= style.devices_first:
        parts = [*parts[1:], parts[0]]
    denials = _choose_denials({item.finding for item in findings}, style, rng)
    sentences = [sentence for part in parts for sentence in _part_sentences(_PARTS[part], findings, denials, style, rng)]
    if not findings and rng.random() < style.summary_share:
        sentences.append(_pick(_NORMAL_SUMMARIES, rng))
    return " ".join(sentences)


def _part_sentences(
    names: Sequence[str],
    findings: Sequence[PhantomFinding],
    denials: Sequence[tuple[str, ...]],
    style: ReportStyle,
    rng: np.random.Generator,
) -> Iterator[str]:
    for item in findings:
        if item.finding in names:
            key = "pleural_effusion, both" if (item.finding, item.side) == ("pleural_effusion", "bilateral") else item.finding
            template = _pick((_FULL if rng.random() < style.full_share else _TERSE)[key], rng)
            words = {"side": item.side, "zone": item.zone, "size": item.size}
            sentence = template.format(**words, **{name.title(): word.capitalize() for name, word in words.items()})
            yield sentence
    for absent in denials:
        if absent[0] in names:
            yield _pick(_DENIALS[absent]["full" if rng.random() < style.full_share else "terse"], rng)


def _choose_denials(present: set[str], style: ReportStyle, rng: np.random.Generator) -> list[tuple[str, ...]]:
    """The widest denials that hold, none said twice, each with the style's probability and at least one."""
    possible: list[tuple[str, ...]] = []
    for absent in _DENIALS:
        if not present & set(absent) and not any(set(absent) & set(wider) for wider in possible):
            possible.append(absent)
    chosen = [absent for absent in possible if rng.random() < style.denial_share]
    return chosen or [possible[int(rng.integers(len(possible)))]] if possible else []


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
