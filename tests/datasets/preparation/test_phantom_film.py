"""The films: each finding is where its words say, and nothing else changes."""

import numpy as np
import pytest

from xraygpt.datasets.preparation.phantom_film import render_film
from xraygpt.datasets.preparation.phantom_findings import FINDING_KINDS, PhantomFinding, can_be_told_apart, sample_findings

SIZE = 128
HALVES = {"left": slice(SIZE // 2, SIZE), "right": slice(0, SIZE // 2)}  # the patient's left is on the viewer's right


def change(finding: PhantomFinding, seed: int) -> np.ndarray:
    """What the finding adds to the film of the same patient, in grey levels."""
    films = [render_film(findings, size=SIZE, seed=[seed, 0]).astype(float) for findings in ([], [finding])]
    return films[1] - films[0]


def other_side(side: str) -> str:
    return "right" if side == "left" else "left"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("name", "zone", "size", "sign"),
    [
        ("pleural_effusion", "", "small", 1),
        ("pleural_effusion", "", "large", 1),
        ("pneumothorax", "", "small", -1),
        ("pneumothorax", "", "large", -1),
        ("consolidation", "upper", "", 1),
        ("consolidation", "lower", "", 1),
        ("nodule", "mid", "", 1),
    ],
)
def test_a_lung_finding_changes_its_own_side_only(seed, side, name, zone, size, sign):
    difference = change(PhantomFinding(name, side, zone, size), seed)
    own, opposite = difference[:, HALVES[side]], difference[:, HALVES[other_side(side)]]
    strongest = own.max() if sign > 0 else -own.min()
    assert strongest > 25, "the finding cannot be seen"
    assert np.abs(opposite).sum() < 0.05 * np.abs(own).sum()


@pytest.mark.parametrize("name", ["consolidation", "nodule"])
def test_zones_stand_above_each_other(name):
    heights = []
    for zone in ("upper", "mid", "lower"):
        weight = np.abs(change(PhantomFinding(name, "left", zone), seed=1)).sum(axis=1)
        heights.append(float((weight * np.arange(SIZE)).sum() / weight.sum()))
    assert heights[0] + 10 < heights[1] < heights[2] - 10


def test_larger_effusions_cover_more():
    effusions = [PhantomFinding("pleural_effusion", "right", "", size) for size in ("small", "moderate", "large")]
    areas = [int((change(effusion, seed=2) > 15).sum()) for effusion in effusions]
    assert areas[0] * 1.5 < areas[1] < areas[2] / 1.2


@pytest.mark.parametrize(
    "finding", [PhantomFinding("cardiomegaly"), PhantomFinding("edema", "bilateral", "", "mild"), PhantomFinding("tube")]
)
def test_midline_and_bilateral_findings_can_be_seen(finding):
    assert np.abs(change(finding, seed=3)).max() > 25


def test_an_enlarged_heart_reaches_further_to_the_patients_left():
    row = change(PhantomFinding("cardiomegaly"), seed=4)[int(0.62 * SIZE)]
    assert row[HALVES["left"]].sum() > 2 * row[HALVES["right"]].sum() > 0


def test_a_pacemaker_generator_lies_on_its_side():
    for side in ("left", "right"):
        bright = change(PhantomFinding("pacemaker", side), seed=5) > 60
        upper = bright[: SIZE // 3]
        assert upper[:, HALVES[side]].sum() > 3 * upper[:, HALVES[other_side(side)]].sum()


def test_the_same_seed_draws_the_same_film_and_another_seed_another():
    film = render_film([], size=SIZE, seed=[7, 1])
    assert film.dtype == np.uint8
    assert film.shape == (SIZE, SIZE)
    assert np.array_equal(film, render_film([], size=SIZE, seed=[7, 1]))
    assert np.abs(film.astype(int) - render_film([], size=SIZE, seed=[7, 2])).mean() > 3


def test_lungs_are_dark_between_bright_spine_and_chest_wall():
    film = np.mean([render_film([], size=SIZE, seed=[8, index]) for index in range(8)], axis=0)
    row = film[int(0.45 * SIZE)]
    spine, lungs = row[SIZE // 2], (row[int(0.28 * SIZE)] + row[int(0.76 * SIZE)]) / 2
    assert spine > 2 * lungs


def test_drawn_findings_can_be_told_apart_and_some_studies_are_normal():
    rng = np.random.default_rng(9)
    studies = [sample_findings(rng) for _ in range(2000)]
    assert 0.12 < np.mean([not study for study in studies]) < 0.18
    assert {item.finding for study in studies for item in study} == set(FINDING_KINDS)
    assert max(map(len, studies)) == 4
    assert all(can_be_told_apart(a, b) for study in studies for i, a in enumerate(study) for b in study[i + 1 :])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (PhantomFinding("pneumothorax", "left", "", "small"), PhantomFinding("nodule", "left", "mid"), False),
        (PhantomFinding("pneumothorax", "left", "", "small"), PhantomFinding("nodule", "right", "mid"), True),
        (PhantomFinding("pneumothorax", "left", "", "small"), PhantomFinding("pleural_effusion", "bilateral", "", "small"), False),
        (PhantomFinding("pleural_effusion", "right", "", "small"), PhantomFinding("consolidation", "right", "lower"), False),
        (PhantomFinding("pleural_effusion", "right", "", "small"), PhantomFinding("consolidation", "right", "upper"), True),
        (PhantomFinding("edema", "bilateral", "", "mild"), PhantomFinding("consolidation", "left", "mid"), False),
        (PhantomFinding("edema", "bilateral", "", "mild"), PhantomFinding("pleural_effusion", "bilateral", "", "small"), True),
        (PhantomFinding("tube"), PhantomFinding("pacemaker", "left"), True),
        (PhantomFinding("tube"), PhantomFinding("tube"), False),
    ],
)
def test_what_can_be_told_apart(a, b, expected):
    assert can_be_told_apart(a, b) is expected
    assert can_be_told_apart(b, a) is expected
