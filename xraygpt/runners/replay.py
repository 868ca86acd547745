"""An update that was not finite, computed again from its dump (`failures.write_dump`): which samples, and where it begins."""

import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.utils.data import default_collate

from xraygpt.common.checkpoint import load_checkpoint, load_trainable_state, tensors_in
from xraygpt.common.config import Config
from xraygpt.common.dist_utils import resolve_device
from xraygpt.common.errors import CheckpointError, first_line
from xraygpt.common.files import write_text
from xraygpt.common.seed import seed_everything
from xraygpt.common.updater import amp_dtype
from xraygpt.datasets.data_utils import Draw, prepare_sample
from xraygpt.runners.saved_state import check_saved_state
from xraygpt.tasks import setup_task

_KEYS = {"what", "step", "micro_batches", "model", "llm", "config", "scale", "libraries"}


@dataclass(frozen=True)
class Computed:
    """The loss of some samples, the norm of its gradient, and where the first number that is not finite came up."""

    rank: int
    iteration: int
    sample_ids: Sequence[str]
    loss: float
    grad_norm: float
    first_module: str | None
    """The first module whose output is not finite; None: all are."""
    parameters: Sequence[str]
    """Those whose gradient is not finite."""

    @property
    def is_finite(self) -> bool:
        """Whether both numbers are."""
        return isfinite(self.loss) and isfinite(self.grad_norm)


def load_dump(path: str | Path) -> dict[str, Any]:
    """Read a dump; nothing in it is executed.

    Raises:
        CheckpointError: it cannot be read, or is no dump.
    """
    dump = load_checkpoint(path)
    if absent := _KEYS - dump.keys():
        raise CheckpointError(f"{path} is no dump of a run (dump_step….pth): it has no {', '.join(sorted(absent))}.")
    check_saved_state(dump, Path(path))
    batches = dump["micro_batches"] if isinstance(dump["micro_batches"], list) else [None]
    if not all(_is_micro_batch(batch) for batch in batches) or not isinstance(dump["scale"], int | float):
        raise CheckpointError(f"{path} is damaged: it does not say which samples went into the update, and how the loss was scaled.")
    return dump


def _is_micro_batch(batch: Any) -> bool:
    """Whether it is a `MicroBatch` as a dictionary."""
    if not isinstance(batch, dict) or not isinstance(batch.get("rank"), int):
        return False
    draws, sample_ids = batch.get("draws"), batch.get("sample_ids")
    if not isinstance(draws, list) or not isinstance(sample_ids, list) or len(draws) != len(sample_ids):
        return False
    return all(isinstance(draw, list) and list(map(type, draw)) == [int] * 3 for draw in draws)


def config_of(dump: dict[str, Any], *, options: Sequence[str], imports: Sequence[str]) -> Config:
    """The configuration in a dump, with `options` on top.

    Modules are imported because the caller names them, never because a file does.
    """
    try:
        config = OmegaConf.create(dump["config"])
        config.run.imports = []
        config.run.resume_ckpt_path = None
    except (OmegaConfBaseException, AttributeError) as error:
        raise CheckpointError(f"The configuration in the dump is damaged: {first_line(error)}") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config_of_the_dump.yaml"
        write_text(path, OmegaConf.to_yaml(config))
        return Config(Namespace(cfg_path=str(path), options=list(options), imports=list(imports)))


class Replay:
    """The model, the data and the random draws of a failing update.

    Args:
        dump: of `load_dump`.
        cfg: of `config_of`.
        path: the dump's file, for messages.

    Raises:
        CheckpointError: the configuration builds another model than the dump's.
    """

    def __init__(self, dump: dict[str, Any], cfg: Config, path: str | Path) -> None:
        self.cfg, self.micro_batches, self.scale, self.last = cfg, dump["micro_batches"], dump["scale"], dump["step"]
        self.device = resolve_device(cfg.run_cfg.device)
        self.dtype = amp_dtype(self.device, cfg.run_cfg.amp)
        self.task = setup_task(cfg)
        splits = list(self.task.build_datasets(cfg).values())
        self.datasets = [of_name[split] for split in cfg.run_cfg.train_splits for of_name in splits if split in of_name]
        self.model = self.task.build_model(cfg).place(self.device)
        if dump["llm"] is not None and (different := self.model.identity_differences(dump["llm"])):
            raise CheckpointError(f"{path} comes from another language model: {'; '.join(different)}. Give it as model.llama_model.")
        load_trainable_state(self.model, dump["model"], path)
        self.model.train()

    def micro_batches_again(self) -> Iterator[Computed]:
        """Each micro-batch of each rank, as it was: same samples, crops, prompts and dropout."""
        for batch, iteration in self._placed():
            yield self._compute(batch, iteration, batch["draws"])

    def samples_again(self, computed: Computed) -> Iterator[Computed]:
        """Each sample of a micro-batch by itself. Dropout is drawn anew: it belongs to the shape of the batch."""
        for batch, iteration in self._placed():
            if (batch["rank"], iteration) == (computed.rank, computed.iteration):
                for draw, sample_id in zip(batch["draws"], batch["sample_ids"], strict=True):
                    yield self._compute({**batch, "sample_ids": [sample_id]}, iteration, [draw])

    def _placed(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Each micro-batch and its iteration; a rank's last one is that of the dump's step."""
        ranks = [batch["rank"] for batch in self.micro_batches]
        for place, batch in enumerate(self.micro_batches):
            yield batch, self.last - ranks[place + 1 :].count(batch["rank"])

    def _compute(self, batch: dict[str, Any], iteration: int, draws: Sequence[Sequence[int]]) -> Computed:
        items = [self.datasets[draw[0]][Draw(*draw)] for draw in draws]
        samples = prepare_sample(default_collate(items), cuda_enabled=self.device.type == "cuda")
        seed_everything(self.cfg.run_cfg.seed, batch["rank"], iteration)
        self.model.zero_grad(set_to_none=True)
        with _first_not_finite(self.model) as found, torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            loss, num_tokens = self.task.train_step(model=self.model, samples=samples)
        (loss * num_tokens * self.scale).backward()
        gradients = {name: parameter.grad for name, parameter in self.model.named_parameters() if parameter.grad is not None}
        norm = float(nn.utils.get_total_norm(list(gradients.values()))) / (num_tokens * self.scale)
        return Computed(
            batch["rank"],
            iteration,
            batch["sample_ids"],
            float(loss.detach()),
            norm,
            next(iter(found), None),
            [name for name, gradient in gradients.items() if not bool(torch.isfinite(gradient).all())],
        )


@contextmanager
def _first_not_finite(model: nn.Module) -> Iterator[list[str]]:
    """A list that gets the name of each module whose output is not finite, in the order in which they finish."""
    found: list[str] = []

    def look(name: str, output: Any) -> None:
        if any(tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()) for tensor in tensors_in(output)):
            found.append(name)

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: look(name, output)) for name, module in model.named_modules()
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
