"""Runs of train.py that start at once: children of a process that has imported everything and started no thread.

`python tests/reliability/warm_parent.py` answers lines of JSON; `WarmParent` is the other end. A child is the whole of `train.py`, from
its command line to its exit code, in a process of its own: only its start-up of some seconds is saved.
"""

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


class WarmParent:
    """Starts lives, and says how they ended. One at a time or several, each with a log of its own.

    Args:
        folder: where the lives write what they say: life-{number}.log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs: dict[int, Path] = {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, __file__], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._ask({})  # answered when everything is imported

    def close(self) -> None:
        """End the parent; lives that still run are killed."""
        for pid in self.logs:
            self._ask({"end": pid, "seconds": 0})
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def start(self, cfg_path: Path, *arguments: str, hook: dict[str, Any] | None = None, environment: dict[str, str] | None = None) -> int:
        """Start `train.py --cfg-path … arguments` and return its process id.

        Args:
            hook: what `file_operations.install` shall do to its file operations.
            environment: variables on top of this process's.
        """
        log = self.folder / f"life-{len(self.logs)}.log"
        request = {
            "start": ["train.py", "--cfg-path", str(cfg_path), *arguments],
            "log": str(log),
            "hook": hook,
            "environment": environment or {},
        }
        pid = self._ask(request)
        self.logs[pid] = log
        return pid

    def start_ranks(
        self,
        number: int,
        cfg_path: Path,
        *arguments: str,
        hooks: Sequence[dict[str, Any] | None] = (),
        environment: dict[str, str] | None = None,
    ) -> list[int]:
        """Start that many ranks of one run, joined by gloo, and return their process ids; `hooks` by rank."""
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = str(found.getsockname()[1])
        common = {**(environment or {}), "WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        hooks = [*hooks, *[None] * (number - len(hooks))]
        return [
            self.start(cfg_path, *arguments, hook=hook, environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank, hook in enumerate(hooks)
        ]

    def wait(self, pid: int, *, seconds: float = 60) -> int:
        """The exit code of a life, negative for a signal. One that is still there after so many seconds is killed, and the test fails."""
        code = self._ask({"end": pid, "seconds": seconds})
        assert code is not None, f"A life did not end within {seconds} s. It said:\n{self.said(pid)}"
        return code

    def kill_after(self, pid: int, seconds: float) -> int:
        """Send SIGKILL to a life after so many seconds, unless it has ended before; its exit code."""
        code = self._ask({"end": pid, "seconds": seconds})
        return -signal.SIGKILL if code is None else code

    def said(self, pid: int) -> str:
        """What a life wrote to its standard output and error."""
        return self.logs[pid].read_text(encoding="utf-8", errors="replace")

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        answer = self._process.stdout.readline()
        assert answer, "The warm parent has ended; its error is above."
        return json.loads(answer)


# The other end -----------------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests until the input ends. In a child, run train.py and leave by its exit code."""
    import file_operations  # a neighbour: this file is a script here

    import train

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what an import prints is no answer
    ended: dict[int, int] = {}
    gc.freeze()  # a collection in a child would copy all that the parent has imported
    while line := sys.stdin.readline():
        request = json.loads(line)
        if not request:
            answers.write("null\n")
        elif "end" in request:
            answers.write(json.dumps(_end(request["end"], request["seconds"], ended)) + "\n")
        elif pid := os.fork():
            answers.write(f"{pid}\n")
        else:
            answers.close()
            _become(request)
            file_operations.install(request["hook"])
            _live(train.main)


def _become(request: dict[str, Any]) -> None:
    """Give this child its own command line, environment and output."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    os.close(nothing)
    os.environ.update(request["environment"])
    sys.argv = request["start"]


def _live(main: Callable[[], int]) -> None:
    """Run the program, and end as Python ends it, but without tidying up the memory: page after page of the parent's would be copied."""
    code = 1
    try:
        code = main()
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # waits for threads, a writer of checkpoints among them
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end(pid: int, seconds: float, ended: dict[int, int]) -> int | None:
    """The exit code of a child, waited for; None if it had to be killed."""
    if pid in ended:
        return ended[pid]
    handle = os.pidfd_open(pid)
    in_time = bool(select.select([handle], [], [], seconds)[0])
    os.close(handle)
    if not in_time:
        os.kill(pid, signal.SIGKILL)
    ended[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return ended[pid] if in_time else None


if __name__ == "__main__":
    serve()
