"""What a run needs of the machine: memory for the model, room and rights in the output folder. No weight is read."""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import disk_usage

import torch

from xraygpt.common.config import Config
from xraygpt.common.dist_utils import resolve_device
from xraygpt.common.files import atomic_file
from xraygpt.common.registry import registry
from xraygpt.common.schema import paths_of
from xraygpt.diagnosis.finding import FAIL, OK, WARN, Finding, examine, size
from xraygpt.diagnosis.machine import available_memory
from xraygpt.models.precision import WEIGHT_BYTES, compute_dtype

_TRAINED_BYTES = 16
"""A trained parameter in float32: itself, its gradient, and AdamW's two moments."""
_SAVED_BYTES = 12
"""Of these a checkpoint has all but the gradient."""
_PROBE_BYTES = 1 << 20
_TIGHT = 0.8  # of what there is


def check_model(cfg: Config) -> Iterator[Finding]:
    """Count the parameters, then compare what they take with the memory of the device and of the host, and with the free disk."""
    model_class = registry.get_model_class(cfg.model_cfg.arch)
    counts = model_class.skeleton(cfg.model_cfg).parameter_counts()
    total, trained = (sum(column) for column in zip(*counts.values(), strict=True))
    parts = ", ".join(part for part, (_, trainable) in counts.items() if trainable)
    yield Finding(OK, "model", f"{total:,} parameters, of which {trained:,} are trained ({parts or 'none'})")
    if not cfg.run_cfg.evaluate and not trained:
        yield Finding(FAIL, "model", "every part is frozen, there is nothing to train", "Unfreeze one: model.freeze_*=False.")
    yield from examine("memory", f"{__name__}:check_memory", cfg, counts)
    if not cfg.run_cfg.evaluate:
        yield from examine("disk", f"{__name__}:check_disk", cfg, trained)


def check_memory(cfg: Config, counts: Mapping[str, tuple[int, int]]) -> Iterator[Finding]:
    """What the model takes on its device and on the host. `counts`: part → (all parameters, trained ones)."""
    device = resolve_device(cfg.run_cfg.device)
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    of = f" for each of {ranks} ranks" if ranks > 1 else ""
    advice = "Freeze parts (model.freeze_*) or store them smaller (model.frozen_dtype); or fewer ranks, or a machine with more memory."
    if device.type == "cuda":
        needed = _bytes_of_model(cfg, counts, device)
        yield _compare(
            f"memory of {device}", needed, torch.cuda.mem_get_info(device)[0], "model and optimizer (activations on top)", advice
        )
        passing = _bytes_of_files(cfg) * ranks
        yield _compare("memory", passing, available_memory(), f"weights on their way to the GPU{of}", advice)
    else:
        needed = _bytes_of_model(cfg, counts, device) * ranks
        yield _compare("memory", needed, available_memory(), f"model and optimizer{of} (activations on top)", advice)


def _bytes_of_model(cfg: Config, counts: Mapping[str, tuple[int, int]], device: torch.device) -> int:
    """Parameters with what training adds to them, and frozen ones as they are stored."""
    dtypes = cfg.model_cfg.get("frozen_dtype") or {}
    wanted = {"visual_encoder": dtypes.get("vit", "auto"), "llama_model": dtypes.get("llm", "auto")}
    needed = 0.0
    for part, (total, trained) in counts.items():
        dtype = wanted.get(part, "fp32")
        needed += trained * _TRAINED_BYTES + (total - trained) * (WEIGHT_BYTES.get(dtype) or compute_dtype(dtype, device).itemsize)
    return int(needed)


def _bytes_of_files(cfg: Config) -> int:
    """Bytes of all the files that the model is built from."""
    schema = registry.get_model_class(cfg.model_cfg.arch).config_schema
    paths = [Path(path).expanduser() for _, path, _ in paths_of(schema, cfg.model_cfg, "model")]
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path]) if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _compare(what: str, needed: int, there: int | None, purpose: str, advice: str) -> Finding:
    if there is None:
        return Finding(OK, what, f"{size(needed)} needed by {purpose}; this system does not say how much is free")
    found = f"{size(needed)} needed by {purpose}, {size(there)} free"
    level = FAIL if needed > there else WARN if needed > _TIGHT * there else OK
    return Finding(level, what, found, "" if level == OK else advice)


# The output folder -----------------------------------------------------------------------------------------------


def check_disk(cfg: Config, trained: int) -> Iterator[Finding]:
    """Room for all the checkpoints that the run keeps, and for one that is being written. `trained`: number of trained parameters."""
    run = cfg.run_cfg
    kept = run.max_epoch + 1 + run.keep_step_checkpoints  # checkpoint_best.pth is one of them under a second name
    there = disk_usage(_existing(Path(run.output_dir).expanduser())).free
    purpose = f"{kept} checkpoints of {size(trained * _SAVED_BYTES)}"
    yield _compare("disk", kept * trained * _SAVED_BYTES, there, purpose, "Make room, or choose another folder: run.output_dir=….")


def check_output(cfg: Config) -> Iterator[Finding]:
    """Write, flush, rename and remove a file where the run will; the folder itself is not made. Then whether the job's name is taken."""
    run = cfg.run_cfg
    output = Path(run.output_dir).expanduser().absolute()
    folder = _existing(output)
    probe = folder / f".xraygpt-doctor-{os.getpid()}"
    start = time.perf_counter()
    try:
        with atomic_file(probe) as file:  # as a checkpoint is written
            file.write(bytes(_PROBE_BYTES))
        probe.unlink()
    except OSError as error:
        yield Finding(FAIL, "output folder", f"{folder}: a file cannot be written: {error}", "Choose another folder: run.output_dir=….")
    else:
        milliseconds = 1000 * (time.perf_counter() - start)
        where = f"{output}" if folder == output else f"{folder}, in which {output.relative_to(folder)} will be made"
        yield Finding(OK, "output folder", f"{where}: {size(_PROBE_BYTES)} written and removed in {milliseconds:.0f} ms")
    job = output / run.job_id
    if run.job_id and (job / "log.txt").exists() and not run.evaluate and not run.get("resume_ckpt_path"):
        yield Finding(WARN, "job", f"{job} already holds a run", "Continue it with --resume auto, or choose another run.job_id.")


def _existing(folder: Path) -> Path:
    """The folder, or what of the path above it exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
