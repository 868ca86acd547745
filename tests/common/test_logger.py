"""The console lines of the family, and log.txt."""

import errno
import logging
import re
import time
from fractions import Fraction
from pathlib import Path
from typing import IO

import pytest
import torch

from tests.e2e.tiny_run import kept_logging
from xraygpt.common import files
from xraygpt.common.logger import MetricLogger, RunLog, SmoothedValue, is_log_step, setup_logger

LINE = re.compile(
    r"Train: data epoch: \[0\]  \[ ?\d+/12\]  eta: \d:\d\d:\d\d  lr: \d\.\d{6}  loss: \d+\.\d{4}  time: \d+\.\d{4}  data: \d+\.\d{4}"
    r"(  max mem: \d+)?"
)


def run_loop(metric_logger: MetricLogger, iterations: range = range(12), wait: float = 0.0) -> None:
    """A loop as the task has it, over a loader that takes `wait` seconds a batch."""
    metric_logger.add_meter("lr", SmoothedValue(window_size=1, fmt="{value:.6f}"))
    metric_logger.add_meter("loss", SmoothedValue(window_size=1, fmt="{value:.4f}"))
    for i in metric_logger.log_every(iterations, 5, header="Train: data epoch: [0]"):
        with metric_logger.data_wait():
            time.sleep(wait)
        metric_logger.update(lr=1e-3, loss=float(i))


