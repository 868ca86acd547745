"""Scorecards: each number beside its interval and the baselines."""

import json
from pathlib import Path

import pytest

from tests.evaluation.example import PREDICTIONS, REFERENCES, TRAINING, example
from xraygpt.common.errors import ConfigError
from xraygpt.evaluation.baselines import NORMAL_REPORT, BaselineReports, text_baselines
from xraygpt.evaluation.metric import Corpus, compute_metrics
from xraygpt.evaluation.scorecard import Scorecard
from xraygpt.evaluation.scoring import Settings, make_scorecard, metric_values

SETTINGS = Settings(resamples=200)


def card_of(corpus: Corpus, settings: Settings = SETTINGS) -> Scorecard:
    return make_scorecard(corpus, baselines=text_baselines(corpus, TRAINING, 42), settings=settings, data={}, provenance={})


def test_every_metric_has_a_value_an_interval_around_it_and_the_baselines() -> None:
    corpus = example()
    card = card_of(corpus)
    assert [score.key for score in card.scores] == [metric.key for metric in compute_metrics(corpus)]
    assert len({score.id for score in card.scores}) == len(card.scores) > 30
    for score in card.scores:
        assert score.baselines.keys() == {"most_frequent", "normal", "random_training"}
        if score.value is not None and score.key not in ("distinct_ratio", "most_frequent_share"):
            assert score.low is not None and score.high is not None
            assert score.low <= score.value <= score.high, score.key


def test_the_system_that_is_a_baseline_does_not_differ_from_it() -> None:
    card = card_of(example(dict.fromkeys(PREDICTIONS, NORMAL_REPORT)))
    for score in card.scores:
        beside = score.baselines["normal"]
        if score.key != "truncated_share":
            assert beside.value == score.value
            assert (beside.low, beside.high) in ((0, 0), (None, None)), score.key


def test_findings_are_counted() -> None:
    rows = {row.name: row for row in card_of(example()).findings}
    effusion, pneumothorax = rows["Pleural Effusion"], rows["Pneumothorax"]
    assert (effusion.support, effusion.stated, effusion.precision, effusion.recall, effusion.f1) == (1, 1, 1, 1, 1)
    assert (pneumothorax.support, pneumothorax.stated, pneumothorax.precision, pneumothorax.recall) == (0, 1, 0, None)
    assert effusion.baselines == {"most_frequent": 0, "normal": 0, "random_training": 0}
    assert rows["pacemaker"].fine and (rows["pacemaker"].support, rows["pacemaker"].stated) == (1, 0)


def test_perfect_reports_score_perfectly() -> None:
    card = card_of(example(dict(REFERENCES)))
    best = {"bleu_4": 1, "rouge_l": 1, "finding_f1_macro": 1, "faithfulness": 1, "contradiction_rate": 0, "hallucinated_findings": 0}
    assert {key: card.score(key).value for key in best} == pytest.approx(best)  # type: ignore[union-attr]


def test_an_extra_baseline_stands_beside_the_others() -> None:
    corpus = example()
    nearest = {"nearest_training": BaselineReports(("Cardiomegaly.",) * 6, "retrieved")}
    card = make_scorecard(corpus, baselines=nearest, settings=SETTINGS, data={}, provenance={})
    assert card.baselines == {"nearest_training": "retrieved"}
    assert card.scores[0].baselines.keys() == {"nearest_training"}


def test_only_the_metrics_that_are_asked_for() -> None:
    card = card_of(example(), Settings(("rouge_l", "bleu"), resamples=10))
    assert {score.key for score in card.scores} == {"rouge_l", "bleu_1", "bleu_2", "bleu_3", "bleu_4"}
    with pytest.raises(ConfigError, match="Did you mean 'rouge_l'"):
        card_of(example(), Settings(("rougel",)))


def test_the_card_is_plain_json_and_the_same_each_time() -> None:
    texts = [json.dumps(card_of(example()).to_dict(), allow_nan=False) for _ in range(2)]
    assert texts[0] == texts[1]


def test_without_resamples_there_are_values_and_no_intervals() -> None:
    card = card_of(example(), Settings(resamples=0))
    assert card.score("finding_f1_macro").value is not None  # type: ignore[union-attr]
    assert {(score.low, score.high) for score in card.scores} == {(None, None)}


@pytest.mark.parametrize("settings", [Settings(("bleu",), {"bertscore": Path("w")}, 7, 0.9, 3), Settings()])
def test_settings_survive_the_card(settings: Settings) -> None:
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_metric_values_are_those_that_exist() -> None:
    values = metric_values(example(), ["truncated_share", "rouge_l"])
    assert values.keys() == {"rouge_l"}
