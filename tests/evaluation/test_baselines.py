"""The reports that every system is compared with."""

import re

import numpy as np
import pytest

from xraygpt.common.errors import DataError
from xraygpt.evaluation import Corpus, label_report
from xraygpt.evaluation import baselines as baselines_module
from xraygpt.evaluation.baselines import NORMAL_REPORT, nearest_training, text_baselines

TRAINING = ["Small effusion.", "Clear lungs.", "Cardiomegaly.", "clear  lungs.", "", " "]
IDS = tuple(f"image{number}" for number in range(40))


def corpus(ids: tuple[str, ...] = IDS, images_per_study: int = 2) -> Corpus:
    """Every study has its own report, and `images_per_study` images share it."""
    studies = tuple(f"study{int(key[5:]) // images_per_study}" for key in ids)
    references = tuple((f"Report of {study}.", f"Second report of {study}.") for study in studies)
    return Corpus(ids, ("",) * len(ids), references, studies)


def test_most_frequent_training_report() -> None:
    baseline = text_baselines(corpus(), TRAINING, 42)["most_frequent"]
    assert baseline.reports == ("Clear lungs.",) * 40  # two that differ in case and spaces; as it stands first
    assert "2 times" in baseline.description and "4 training reports" in baseline.description


def test_the_first_of_equally_frequent_reports() -> None:
    assert text_baselines(corpus(), ["B.", "A.", "A.", "B."], 42)["most_frequent"].reports[0] == "B."


def test_normal_report_states_no_finding() -> None:
    baseline = text_baselines(corpus(), TRAINING, 42)["normal"]
    assert set(baseline.reports) == {NORMAL_REPORT}
    labels = label_report(NORMAL_REPORT)
    assert labels.pop("No Finding") == 1
    assert 1 not in labels.values() and -1 not in labels.values()
    assert labels["Pleural Effusion"] == labels["Pneumothorax"] == labels["Consolidation"] == labels["Cardiomegaly"] == 0


def test_random_training_report_depends_on_seed_and_id_only() -> None:
    drawn = dict(zip(IDS, text_baselines(corpus(), TRAINING, 42)["random_training"].reports, strict=True))
    part = IDS[30:3:-3]
    assert text_baselines(corpus(part), TRAINING, 42)["random_training"].reports == tuple(drawn[key] for key in part)
    assert text_baselines(corpus(), TRAINING, 43)["random_training"].reports != tuple(drawn.values())
    assert set(drawn.values()) == {"Small effusion.", "Clear lungs.", "Cardiomegaly.", "clear  lungs."}  # all but the empty ones


def test_random_draws_are_even() -> None:
    ids = tuple(f"image{number}" for number in range(4000))
    drawn = text_baselines(corpus(ids), ["A.", "B.", "C.", "D."], 0)["random_training"].reports
    counts = [drawn.count(text) for text in ("A.", "B.", "C.", "D.")]
    assert min(counts) > 900 and max(counts) < 1100  # 1,000 ± 27 expected


@pytest.mark.parametrize("training", [None, [], ["", "  "]])
def test_without_training_reports_a_random_reference_of_another_study(training: list[str] | None) -> None:
    samples = corpus()
    baselines = text_baselines(samples, training, 42)
    drawn = baselines["random_training"].reports
    for text, own in zip(drawn, samples.references, strict=True):
        assert text not in own
        assert re.fullmatch(r"(Report|Second report) of study\d+\.", text)
    assert len(set(drawn)) > 15
    for name in ("most_frequent", "random_training"):
        assert "no training reports were given" in baselines[name].description


def test_every_other_study_can_be_drawn_and_only_those() -> None:
    """With three studies of one reference each, a sample's draws over many seeds are the two others, about equally often."""
    samples = Corpus(("a", "b", "c"), ("",) * 3, (("A.",), ("B.",), ("C.",)), ("1", "2", "3"))
    drawn = [text_baselines(samples, None, seed)["random_training"].reports for seed in range(200)]
    for position, others in enumerate(("BC", "AC", "AB")):
        counts = [sum(reports[position] == f"{other}." for reports in drawn) for other in others]
        assert sum(counts) == 200 and min(counts) > 70


def test_references_are_drawn_whatever_the_order_of_the_samples() -> None:
    drawn = text_baselines(corpus(), None, 42)["random_training"].reports
    assert text_baselines(corpus(IDS[::-1]), None, 42)["random_training"].reports == drawn[::-1]


def test_one_study_has_no_other_to_draw_from() -> None:
    assert set(text_baselines(corpus(images_per_study=40), None, 42)) == {"most_frequent", "normal"}


def test_nearest_by_direction_not_by_length() -> None:
    training = np.array([[10.0, 0.0], [0.0, 0.1], [-1.0, -1.0]], dtype=np.float32)
    images = np.array([[0.1, 0.01], [3.0, 50.0], [-2.0, -1.0]], dtype=np.float32)
    assert nearest_training(images, training, ["right", "up", "down"]).reports == ("right", "up", "down")


@pytest.mark.parametrize("chunk", [1, 7, 1 << 22])
def test_nearest_is_that_of_the_whole_matrix_in_chunks_of_any_size(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.Generator(np.random.PCG64(0))
    images, training = random.normal(size=(5, 16)), random.normal(size=(300, 16))
    lengths = np.linalg.norm(images, axis=1)[:, None] * np.linalg.norm(training, axis=1)
    expected = (images @ training.T / lengths).argmax(axis=1)
    monkeypatch.setattr(baselines_module, "_SIMILARITIES_AT_A_TIME", chunk * 5)
    assert nearest_training(images, training, [str(index) for index in range(300)]).reports == tuple(map(str, expected))


@pytest.mark.parametrize("chunk", [1, 70, 1 << 20])
def test_of_equal_images_the_first_counts(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At this size the last bits of equal images' similarities can differ with their place in the matrix."""
    random = np.random.Generator(np.random.PCG64(0))
    once = random.normal(size=(333, 64)).astype(np.float32)
    training = np.concatenate([once, once, 4 * once, once[:7]])
    images = once + random.normal(scale=0.01, size=once.shape).astype(np.float32)
    monkeypatch.setattr(baselines_module, "_SIMILARITIES_AT_A_TIME", chunk * 333)
    reports = [str(index) for index in range(len(training))]
    assert nearest_training(images, training, reports).reports == tuple(reports[:333])


def test_an_image_of_zeros_is_similar_to_none_and_no_nan_arises() -> None:
    training = np.array([[0.0, 0.0], [1.0, 0.0]])
    assert nearest_training(np.array([[0.0, 0.0], [1.0, 1.0]]), training, ["first", "second"]).reports == ("first", "second")


@pytest.mark.parametrize(
    ("images", "training", "reports", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), ["a", "b"], r"\[2, 3\], \[2, 4\]"),
        (np.ones((2, 3)), np.ones((2, 3)), ["a"], "1 reports"),
        (np.ones((2, 3)), np.ones((0, 3)), [], "0 reports"),
        (np.array([[1.0, np.nan]]), np.ones((1, 2)), ["a"], "evaluated images are not finite"),
        (np.ones((1, 2)), np.array([[np.inf, 1.0]]), ["a"], "training images are not finite"),
    ],
)
def test_unusable_features(images: np.ndarray, training: np.ndarray, reports: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        nearest_training(images, training, reports)
