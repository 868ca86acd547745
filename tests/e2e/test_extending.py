"""The recipes of CONTRIBUTING: own dataset, processor, model, task, schedule and metric, by name, without an edit of the package."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.e2e.tiny_run import arguments, read_log, run_training, trace
from xraygpt.cli.main import main
from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import KINDS, registry
from xraygpt.evaluation import metric

PLUGIN = '''
"""Everything that a user may add, at its smallest."""

from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import MISSING
from torch import nn
from torch.utils.data import Dataset

from xraygpt.common.optims import LRScheduler
from xraygpt.common.registry import registry
from xraygpt.datasets.builders import BaseDatasetBuilder, ProcessorConfigs
from xraygpt.datasets.data_utils import Draw
from xraygpt.evaluation import Corpus, Metric, mean_formula, register_metrics, with_count
from xraygpt.models import BaseModel
from xraygpt.processors import BaseProcessor
from xraygpt.tasks import BaseTask


@registry.register_processor("toy_scale")
class Scale(BaseProcessor):
    def __init__(self, *, factor: float = 1.0) -> None:
        self.factor = factor

    def __call__(self, item: float) -> torch.Tensor:
        return torch.tensor([item * self.factor])


class Line(Dataset):
    def __init__(self, size: int, scale: BaseProcessor) -> None:
        self.size, self.scale = size, scale

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: int | Draw) -> dict[str, Any]:
        index = key.index if isinstance(key, Draw) else key
        return {"x": self.scale(float(index)), "sample_id": str(index)}


@dataclass
class LineConfig:
    size: int = MISSING
    vis_processor: ProcessorConfigs = MISSING


@registry.register_builder("toy_line")
class LineBuilder(BaseDatasetBuilder):
    config_schema = LineConfig

    def build_datasets(self) -> dict[str, Any]:
        scale = self._processor("vis_processor", "train")
        return {"train": Line(self.config.size, scale), "val": Line(3, scale)}


@dataclass
class SlopeConfig:
    arch: str = "toy_slope"
    start: float = 0.0


@registry.register_model("toy_slope")
class Slope(BaseModel):
    """Learns y = 2 x."""

    config_schema = SlopeConfig

    def __init__(self, *, start: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([start]))

    @classmethod
    def from_config(cls, cfg: Any) -> "Slope":
        return cls(start=cfg.start)

    def forward(self, samples: dict[str, Any]) -> dict[str, Any]:
        return {"loss": ((self.slope - 2) * samples["x"]).square().mean()}


@registry.register_task("toy_regression")
class Regression(BaseTask):
    def valid_step(self, model: BaseModel, samples: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"loss": float(model(samples)["loss"])}]

    def after_evaluation(self, results: list[dict[str, Any]], split_name: str, epoch: int | str) -> dict[str, float]:
        loss = sum(result["loss"] for result in results) / len(results)
        return {"agg_metrics": -loss, "loss": loss}


@registry.register_lr_scheduler("toy_halving_lr")
class Halving(LRScheduler):
    def decayed(self, t: int) -> float:
        return self.init_lr * 0.5**t


@register_metrics("toy", keys=["toy_question_share"])
def questions(corpus: Corpus) -> list[Metric]:
    asked = [float("?" in report) for report in corpus.predictions]
    return [Metric("toy_question_share", "toy_question_share", "questions", "clinical", None, with_count(asked), mean_formula)]
'''

CONFIG = {
    "model": {"arch": "toy_slope", "start": 1.0},
    "datasets": {"toy_line": {"size": 6, "vis_processor": {"train": {"name": "toy_scale", "factor": 0.5}}}},
    "run": {
        "task": "toy_regression",
        "lr_sched": "toy_halving_lr",
        "max_epoch": 2,
        "iters_per_epoch": 3,
        "batch_size_train": 2,
        "init_lr": 0.1,
        "valid_splits": ["val"],
        "num_workers": 0,
        "device": "cpu",
        "log_freq": 1,
        "job_id": "toy",
    },
}


@pytest.fixture
def toy_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """toy.yaml beside toy_plugin.py, whose folder is on the path. What it registers is forgotten afterwards."""
    (tmp_path / "toy_plugin.py").write_text(PLUGIN)
    OmegaConf.save(OmegaConf.merge(CONFIG, {"run": {"output_dir": str(tmp_path / "output")}}), tmp_path / "toy.yaml")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    for kind in KINDS:
        table = f"{kind}_name_mapping"
        monkeypatch.setitem(registry.mapping, table, dict(registry.mapping[table]))
    monkeypatch.setattr(metric, "_FAMILIES", dict(metric._FAMILIES))
    yield tmp_path / "toy.yaml"
    sys.modules.pop("toy_plugin", None)


def test_own_classes_train_by_name(toy_run: Path) -> None:
    folder = run_training(toy_run, imports=("toy_plugin",))
    steps = trace(folder)
    assert [lr for _, _, lr, *_ in steps] == pytest.approx([0.1 * 0.5**t for t in range(6)])
    val_losses = [record["val_loss"] for record in read_log(folder) if "val_loss" in record]
    assert val_losses[1] < val_losses[0] < 5 / 12


def test_run_imports_does_the_same(toy_run: Path) -> None:
    assert len(trace(run_training(toy_run, "run.imports=[toy_plugin]"))) == 6


def test_the_written_config_imports_the_module_by_itself(toy_run: Path) -> None:
    folder = run_training(toy_run, imports=("toy_plugin",))
    for kind in KINDS:
        names = registry.mapping[f"{kind}_name_mapping"]
        for name in [name for name in names if name.startswith("toy_")]:
            del names[name]
    del sys.modules["toy_plugin"]
    assert trace(run_training(folder / "config.yaml", "run.job_id=again")) == trace(folder)


def test_own_schema_is_checked(toy_run: Path) -> None:
    with pytest.raises(ConfigError) as error:
        Config(arguments(toy_run, "model.strat=1", "datasets.toy_line.size=six", imports=("toy_plugin",)))
    assert "model.strat: there is no such key. Did you mean 'start'?" in str(error.value)
    assert "datasets.toy_line.size: expected int, got 'six'" in str(error.value)


def test_without_the_import_the_names_are_unknown(toy_run: Path) -> None:
    with pytest.raises(ConfigError) as error:
        Config(arguments(toy_run))
    assert "No model is registered as 'toy_slope'" in str(error.value)
    assert "No builder is registered as 'toy_line'" in str(error.value)


def test_a_module_that_is_not_there(toy_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"--import toy_plugins: .*PYTHONPATH"):
        Config(arguments(toy_run, imports=("toy_plugins",)))


def test_own_metrics_are_scored_by_name(toy_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = toy_run.with_name("reports.csv")
    reports.write_text("id,report\na,Effusion?\nb,Clear lungs.\n")
    words = ["score", str(reports), "--references", str(reports), "--out", str(toy_run.with_name("out"))]
    assert main([*words, "--import", "toy_plugin", "--metrics", "toy", "--resamples", "10"]) == 0
    (score,) = json.loads((toy_run.with_name("out") / "scorecard.json").read_text())["scores"]
    assert (score["key"], score["value"]) == ("toy_question_share", 0.5)
    assert main([*words, "--metrics", "toy_questions"]) == 1
    assert "Did you mean 'toy_question_share'" in capsys.readouterr().err
