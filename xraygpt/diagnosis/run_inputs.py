"""What a run reads: its configuration, data, weights, language model and prompts. No large file is read in full."""

import argparse
from collections.abc import Collection, Generator, Iterator
from pathlib import Path
from typing import Any

import xraygpt.runners  # noqa: F401  registers the runner that a configuration names
from xraygpt.common.checkpoint import load_checkpoint, model_state
from xraygpt.common.config import Config, builder_name
from xraygpt.common.errors import CheckpointError, DataError, RegistryError
from xraygpt.common.model_folder import CONFIG, WEIGHT_FILES, read_json, weight_files
from xraygpt.common.registry import registry
from xraygpt.common.schema import paths_of
from xraygpt.conversation.prompts import load_prompts
from xraygpt.datasets.builders import BaseDatasetBuilder
from xraygpt.datasets.dataloaders import evenly_spaced
from xraygpt.diagnosis.finding import FAIL, OK, WARN, Finding, examine, size
from xraygpt.models.language_model import load_tokenizer
from xraygpt.models.sequence import tokenize
from xraygpt.tasks import setup_task

_IMAGES_OPENED = 4
"""Of each split that the run uses. All of them: train.py --check --scan-data."""
_PROBE = "The heart is enlarged."


def load_config(args: argparse.Namespace) -> Generator[Finding, None, Config]:
    """The configuration, whose files and folders may be missing: the other checks say so.

    Returns:
        It, as the generator's value.

    Raises:
        ConfigError: lists what is wrong with it.
    """
    cfg = Config(args, needs=())
    try:
        registry.get_task_class(cfg.run_cfg.task)
    except RegistryError as error:
        yield Finding(FAIL, "configuration", f"run.task: {error}")
    else:
        yield Finding(OK, "configuration", f"{cfg.cfg_path}: every key, type and value is known")
    return cfg


# Data ----------------------------------------------------------------------------------------------------------


def check_data(cfg: Config) -> Iterator[Finding]:
    """Each dataset, then whether the splits that the run asks for are there."""
    run = cfg.run_cfg
    used = [*(() if run.evaluate else (*run.train_splits, *run.valid_splits)), *run.test_splits]
    found: set[str] = set()
    unread = False
    for name in map(str, cfg.datasets_cfg):
        splits = yield from examine(f"data {name}", f"{__name__}:check_dataset", cfg, name, used)
        unread |= splits is None
        found |= splits or set()
    absent = sorted(set(used) - found)
    if absent and not unread:
        there = ", ".join(sorted(found)) or "none"
        yield Finding(FAIL, "splits", f"no dataset has {', '.join(absent)}; there are {there}", "Correct run.*_splits.")


def check_dataset(cfg: Config, name: str, used: Collection[str]) -> Generator[Finding, None, set[str]]:
    """A dataset's annotations, and some images of its splits in `used`, opened as the run will.

    Returns:
        Its splits, as the generator's value.

    Raises:
        DataError: its annotations cannot be used.
    """
    config = cfg.datasets_cfg[name]
    builder: BaseDatasetBuilder = registry.get_builder_class(builder_name(name, config))(config)
    builder.tolerates = setup_task(cfg).tolerates
    datasets = builder.build_datasets()
    problems, opened = [], 0
    for split, dataset in datasets.items():
        for index in evenly_spaced(len(dataset), _IMAGES_OPENED if split in used else 0):
            opened += 1
            try:
                dataset[index]
            except DataError as error:
                problems.append((split, str(error)))
    sizes = ", ".join(f"{split} {len(dataset):,}" for split, dataset in datasets.items())
    if problems:
        shown = "; ".join(error for _, error in problems[:2])
        level = WARN if all(builder.tolerates(split) for split, _ in problems) else FAIL  # run.on_bad_sample
        advice = "Look at all of them: xraygpt data show FOLDER, or train.py --check --scan-data."
        yield Finding(level, f"data {name}", f"{sizes}; {len(problems)} of {opened} samples cannot be used: {shown}", advice)
    else:
        yield Finding(OK, f"data {name}", f"{sizes}; {opened} samples opened")
    return set(datasets)


# Weights -------------------------------------------------------------------------------------------------------


