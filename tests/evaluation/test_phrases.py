"""Phrase patterns and the vocabulary that is made of them."""

import pytest

from xraygpt.common.errors import ConfigError
from xraygpt.evaluation.phrases import PhraseTree, expand, split_words


@pytest.mark.parametrize(
    ("pattern", "phrases"),
    [
        ("nodule", ["nodule"]),
        ("nodules?", ["nodule", "nodules"]),
        ("(small |large )?mass", ["large mass", "mass", "small mass"]),
        ("a|b c", ["a", "b c"]),
        ("opacit(y|ies)", ["opacities", "opacity"]),
        ("no( new)? (a|b(c)?)", ["no a", "no b", "no bc", "no new a", "no new b", "no new bc"]),
    ],
)
def test_expands(pattern: str, phrases: list[str]) -> None:
    assert expand(pattern) == phrases


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(a", "never closed"),
        ("a)", "never opened"),
        ("?a", "follows nothing"),
        ("a*", "'\\*' has no meaning"),
        ("Mass", "'M' has no meaning"),
        ("(a|b)" * 15, "more than 20000"),
    ],
)
def test_a_pattern_that_is_not_well_formed_is_refused(pattern: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        expand(pattern)


def test_words() -> None:
    assert split_words("Left-sided 2.5 cm (old) mass; can’t exclude A/B.") == (
        ["left", "sided", "cm", ",", "old", ",", "mass", ";", "can't", "exclude", "a", "/", "b"]
    )


def test_the_longest_phrase_wins() -> None:
    tree: PhraseTree[str] = PhraseTree()
    for pattern, meaning in (("mass", "finding"), ("mass effect", "none"), ("no", "cue"), ("a b c", "long")):
        tree.add(pattern, meaning)
    assert list(tree.find(["no", "mass", "but", "a", "mass", "effect"])) == ["cue", "finding", "none"]
    assert list(tree.find(["a", "b", "mass"])) == ["finding"]  # a phrase that breaks off leaves its words to others
    assert list(tree.find([])) == []


def test_a_phrase_has_one_meaning() -> None:
    tree: PhraseTree[str] = PhraseTree()
    tree.add("edemas?", "finding")
    tree.add("edema", "finding")
    with pytest.raises(ConfigError, match=r"'edema' has two meanings, from 'edemas\?' and '\(no \)\?edema'"):
        tree.add("(no )?edema", "cue")
    with pytest.raises(ConfigError, match="empty phrase"):
        tree.add("(no)?", "cue")
