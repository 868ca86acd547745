"""The API under load: 400 requests from 50 clients at once: python benchmarks/api_load.py --cfg-path eval_configs/quickstart.yaml

Needs the model of the configuration (make quickstart). A server is started as a user starts it, `xraygpt serve`. Of ten requests seven ask
properly about an image of their own, one is left before its answer, one is malformed, one is too large. Checked: every proper request is
answered, with the report that the same model writes for the same image alone (none lost, none crossed), every other is refused or ends,
and the server's memory stays flat. Measured: answers a second, beside one client that asks one after another in the same run.
"""

import argparse
import base64
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

TOO_LARGE = 40 * 2**20  # bytes; the limit is 32 MiB


def main() -> None:
    """Start the server, load it, print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cfg-path", default="eval_configs/quickstart.yaml")
    parser.add_argument("--images", type=Path, default=Path("data/phantom/openi/image"))
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=400)
    args = parser.parse_args()
    images = sorted(args.images.glob("*.png"))[: args.requests]
    port = free_port()
    command = [sys.executable, "-m", "xraygpt.cli.main", "serve", "--cfg-path", args.cfg_path, "--port", str(port), "--no-page"]
    server = subprocess.Popen([*command, "--max-queue", str(2 * args.clients)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_up(url, server)
        expected, one_by_one = ask_alone(url, images)
        before = memory_mib(server.pid)
        load(url, images, args.clients, args.requests)  # once more than counted: the second round shows whether memory grows
        between = memory_mib(server.pid)
        outcomes, seconds = load(url, images, args.clients, args.requests)
        after = memory_mib(server.pid)
    finally:
        server.terminate()
        server.wait(timeout=30)
    print(f"{args.requests} requests of {args.clients} clients in {seconds:.1f} s")
    report(outcomes, expected, seconds, one_by_one)
    print(f"memory of the server: {before:.0f} MiB before, {between:.0f} after the first round, {after:.0f} after the second")


def ask_alone(url: str, images: Sequence[Path]) -> tuple[dict[Path, str], float]:
    """The report of each image, asked one after another, and the answers a second."""
    with httpx.Client(timeout=120) as client:
        start = time.perf_counter()
        reports = {image: answer_of(client.post(url + "/v1/chat/completions", json=body(image))) for image in images}
        return reports, len(images) / (time.perf_counter() - start)


def load(url: str, images: Sequence[Path], num_clients: int, num_requests: int) -> tuple[list[tuple[str, Path, Any]], float]:
    """(kind, image, outcome) of each request, and the seconds that all took."""
    start = time.perf_counter()
    with ThreadPoolExecutor(num_clients) as pool:
        outcomes = list(pool.map(lambda number: one_request(url, number, images[number % len(images)]), range(num_requests)))
    return outcomes, time.perf_counter() - start


def one_request(url: str, number: int, image: Path) -> tuple[str, Path, Any]:
    """Send one of the four kinds of requests."""
    kind = {7: "left", 8: "malformed", 9: "too large"}.get(number % 10, "proper")
    address = url + "/v1/chat/completions"
    if kind == "left":
        try:
            httpx.post(address, json=body(image), timeout=0.05)
        except httpx.TimeoutException:
            return kind, image, "left"
        return kind, image, "answered before"
    content: dict[str, Any] = {"json": body(image)}
    if kind == "malformed":
        content = {"content": b'{"messages": [', "headers": {"content-type": "application/json"}}
    elif kind == "too large":
        content = {"content": b" " * TOO_LARGE, "headers": {"content-type": "application/json"}}
    for _ in range(100):
        response = httpx.post(address, timeout=120, **content)
        if response.status_code not in (429, 503):
            break
        time.sleep(0.1)  # told busy: a client tries again
    return kind, image, answer_of(response) if kind == "proper" else response.status_code


def answer_of(response: httpx.Response) -> str:
    """The text of an answer, or what came in its place."""
    return response.json()["choices"][0]["message"]["content"] if response.status_code == 200 else f"status {response.status_code}"


def report(outcomes: Sequence[tuple[str, Path, Any]], expected: dict[Path, str], seconds: float, one_by_one: float) -> None:
    """Print the counts, and end with an error if a request was lost or crossed."""
    proper = [(image, outcome) for kind, image, outcome in outcomes if kind == "proper"]
    lost = [outcome for _, outcome in proper if outcome.startswith("status ")]
    compared = [(outcome, expected[image]) for image, outcome in proper if image in expected]
    crossed = [pair for pair in compared if pair[0] != pair[1]]
    print(f"proper: {len(proper)}, lost {len(lost)}; {len(compared)} compared with the report written alone, {len(crossed)} differ")
    for kind in ("left", "malformed", "too large"):
        print(f"{kind}: {dict(Counter(outcome for other, _, outcome in outcomes if other == kind))}")
    rate = len(proper) / seconds
    print(f"answers a second: {rate:.1f}; one after another {one_by_one:.1f}; ratio {rate / one_by_one:.2f}")
    if lost or crossed:
        raise SystemExit("requests were lost or crossed")


def body(image: Path) -> dict[str, Any]:
    """A request for the report of an image."""
    uri = "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": uri}}]
    return {"model": "quickstart", "messages": [{"role": "user", "content": content}]}


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_up(url: str, server: subprocess.Popen) -> None:
    """Wait for /healthz."""
    for _ in range(600):
        try:
            if httpx.get(url + "/healthz").status_code == 200:
                return
        except httpx.TransportError:
            if server.poll() is not None:
                raise SystemExit("the server ended; run the command by hand to see why") from None
        time.sleep(0.2)
    raise SystemExit("the server did not start in two minutes")


def memory_mib(pid: int) -> float:
    """Resident memory of a process (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    main()
