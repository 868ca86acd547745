"""The `xraygpt` command: what it lists, what it imports, and how it ends."""

import argparse
import importlib
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

import xraygpt
from xraygpt.cli.main import COMMANDS, main
from xraygpt.common.errors import DataError


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[argparse.Namespace], int]], None]:
    """Put a command `toy` with one option in the table; it does what the given function does."""

    def install(run: Callable[[argparse.Namespace], int]) -> None:
        module = SimpleNamespace(add_arguments=lambda parser: parser.add_argument("--count", type=int, default=0), run=run)
        monkeypatch.setitem(sys.modules, "toy_command", module)
        monkeypatch.setitem(COMMANDS, "toy", ("toy_command", "a toy"))

    return install


def test_help_lists_every_command_and_the_research_notice(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert all(command in shown for command in COMMANDS)
    assert "research only" in shown


def test_help_loads_no_torch() -> None:
    code = (
        "import sys\nfrom xraygpt.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"xraygpt {xraygpt.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_shows_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"xraygpt {command}" in capsys.readouterr().out


def test_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["generat"])
    assert end.value.code == 2
    assert "Did you mean 'generate'?" in capsys.readouterr().err


def test_no_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert "phantom" in capsys.readouterr().err


def test_a_command_gets_its_options_and_returns_its_exit_code(toy: Callable) -> None:
    toy(lambda args: args.count)
    assert main(["toy", "--count", "3"]) == 3


def test_only_the_chosen_module_is_imported(toy: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(lambda args: 0)
    import_module = Mock(side_effect=importlib.import_module)
    monkeypatch.setattr(importlib, "import_module", import_module)
    main(["toy"])
    import_module.assert_called_once_with("toy_command")


def test_an_error_of_ours_is_one_line_and_exit_code_1(toy: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    def run(args: argparse.Namespace) -> int:
        raise DataError("no image in 'x'")

    toy(run)
    assert main(["toy"]) == 1
    assert capsys.readouterr().err == "error: no image in 'x'\n"


def test_any_other_error_keeps_its_traceback(toy: Callable) -> None:
    def run(args: argparse.Namespace) -> int:
        raise ZeroDivisionError

    toy(run)
    with pytest.raises(ZeroDivisionError):
        main(["toy"])


def test_ctrl_c_is_130(toy: Callable) -> None:
    def run(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    toy(run)
    assert main(["toy"]) == 130


def test_what_an_error_quotes_neither_commands_the_terminal_nor_forges_a_line(
    toy: Callable[[Callable[[argparse.Namespace], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise DataError("a\x1b[2J\r\nerror: forged\u202e\udcff: cannot be read.")

    toy(fail)
    assert main(["toy"]) == 1
    assert capsys.readouterr().err == "error: a\\x1b[2J\\r\n  error: forged\\u202e\\xff: cannot be read.\n"
    for words in (["toy", "a\x1b[2J\nforged"], ["toy", "--count", "\x1b[2J"], ["\x1b[2J"]):
        with pytest.raises(SystemExit):
            main(words)
        shown = capsys.readouterr().err
        assert "\x1b" not in shown and "\nforged" not in shown