def test_lines_have_the_familys_form(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run_loop(MetricLogger())
    *lines, total = caplog.messages
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert [line.split("[")[2][:2] for line in lines] == [" 0", " 5", "10", "11"]
    assert re.fullmatch(r"Train: data epoch: \[0\] Total time: \d:\d\d:\d\d \(\d\.\d{4} s / it\)", total)


def test_a_slow_loader_shows_as_data_time(caplog: pytest.LogCaptureFixture) -> None:
    metric_logger = MetricLogger()
    with caplog.at_level(logging.INFO):
        run_loop(metric_logger, range(2), wait=0.02)
    assert metric_logger.data_time.value >= 0.02
    assert metric_logger.iter_time.value >= metric_logger.data_time.value
    assert float(re.findall(r"data: (\d\.\d+)", caplog.text)[0]) >= 0.02


def test_a_resumed_epoch_counts_on(caplog: pytest.LogCaptureFixture) -> None:
    first, whole = MetricLogger(), MetricLogger()
    run_loop(first, range(7))
    run_loop(whole)
    resumed = MetricLogger()
    resumed.load_state_dict(first.state_dict())
    with caplog.at_level(logging.INFO):
        run_loop(resumed, range(7, 12))
    assert "[10/12]" in caplog.text and "[ 5/12]" not in caplog.text


def test_averages_continue_from_a_state() -> None:
    one, other = MetricLogger(), MetricLogger()
    one.update(loss=1.0)
    one.update(loss=2.0)
    other.load_state_dict(one.state_dict())
    other.update(loss=6.0)
    assert other.averages() == {"loss": 3.0}
    other.synchronize_between_processes(torch.device("cpu"))
    assert other.averages() == {"loss": 3.0}


def test_smoothed_value() -> None:
    meter = SmoothedValue(window_size=3)
    assert str(meter) == "-" and meter.global_avg == 0.0
    for value in (1.0, 2.0, 9.0, 4.0):
        meter.update(value)
    assert str(meter) == "4.0000 (4.0000)"
    assert meter.value == 4.0
    meter.update(10.0, n=4)
    assert meter.global_avg == 7.0


@pytest.mark.parametrize(("i", "logged"), [(0, True), (3, False), (4, True), (9, True)])
def test_log_steps(i: int, logged: bool) -> None:
    assert is_log_step(i, 4, 10) is logged


# log.txt ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    """A log with its first line and four steps."""
    log = RunLog(tmp_path / "log.txt")
    log.write({"config": {"a": 1}})
    for step in range(4):
        log.write({"step": step, "loss": 0.1 + 0.2})
    return log


def test_numbers_come_back_exactly(log: RunLog) -> None:
    assert log.read()[1] == {"step": 0, "loss": 0.1 + 0.2}
    assert len(log.path.read_text().splitlines()) == 5


def test_rewind_keeps_what_was_before(log: RunLog) -> None:
    log.rewind(2, finished_epochs=0)
    assert [record.get("step") for record in log.read()] == [None, 0, 1]


def test_a_torn_last_line_is_left_out(log: RunLog) -> None:
    log.path.write_text(log.path.read_text() + '{"step": 4, "lo')
    assert log.read()[-1]["step"] == 3
    log.rewind(4, finished_epochs=0)
    log.write({"step": 4})
    assert [record.get("step") for record in log.read()] == [None, 0, 1, 2, 3, 4]


def test_lines_wait_for_a_disk_that_refuses(log: RunLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def half(handle: IO[bytes], data: bytes) -> int:
        handle.write(bytes(data)[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.disk, "write", half)
        log.write({"step": 4})
        log.write({"step": 5})
    assert [record.get("step") for record in log.read()] == [None, 0, 1, 2, 3]
    assert "2 lines wait to be written: [Errno 28] No space left" in caplog.text
    log.write({"step": 6})
    assert [record.get("step") for record in log.read()] == [None, 0, 1, 2, 3, 4, 5, 6]


def test_a_damaged_line_is_left_out_and_said(log: RunLog, caplog: pytest.LogCaptureFixture) -> None:
    log.path.write_bytes(log.path.read_bytes() + b'{"step": 4, "lo{"step": 5}\n\xff\n{"step": 6}\n')
    assert [record.get("step") for record in log.read()] == [None, 0, 1, 2, 3, 6]
    assert "line 6 is damaged" in caplog.text and "line 7 is damaged" in caplog.text


@pytest.mark.parametrize(("finished_epochs", "epochs"), [(2, [0, 1]), (1, [0])])
def test_the_line_of_an_epoch_that_is_not_validated_goes(finished_epochs: int, epochs: list[int], log: RunLog) -> None:
    """All its steps may be done, when the run was killed in the validation or just after it."""
    log.write({"step": 1, "epoch": 0, "train_loss": 1.0})
    log.write({"step": 3, "epoch": 1, "train_loss": 1.0})
    log.rewind(4, finished_epochs=finished_epochs)
    assert [record["epoch"] for record in log.read() if "train_loss" in record] == epochs
    assert [record["step"] for record in log.read() if "loss" in record] == [0, 1, 2, 3]


def test_steps_are_renumbered_for_another_number_of_ranks(log: RunLog) -> None:
    log.rewind(3, finished_epochs=0, scale=Fraction(2))
    assert [record.get("step") for record in log.read()] == [None, 1, 3, 5]
    log.rewind(6, finished_epochs=0, scale=Fraction(1, 2))
    assert [record.get("step") for record in log.read()] == [None, 0, 1, 2]


def test_clear(log: RunLog) -> None:
    log.clear()
    assert log.read() == []
    log.clear()


def test_the_logger_says_who_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        setup_logger()
        logging.getLogger("xraygpt.x").info("hello")
        monkeypatch.setattr("xraygpt.common.logger.get_rank", lambda: 3)
        setup_logger()
        logging.getLogger("xraygpt.x").info("quiet")
        logging.getLogger("xraygpt.x").warning("careful")
    finally:
        root.handlers[:], root.level = handlers, level
    shown = capsys.readouterr().err
    assert re.search(r"\d \[INFO\] hello\n.* \[WARNING\] rank 3: careful\n", shown)
    assert "quiet" not in shown


def test_a_name_cannot_forge_a_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    with kept_logging():
        setup_logger()
        logging.getLogger("xraygpt.x").warning("Left out: %s", "a\n2026-01-01 00:00:00,000 [INFO] forged\x1b[2J\u202e\udcff")
        try:
            raise ValueError("b\n2026-01-01 00:00:00,000 [INFO] forged")
        except ValueError:
            logging.getLogger("xraygpt.x").exception("Failed:")
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"^.{23}", "", line) for line in lines if not line.startswith(" ")] == [" [WARNING] Left out: a", " [ERROR] Failed:"]
    assert lines[1] == r"  2026-01-01 00:00:00,000 [INFO] forged\x1b[2J\u202e\xff"
