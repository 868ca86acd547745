"""A rules file with a mistake is refused with a message that names it."""

from pathlib import Path

import pytest

from xraygpt.common.errors import ConfigError
from xraygpt.evaluation.finding_rules import RULES_FILE, load_rules


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("observations: [Edema]", "observations: [Oedema]", "unknown observation of edema: Oedema"),
        ("    enlarged: {present: [cardiomegaly]}", "    enlarged: {present: [big_heart]}", "unknown finding: big_heart"),
        ("    elevated: {present: [elevated_diaphragm]}", "    lifted: {present: [elevated_diaphragm]}", "unknown quality: lifted"),
        ("\n  pleural_space:\n    normal:", "\n  pleural_room:\n    normal:", "unknown structure: pleural_room"),
        ("mentions: ['aspiration']", "mentions: ['aspiration', 'nodules']", "'nodules' has two meanings"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, right: str, wrong: str, problem: str) -> None:
    text = RULES_FILE.read_text(encoding="utf-8")
    assert right in text
    (tmp_path / "rules.yaml").write_text(text.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=problem):
        load_rules(tmp_path / "rules.yaml")


def test_a_synonym_can_be_added(tmp_path: Path) -> None:
    text = RULES_FILE.read_text(encoding="utf-8").replace("mentions: ['aspiration']", "mentions: ['aspiration|inhaled food']")
    (tmp_path / "rules.yaml").write_text(text, encoding="utf-8")
    [token] = load_rules(tmp_path / "rules.yaml").tree.find(["inhaled", "food"])
    assert dict(token.claims)["present"] == (("aspiration", "present"),)
