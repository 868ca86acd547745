"""Invented reports in MIMIC-CXR's style: its headings, marks, line breaks, and the ways in which its reports differ.

No sentence is from a report of a patient.
"""

import random
import textwrap
from dataclasses import dataclass

# label → (present, absent, uncertain)
SENTENCES = {
    "Cardiomegaly": (
        "The cardiac silhouette is moderately enlarged.",
        "The heart is of ordinary size.",
        "The heart may be slightly enlarged, though low volumes exaggerate it.",
    ),
    "Edema": (
        "Hazy perihilar markings indicate mild pulmonary edema.",
        "There is no sign of pulmonary edema.",
        "Early interstitial edema cannot be excluded.",
    ),
    "Pleural Effusion": (
        "A small ___ pleural effusion blunts the costophrenic angle.",
        "Neither costophrenic angle shows an effusion.",
        "A trace pleural effusion on the left is possible.",
    ),
    "Pneumothorax": (
        "A thin apical pneumothorax is seen on the right, 8 mm wide.",
        "No pneumothorax is identified.",
        "A lucency at the right apex may be a skin fold or a small pneumothorax.",
    ),
    "Pneumonia": (
        "The dense opacity of the right lower lobe is in keeping with pneumonia.",
        "No opacity suggests pneumonia.",
        "Pneumonia at the left base is a possibility in the proper clinical setting.",
    ),
    "Atelectasis": (
        "Linear opacities at both bases are atelectasis.",
        "There is no collapse of a lobe or segment.",
        "Basal opacities most likely reflect atelectasis.",
    ),
    "Support Devices": (
        "The tip of the endotracheal tube lies 4 cm above the carina.",
        "The tube that Dr. ___ asked about is no longer in place.",
        "A line over the left chest may lie outside the patient.",
    ),
    "Fracture": (
        "An old fracture of the left seventh rib has healed.",
        "No rib is broken.",
        "A step of the right clavicle may be a fracture.",
    ),
}
IMPRESSIONS = {1: "{}, as described.", 0: "No {}.", -1: "Possible {}."}
COMPARISONS = ("___.", "None.", "Chest radiograph from ___ at 5:21.", "PA and lateral views of ___, CT of ___.")
CHANGES = (
    "Compared with the film of ___, this is unchanged.",
    "The lungs are better aerated than on ___.",
    "No interval change since ___.",
)
INDICATIONS = (
    "___ year old man with fever and cough  // infiltrate?",
    "History: ___F with fall from standing  // eval for fracture",
    "___ year old woman after line placement  // position of the tip, pneumothorax",
)
SHAPES = ("sections", "no findings", "no impression", "no headings", "wet read", "addendum", "short impression", "joint")
SHAPE_WEIGHTS = (62, 12, 3, 5, 5, 3, 6, 4)
PLAIN_SHAPES = ("sections", "no findings", "no impression", "short impression")
"""Shapes whose `findings` and `impression` are what a reader must return."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeReport:
    """A report and what it says.

    Attributes:
        text: the file's content.
        shape: one of `SHAPES`.
        findings: on one line, "" if the report has none.
        impression: likewise.
        labels: label → 1, 0 or -1, of what it mentions.
    """

    text: str
    shape: str
    findings: str
    impression: str
    labels: dict[str, int]


def make_report(rng: random.Random, *, lateral: bool) -> MadeReport:
    """A report of a study with or without a lateral image."""
    names = rng.sample(sorted(SENTENCES), rng.randint(3, 6))
    labels = {name: rng.choices((1, 0, -1), (3, 5, 1))[0] for name in names}
    findings = " ".join(SENTENCES[name][value] for name, value in labels.items())
    stated = [IMPRESSIONS[value].format(name.lower()) for name, value in labels.items() if value] or ["No acute process in the chest."]
    impression = " ".join(f"{number}. {text}" for number, text in enumerate(stated, start=1)) if len(stated) > 1 else stated[0]
    if not any(value for name, value in labels.items() if name != "Support Devices"):
        labels["No Finding"] = 1
    if rng.random() < 0.4:
        findings += " " + rng.choice(CHANGES)
    shape = rng.choices(SHAPES, SHAPE_WEIGHTS)[0]
    if shape == "short impression":
        impression = "Stable."
    elif shape == "no findings":
        findings, impression = "", f"{findings} {impression}"
    elif shape == "no impression":
        impression = ""
    text = _write(rng, shape, findings, impression, lateral=lateral)
    return MadeReport(text=text, shape=shape, findings=findings, impression=impression, labels=labels)


def _write(rng: random.Random, shape: str, findings: str, impression: str, *, lateral: bool) -> str:
    """The text as MIMIC has it: a banner in the middle, one space before each line, headings in upper case, lines wrapped."""
    head = [
        _section("EXAMINATION", "CHEST (PA AND LAT)" if lateral else "CHEST (PORTABLE AP)"),
        _section("INDICATION", rng.choice(INDICATIONS)),
        _section("TECHNIQUE", "Chest PA and lateral" if lateral else "Portable AP chest"),
        _section("COMPARISON", rng.choice(COMPARISONS)),
    ]
    if shape == "no headings":
        head, body = [], [_wrap(f"Chest, portable. {findings} {impression}")]
    elif shape == "joint":
        body = [_section("FINDINGS AND IMPRESSION", f"{findings} {impression}", own_line=True)]
    else:
        body = [_section(name, text, own_line=True) for name, text in (("FINDINGS", findings), ("IMPRESSION", impression)) if text]
    report = " " * 33 + "FINAL REPORT\n" + " \n".join([*head, *body])
    if shape == "wet read":
        return f" WET READ: ___ ___ 9:12 PM\n  Nothing acute at first sight.\n {'_' * 78}\n{report}"
    if shape == "addendum":
        return f"{report} \n ADDENDUM \n \n{_wrap('The finding was told to Dr. ___ by telephone at 14:05 on ___.')}"
    return report


def _section(name: str, text: str, *, own_line: bool = False) -> str:
    return f" {name}: \n \n{_wrap(text)}" if own_line else f" {name}:  {text}\n"


def _wrap(text: str) -> str:
    return textwrap.fill(text, 79, initial_indent=" ", subsequent_indent=" ") + "\n"
