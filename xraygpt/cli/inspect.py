"""`xraygpt inspect FILE`: what a checkpoint, a weights file or a run's folder holds. Nothing in it is executed."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from xraygpt.common.errors import CheckpointError
from xraygpt.common.printable import json_text, printable_line, printable_text
from xraygpt.diagnosis import quiet_logging, size
from xraygpt.diagnosis.run_folder import describe_folder
from xraygpt.diagnosis.weights_file import describe_file

_SHAPES = 3  # of a part's tensors, the largest first
_PROBLEMS = 8  # parameters whose numbers are not finite
_LINE = 300  # characters of a log line
_LLM_SIZES = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
_LISTED = {
    True: "as checkpoints.json says",
    False: "NOT what checkpoints.json says: the file is damaged, or was replaced",
    None: "no checkpoints.json names it",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `xraygpt inspect`."""
    parser.add_argument("path", type=Path, metavar="FILE", help="a checkpoint (.pth), a .safetensors file, or the folder of a run")
    parser.add_argument("--config", action="store_true", help="print the configuration of the run as YAML, and nothing else")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the description. Returns 1 if a checksum shows damage, weights are not finite, or a run has checkpoints and none is good."""
    path = args.path.expanduser()
    with quiet_logging():
        described = describe_folder(path) if path.is_dir() else describe_file(path)
    if args.config:
        if described.get("config") is None:
            raise CheckpointError(f"{path} holds no configuration; that of a run is also in the config.yaml of its folder.")
        print(printable_text(yaml.safe_dump(described["config"], sort_keys=False, allow_unicode=True)), end="")
    elif args.json:
        print(json_text(described, indent=1))
    else:
        for line in folder_lines(described) if path.is_dir() else file_lines(described):
            print(printable_line(line))
    return 1 if described.get("listed") is False or described.get("problems") or described.get("resume_problem") else 0


def file_lines(described: Mapping[str, Any]) -> Iterator[str]:
    """The description of a file for reading."""
    yield described["file"]
    yield _line("kind", f"{described['kind']}, {size(described['bytes'])}")
    yield _line("sha256", f"{described['sha256']} ({_LISTED[described['listed']]})")
    if described.get("epoch") is not None:
        yield _line("stands at", position(described))
    if best := described.get("best"):
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in best.items() if isinstance(value, float))
        yield _line("best", f"epoch {best.get('epoch')} ({numbers})" if best.get("epoch") != -1 else "none yet")
    yield from _part_lines(described["parts"])
    yield from _run_lines(described)
    if problems := described["problems"]:
        more = f" (and {len(problems) - _PROBLEMS} more)" if len(problems) > _PROBLEMS else ""
        yield _line("CANNOT BE USED", "; ".join(problems[:_PROBLEMS]) + more)
    if described["note"]:
        yield _line("note", described["note"])


def folder_lines(described: Mapping[str, Any]) -> Iterator[str]:
    """The description of a folder for reading."""
    yield described["folder"]
    if described["kind"] != "run":
        files = f", {size(described['bytes'])} in {len(described['files'])} files" if described["files"] else ""
        yield _line("kind", described["kind"] + files)
        yield _line("config.json", ", ".join(f"{key} {described['config'][key]}" for key in _LLM_SIZES if key in described["config"]))
        yield from _part_lines(described["parts"])
        return
    yield ""
    yield f"{'checkpoint':<24}{'step':>10}{'epoch':>7}{'iteration':>11}{'bytes':>16}  state"
    for row in described["checkpoints"]:
        step, epoch, iteration = ("?" if row[key] is None else row[key] for key in ("step", "epoch", "iteration"))
        yield f"{row['file']:<24}{step:>10}{epoch:>7}{iteration:>11}{row['bytes']:>16,}  {row['state']}"
    yield ""
    takes = described["resume_takes"] or described["resume_problem"] or "nothing: the run starts from the beginning"
    yield from (_line("" if number else "--resume auto", line.strip()) for number, line in enumerate(takes.splitlines()))
    yield _line("complete", "yes (summary.json)" if described["complete"] else "no: there is no summary.json yet")
    if described["last_log_line"] is not None:
        yield _line("log.txt ends", described["last_log_line"][:_LINE])


def position(described: Mapping[str, Any]) -> str:
    """Where a run stands, in words."""
    epoch, iteration = described["epoch"], described.get("iteration") or 0
    done = f"epochs 0 to {epoch} are finished" if epoch > 0 else "epoch 0 is finished" if epoch == 0 else "no epoch is finished"
    inside = f", and {iteration} iterations of epoch {epoch + 1}" if iteration else ""
    return (f"step {described['step']}: " if described.get("step") is not None else "") + done + inside


def _part_lines(parts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if not parts:
        return
    yield ""
    yield f"{'part':<20}{'tensors':>9}{'parameters':>17}{'size':>10}  {'precision':<18}shapes, the largest first"
    for name, part in parts.items():
        kinds = [f"{'×'.join(map(str, each['shape'])) or 'one number'} ({each['tensors']})" for each in part["shapes"]]
        shapes = ", ".join(kinds[:_SHAPES]) + (f" and {len(kinds) - _SHAPES} more" if len(kinds) > _SHAPES else "")
        yield _part_line(name, part["tensors"], part["parameters"], part["bytes"]) + f"  {', '.join(part['dtypes']):<18}{shapes}"
    if len(parts) > 1:
        yield _part_line("all", *(sum(part[key] for part in parts.values()) for key in ("tensors", "parameters", "bytes")))
    yield ""


def _part_line(name: str, tensors: int, parameters: int, num_bytes: int) -> str:
    return f"{name:<20}{tensors:>9,}{parameters:>17,}{size(num_bytes):>10}"


def _run_lines(described: Mapping[str, Any]) -> Iterator[str]:
    """What belongs to the run; an entry that the file lacks has no line."""
    if optimizer := described.get("optimizer"):
        keeps = f"{optimizer['kind']} ({', '.join(optimizer['keeps'])}) of {optimizer['parameters']} parameters, {size(optimizer['bytes'])}"
        yield _line("optimizer", keeps + (", and the loss scaler's state" if described["scaler"] else ""))
    if llm := described.get("llm"):
        yield _line("language model", _identity(llm))
    for name, data in (described.get("data") or {}).items():
        yield _line("data", f"{name}: {_data(data)}")
    if described.get("world_size") is not None:
        states = sorted({word for rank in described["rng"] for word in rank})
        yield _line("ranks", f"{described['world_size']}, with the random state of {len(described['rng'])} ({', '.join(states)})")
    if libraries := described.get("libraries"):
        yield _line("libraries", ", ".join(f"{name} {version}" for name, version in libraries.items()))
    elif described.get("version"):
        yield _line("xraygpt", described["version"])
    if config := described.get("config"):
        yield _line("configuration", f"{', '.join(config)} (print it with --config)")


def _identity(llm: Mapping[str, Any]) -> str:
    known = {"vocabulary": llm.get("vocab_size"), "width": llm.get("hidden_size"), "tokenizer": f"{llm.get('tokenizer')}"[:12] + "…"}
    numbers = ", ".join(f"{name} {value}" for name, value in known.items())
    return f"{llm.get('name')} ({numbers}, embedding sample of {llm.get('embedding')})"


def _data(data: Any) -> str:
    if not isinstance(data, dict):
        return str(data)
    samples = data.get("num_samples")
    splits = ", ".join(f"{split} {count}" for split, count in samples.items()) if isinstance(samples, dict) else "sizes not known"
    return f"{splits} (annotations {str(data.get('annotations_sha256'))[:12]}…)"


def _line(what: str, text: str) -> str:
    return f"{what:<15}{text}"
