"""Counts, drops, problems and source files of a preparation."""

import hashlib
import logging
from pathlib import Path

import pytest

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.account import MAX_LOGGED, Account, Dropped, SourceFile


def test_every_filter_is_counted_in_its_order() -> None:
    account = Account()
    account.declare(["reports", "short", "missing"])
    account.drop("missing", kind="image", id="a")
    account.count("reports", 3)
    assert list(account.counts.items()) == [("reports", 3), ("short", 0), ("missing", 1)]
    assert account.dropped == [Dropped("image", "a", "missing", "")]


def test_a_problem_is_listed_relative_to_the_source() -> None:
    account = Account(roots=[Path("/data/x")])
    account.problem("unreadable", "/data/x/a/1.png: empty.", kind="image", id="1", where="/data/x/t.csv, line 3")
    assert account.problems == [Dropped("image", "1", "a/1.png: empty.", "t.csv, line 3")]
    assert account.counts == {"unreadable": 1}


def test_stop_ends_at_the_first_problem() -> None:
    account = Account(on_error="stop")
    account.drop("short", kind="report", id="1")  # a filter's decision is no problem
    with pytest.raises(DataError, match=r"1\.png: empty\. \(Leave such things out.*--on-error skip"):
        account.problem("unreadable", "1.png: empty.", kind="image")
    with pytest.raises(DataError, match="skip, stop, not 'ignore'"):
        Account(on_error="ignore")


def test_many_problems_of_a_kind_are_listed_but_not_all_logged(caplog: pytest.LogCaptureFixture) -> None:
    account = Account()
    with caplog.at_level(logging.WARNING):
        for number in range(100):
            account.problem("missing", f"There is no image {number}.", kind="image")
    assert len(account.problems) == 100
    assert len(caplog.records) == MAX_LOGGED + 1
    assert "dropped.csv" in caplog.messages[-1]


def test_fingerprints_do_not_depend_on_the_order_or_the_place(tmp_path: Path) -> None:
    prints = []
    for folder, numbers in ((tmp_path / "a", (1, 2)), (tmp_path / "b", (2, 1))):
        account = Account(roots=[folder])
        for number in numbers:
            account.source_content("report", str(number), folder / f"r/{number}.txt", b"x" * number)
        prints.append(account.fingerprints())
    assert prints[0] == prints[1]
    assert (prints[0]["reports"]["count"], prints[0]["reports"]["bytes"], prints[0]["tables"]["count"]) == (2, 3, 0)
    other = Account(roots=[tmp_path])
    other.source_content("report", "1", tmp_path / "r/1.txt", b"y")
    assert other.fingerprints()["reports"]["sha256"] != prints[0]["reports"]["sha256"]
    assert other.source_files == [SourceFile("report", "1", "r/1.txt", 1, hashlib.sha256(b"y").hexdigest())]