def check_paths(cfg: Config) -> Iterator[Finding]:
    """Every file and folder that the model and the run name is there, and the weights among them can be opened."""
    model_class = registry.get_model_class(cfg.model_cfg.arch)
    paths = [*paths_of(model_class.config_schema, cfg.model_cfg, "model")]
    if (resume := cfg.run_cfg.get("resume_ckpt_path")) and resume != "auto":
        paths.append(("run.resume_ckpt_path", resume, 'Give a checkpoint of the run, or "auto".'))
    for name, text, how_to_get in paths:
        path = Path(text).expanduser()
        if not path.exists():
            yield Finding(FAIL, name, f"{text} is missing (looked for {path.absolute()})", how_to_get)
        elif name not in ("model.prompt_path", "model.llama_model"):  # these have checks of their own
            yield _weights(name, path)


def _weights(name: str, path: Path) -> Finding:
    try:
        parameters = model_state(load_checkpoint(path, mmap=True), path)
    except CheckpointError as error:
        return Finding(FAIL, name, str(error), "Fetch the file again, and compare its size with the one that is published.")
    return Finding(OK, name, f"{path}: {len(parameters)} tensors, {size(path.stat().st_size)}")


def check_tokenizer(cfg: Config) -> Iterator[Finding]:
    """Special tokens, end symbol and plain text come back from the tokenizer as they went in, and its ids fit the embedding matrix."""
    folder = _language_model_folder(cfg)
    if folder is None:
        return
    tokenizer, end_sym = load_tokenizer(folder), str(cfg.model_cfg.get("end_sym", ""))
    special = {getattr(tokenizer, f"{name}_token"): getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    problems = [
        f"{token} is not what its id {number} stands for" for token, number in special.items() if not _returns(tokenizer, token, number)
    ]
    for text in (end_sym, _PROBE + end_sym):
        decoded = str(tokenizer.decode(tokenize(tokenizer, text), skip_special_tokens=True)).strip()
        if decoded != text.strip():
            problems.append(f"{text!r} comes back as {decoded!r}")
    vocabulary = read_json(folder / CONFIG).get("vocab_size", len(tokenizer))
    if len(tokenizer) > vocabulary:
        problems.append(f"it has {len(tokenizer)} tokens, the language model {vocabulary} (config.json)")
    advice = "Tokenizer and model do not belong together, or the end symbol is foreign to it: use the folder as it was published."
    if problems:
        yield Finding(FAIL, "tokenizer", f"{folder}: {'; '.join(problems)}", advice)
    else:
        yield Finding(OK, "tokenizer", f"{folder}: {len(tokenizer):,} tokens; {', '.join(special)} and {end_sym!r} come back as they were")


def _returns(tokenizer: Any, token: str, number: int) -> bool:
    return tokenizer.convert_tokens_to_ids(token) == number and tokenizer.convert_ids_to_tokens(number) == token


def check_language_model(cfg: Config) -> Iterator[Finding]:
    """The weight files of the language model: all there, each can be opened, and with the tensors that the index promises."""
    folder = _language_model_folder(cfg)
    if folder is None:
        return
    if cfg.model_cfg.get("llm_from_scratch"):
        yield Finding(OK, "language model", f"{folder}: starts from random weights (model.llm_from_scratch)")
        return
    main = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    again = "Fetch the folder again, with git lfs pull where it is a repository; model.llm_from_scratch=True starts without weights."
    if main is None:
        yield Finding(FAIL, "language model", f"{folder} holds no weights ({', '.join(WEIGHT_FILES)})", again)
        return
    files = weight_files(folder)
    index = read_json(main)["weight_map"] if main.suffix == ".json" else {}
    names, problems = set[str](), []
    for file in files:
        try:
            names |= load_checkpoint(file, mmap=True).keys()
        except CheckpointError as error:
            problems.append(str(error))
    if not problems and (absent := sorted(index.keys() - names)):
        problems.append(f"{len(absent)} tensors of {main.name} are in no file, first {absent[0]}")
    if problems:
        yield Finding(FAIL, "language model", f"{folder}: {len(problems)} problems: {'; '.join(problems[:2])}", again)
    else:
        total = sum(file.stat().st_size for file in files)
        yield Finding(OK, "language model", f"{folder}: {len(names)} tensors in {len(files)} files, {size(total)}")


def _language_model_folder(cfg: Config) -> Path | None:
    """Where it should be; None if the model has none, or it is missing, which `check_paths` says."""
    name = cfg.model_cfg.get("llama_model")
    folder = Path(name).expanduser() if name else None
    return folder if folder is not None and folder.exists() else None


def check_prompts(cfg: Config) -> Iterator[Finding]:
    """The prompt file, for models that have one."""
    path = cfg.model_cfg.get("prompt_path")
    if path and Path(path).expanduser().exists():
        prompts = load_prompts(path, cfg.model_cfg.get("prompt_template", "{}"))
        yield Finding(OK, "prompts", f"{path}: {len(prompts)}")
