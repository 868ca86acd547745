"""What a phantom study shows: the one list of findings that both its image and its report are made from.

Sides are the patient's. On a frontal film the patient's left is on the viewer's right.
"""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

SIDES = ("left", "right")
ZONES = ("upper", "mid", "lower")


@dataclass(frozen=True)
class PhantomFinding:
    """One finding of a phantom.

    Attributes:
        finding: a key of `FINDING_KINDS`.
        side: "left", "right", "bilateral", or "" for a midline finding.
        zone: "upper", "mid", "lower", or "" where a zone says nothing.
        size: a grade such as "small" or "large", or "" where the phantom has one grade only.
    """

    finding: str
    side: str = ""
    zone: str = ""
    size: str = ""

    def to_dict(self) -> dict[str, str]:
        """The entry in an annotation's "findings"."""
        return asdict(self)


class FindingKind(NamedTuple):
    """How often a finding is drawn (relative weight), and the sides, zones and sizes it may have."""

    weight: float
    sides: tuple[str, ...] = ("",)
    zones: tuple[str, ...] = ("",)
    sizes: tuple[str, ...] = ("",)


FINDING_KINDS: dict[str, FindingKind] = {
    "cardiomegaly": FindingKind(1.3),
    "pleural_effusion": FindingKind(1.7, sides=("left", "right", "bilateral"), sizes=("small", "moderate", "large")),
    "pneumothorax": FindingKind(1.2, sides=SIDES, sizes=("small", "large")),
    "consolidation": FindingKind(1.6, sides=SIDES, zones=ZONES),
    "edema": FindingKind(1.0, sides=("bilateral",), sizes=("mild", "severe")),
    "nodule": FindingKind(1.6, sides=SIDES, zones=ZONES),
    "pacemaker": FindingKind(1.3, sides=("left", "left", "right")),
    "tube": FindingKind(1.3),
}

_NORMAL_SHARE = 0.15
_NUM_FINDINGS_SHARES = (0.15, 0.35, 0.35, 0.15)  # of the other studies: one to four findings
_LUNG_OPACITIES = {"consolidation", "nodule", "edema"}


def sample_findings(rng: np.random.Generator) -> tuple[PhantomFinding, ...]:
    """Draw the findings of one study, in the order of `FINDING_KINDS`; () is a normal study."""
    if rng.random() < _NORMAL_SHARE:
        return ()
    wanted = 1 + rng.choice(len(_NUM_FINDINGS_SHARES), p=_NUM_FINDINGS_SHARES)
    names = list(FINDING_KINDS)
    weights = np.array([kind.weight for kind in FINDING_KINDS.values()])
    drawn: list[PhantomFinding] = []
    while len(drawn) < wanted:
        candidate = _sample_one(names[rng.choice(len(names), p=weights / weights.sum())], rng)
        if all(can_be_told_apart(candidate, other) for other in drawn):
            drawn.append(candidate)
    return tuple(sorted(drawn, key=lambda item: names.index(item.finding)))


def _sample_one(name: str, rng: np.random.Generator) -> PhantomFinding:
    kind = FINDING_KINDS[name]
    return PhantomFinding(name, *(str(rng.choice(choices)) for choices in (kind.sides, kind.zones, kind.sizes)))


def can_be_told_apart(a: PhantomFinding, b: PhantomFinding) -> bool:
    """Whether both can be seen on one film: neither hides the other or lies where there is no lung."""
    if a.finding == b.finding:
        return False
    names = {a.finding, b.finding}
    if len(names & _LUNG_OPACITIES) == 2:
        return False  # one opacity more in a lung that is already opaque
    share_a_side = a.side == b.side or "bilateral" in (a.side, b.side)
    if "pneumothorax" in names and share_a_side:
        return not names & (_LUNG_OPACITIES | {"pleural_effusion"})
    if "pleural_effusion" in names and share_a_side:
        effusion, other = (a, b) if a.finding == "pleural_effusion" else (b, a)
        covered = {"small": ("lower",), "moderate": ("lower",), "large": ("lower", "mid")}[effusion.size]
        return other.zone not in covered
    return True
