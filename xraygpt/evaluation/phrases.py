"""Finds the phrases of a vocabulary in a text: longest first, word by word, in time that does not grow with the vocabulary.

A phrase is written in a small part of the language of regular expressions: words, `( | )` for alternatives, and `?` after a
letter or a bracket for what may be missing. "(small )?effusions?" stands for four phrases. That part is finite, so a
vocabulary can be written out and kept as a tree of words.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

from xraygpt.common.errors import ConfigError

Meaning = TypeVar("Meaning")

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|[,;/?]")
_PLAIN = str.maketrans({"’": "'", "(": ",", ")": ","})
_MAX_PHRASES = 20_000  # of one pattern; more is a slip of the pen


def split_words(text: str) -> list[str]:
    """Lower-case words and the marks , ; / ? of a text; a bracket counts as a comma, a hyphen parts words, figures are left out."""
    return _WORD.findall(text.lower().translate(_PLAIN))


def expand(pattern: str) -> list[str]:
    """All phrases that `pattern` stands for.

    Raises:
        ConfigError: a bracket without its partner, a `?` after nothing, a sign that the language has not, or too many phrases.
    """
    phrases, end = _alternatives(pattern, 0)
    if end != len(pattern):
        raise ConfigError(f"{pattern!r}: the bracket at character {end + 1} was never opened.")
    return sorted({" ".join(phrase.split()) for phrase in phrases})


def _alternatives(pattern: str, start: int) -> tuple[list[str], int]:
    """The phrases from `start` to the closing bracket or the end of the pattern, and where that is."""
    done: list[str] = []
    parts: list[list[str]] = []
    index = start
    while index < len(pattern) and pattern[index] != ")":
        sign = pattern[index]
        if sign == "(":
            inner, index = _alternatives(pattern, index + 1)
            if index == len(pattern):
                raise ConfigError(f"{pattern!r}: a bracket is never closed.")
            parts.append(inner)
        elif sign == "|":
            done += _join(parts, pattern)
            parts = []
        elif sign == "?":
            if not parts:
                raise ConfigError(f"{pattern!r}: '?' at character {index + 1} follows nothing.")
            parts[-1] = ["", *parts[-1]]
        elif re.fullmatch(r"[a-z' ,;/]", sign):
            parts.append([sign])
        else:
            raise ConfigError(f"{pattern!r}: {sign!r} has no meaning here. Use words in small letters, ( | ) and ?.")
        index += 1
    return done + _join(parts, pattern), index


def _join(parts: Sequence[Sequence[str]], pattern: str) -> list[str]:
    phrases = [""]
    for part in parts:
        phrases = [phrase + choice for phrase in phrases for choice in part]
        if len(phrases) > _MAX_PHRASES:
            raise ConfigError(f"{pattern!r} stands for more than {_MAX_PHRASES} phrases; split it.")
    return phrases


class PhraseTree(Generic[Meaning]):
    """A vocabulary: phrases and what they mean."""

    def __init__(self) -> None:
        self._root: dict[str, Any] = {}  # a node: word -> node, and "" -> number of the phrase that ends here
        self._patterns: list[str] = []
        self._meanings: list[Meaning] = []

    def add(self, pattern: str, meaning: Meaning) -> None:
        """Add every phrase of `pattern`.

        Raises:
            ConfigError: the pattern is not well formed, stands for an empty phrase, or shares a phrase of another meaning.
        """
        number = len(self._meanings)
        self._patterns.append(pattern)
        self._meanings.append(meaning)
        for phrase in expand(pattern):
            if not phrase:
                raise ConfigError(f"{pattern!r} stands for an empty phrase too.")
            node = self._root
            for word in phrase.split():
                node = node.setdefault(word, {})
            known = node.setdefault("", number)
            if self._meanings[known] != meaning:
                raise ConfigError(f"{phrase!r} has two meanings, from {self._patterns[known]!r} and {pattern!r}; take it out of one.")

    def find(self, words: Sequence[str]) -> Iterable[Meaning]:
        """The meanings of the phrases in `words`, from left to right; the longest phrase that begins at a word wins."""
        root, meanings = self._root, self._meanings
        index, end = 0, len(words)
        while index < end:
            node = root.get(words[index])
            index += 1
            if node is None:
                continue
            ahead, found = index, node.get("")
            while ahead < end and (node := node.get(words[ahead])) is not None:
                ahead += 1
                if "" in node:
                    found, index = node[""], ahead
            if found is not None:
                yield meanings[found]
