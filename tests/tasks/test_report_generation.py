"""What a validation and a test by written reports compute, store and show; whole runs are in tests/e2e/test_evaluation.py."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.registry import registry
from xraygpt.common.run_config import GenerationConfig, RunConfig, ScoringConfig
from xraygpt.datasets.dataloaders import build_eval_loader
from xraygpt.models.generation import GeneratedText
from xraygpt.models.known_images import FILE_NAME, MIN_IMAGES, KnownImages, probe_image
from xraygpt.tasks import ReportGenerationTask
from xraygpt.tasks.evaluated_split import EvaluatedSplit

EFFUSION, CLEAR, BOTH = "Right pleural effusion.", "The lungs are clear.", "Cardiomegaly. Right pleural effusion."


class Films:
    """A dataset in memory: the "image" is a vector that says what it shows."""

    def __init__(self, folder: Path, name: str, rows: Sequence[tuple[str, list[float]]]) -> None:
        self.folder, self.vectors = folder, [vector for _, vector in rows]
        self.annotation = [{"image_id": f"{name}{i}", "study_id": f"s-{name}{i}", "caption": text} for i, (text, _) in enumerate(rows)]
        self.vis_processor = lambda vector: torch.tensor(vector)

    def __len__(self) -> int:
        return len(self.annotation)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ann = self.annotation[index]
        return {"image": self.vis_processor(self.vectors[index]), "sample_id": ann["image_id"], "caption": ann["caption"]}

    def image_path(self, image_id: str) -> Path:
        path = self.folder / f"{image_id}.png"
        Image.new("L", (8, 8)).save(path)
        return path


class Writer(torch.nn.Module):
    """Writes an effusion where the first number of an "image" is positive; its features are the image."""

    device = torch.device("cpu")
    precision = "float32"

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.asked: list[tuple[int, str, dict[str, Any]]] = []

    def forward(self, samples: dict[str, Any]) -> dict[str, Any]:
        return {"loss": samples["image"][:, 1].mean(), "num_tokens": len(samples["image"])}

    def generate_reports(self, image: torch.Tensor, prompt: str, **settings: Any) -> tuple[list[GeneratedText], torch.Tensor]:
        self.asked.append((len(image), prompt, settings))
        texts = [EFFUSION if vector[0] > 0 else CLEAR for vector in image]
        return [GeneratedText(text, [], truncated=text == CLEAR) for text in texts], image

    def image_features(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1)[:, :2]  # of the probe, which is an image, the first two pixels

    def report_prompt(self, question: str) -> str:
        return f"<ImageHere> {question}"

    def identity(self) -> dict[str, Any]:
        return {"name": "/home/someone/weights/vicuna", "embedding": [0.5, 0.25]}


@pytest.fixture
def films(tmp_path: Path) -> Films:
    rows = [(EFFUSION, [1.0, 3.0]), (CLEAR, [-1.0, 1.0]), (BOTH, [1.0, 2.0]), (CLEAR, [1.0, 2.0]), (EFFUSION, [-1.0, 2.0])]
    return Films(tmp_path, "film", rows)


def make_task(tmp_path: Path, **run: Any) -> ReportGenerationTask:
    """A task whose run lies in `tmp_path`."""
    registry.register_path("output_dir", str(tmp_path), overwrite=True)
    registry.register_path("result_dir", str(tmp_path / "result"), overwrite=True)
    run_cfg = OmegaConf.structured(RunConfig(task="report_generation", num_workers=0, batch_size_eval=2, **run))
    sections: dict[str, Any] = {"model": {"arch": "writer", "end_sym": "###"}, "datasets": {}}
    cfg: Any = SimpleNamespace(
        run_cfg=run_cfg,
        model_cfg=SimpleNamespace(arch="writer", image_size=28),
        cfg_path="eval_configs/films.yaml",
        to_dict=lambda: sections,
    )
    return ReportGenerationTask(cfg)


def evaluate(task: ReportGenerationTask, model: Writer, films: Films, *, split: str, epoch: int | str) -> dict[str, float]:
    """What the runner does on one rank."""
    batches = task.before_evaluation(model, [films], split_name=split, epoch=epoch)
    loader = build_eval_loader([films], batches=batches, num_workers=0, pin_memory=False)
    results = task.evaluation(model, loader, cuda_enabled=False, header="")  # type: ignore[arg-type]
    return task.after_evaluation([row for rows in results for row in rows], split_name=split, epoch=epoch)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# Which metrics ---------------------------------------------------------------------------------------------------


def test_a_metric_that_does_not_exist_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no metric 'rouge_L'\. Did you mean 'rouge_l'"):
        make_task(tmp_path, metrics=["rouge_L"])


@pytest.mark.parametrize(
    ("metrics", "agg_metric"), [(["rouge_l"], "finding_f1_macro"), ([], "finding_f1"), (["rouge_l", "length_ratio"], "length_ratio")]
)
def test_the_choosing_metric_must_be_one_that_chooses(tmp_path: Path, metrics: list[str], agg_metric: str) -> None:
    with pytest.raises(ConfigError, match=rf"run\.agg_metric is '{agg_metric}'.*these can: .*rouge_l, .*loss\."):
        make_task(tmp_path, metrics=metrics, agg_metric=agg_metric)


def test_a_model_score_that_does_not_exist_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.scoring\.model_scores: there is no 'chexbret'\. Did you mean 'chexbert"):
        make_task(tmp_path, scoring=ScoringConfig(model_scores={"chexbret": "weights"}))


@pytest.mark.parametrize("name", ["max_valid_reports", "num_logged_reports"])
def test_negative_counts_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"run\.{name} must be 0 or more, got -1"):
        make_task(tmp_path, **{name: -1})


@pytest.mark.parametrize(("agg_metric", "sign"), [("rouge_l", 1), ("loss", -1), ("hallucinated_findings", -1)])
def test_lower_is_better_is_turned_round(tmp_path: Path, films: Films, agg_metric: str, sign: int) -> None:
    task = make_task(tmp_path, metrics=["rouge_l", "hallucinated_findings"], agg_metric=agg_metric)
    numbers = evaluate(task, Writer(), films, split="val", epoch=0)
    assert numbers["agg_metrics"] == sign * numbers[agg_metric] != 0


# A validation ----------------------------------------------------------------------------------------------------


def test_a_validation_measures_loss_and_reports(tmp_path: Path, films: Films) -> None:
    task = make_task(tmp_path, generation=GenerationConfig(prompt="What is seen?", num_beams=3))
    model = Writer()
    numbers = evaluate(task, model, films, split="val", epoch=4)
    assert numbers["loss"] == 2.0
    assert numbers["agg_metrics"] == numbers["finding_f1_macro"]
    assert {"rouge_l", "bleu_4", "finding_f1_micro"} <= numbers.keys()
    # Effusion: film0 and film2 found, film3 invented, film4 missed. Cardiomegaly: missed. No Finding: film1 found, film3 missed.
    assert numbers["finding_f1_micro"] == pytest.approx(2 * 3 / (2 * 3 + 2 + 3))
    rows = read_lines(tmp_path / "result" / "val_4.jsonl")
    assert [(row["id"], row["report"]) for row in rows] == [
        ("film0", EFFUSION), ("film1", CLEAR), ("film2", EFFUSION), ("film3", EFFUSION), ("film4", CLEAR),
    ]  # fmt: skip
    assert rows[2]["reference"] == BOTH
    assert all(prompt == "What is seen?" and settings["num_beams"] == 3 for _, prompt, settings in model.asked)


def test_few_reports_but_the_loss_of_all(tmp_path: Path, films: Films) -> None:
    task, model = make_task(tmp_path, max_valid_reports=3), Writer()
    assert evaluate(task, model, films, split="val", epoch=0)["loss"] == 2.0
    assert [number for number, *_ in model.asked] == [2, 1]
    assert [row["id"] for row in read_lines(tmp_path / "result" / "val_0.jsonl")] == ["film0", "film1", "film3"]


def test_the_log_shows_reports_and_never_references(tmp_path: Path, films: Films, caplog: pytest.LogCaptureFixture) -> None:
    films.annotation[3]["caption"] = BOTH + " Mrs Example is unwell."
    with caplog.at_level(logging.INFO):
        evaluate(make_task(tmp_path, num_logged_reports=2), Writer(), films, split="val", epoch=0)
    table = next(message for message in caplog.messages if message.startswith("Reports of val [0]"))
    assert [line.split() for line in table.splitlines()[2:]] == [
        ["film0", "0", "0", "Right", "pleural", "effusion."],
        ["film2", "1", "0", "Right", "pleural", "effusion."],
    ]
    assert "Example" not in caplog.text
    caplog.clear()
    evaluate(make_task(tmp_path, num_logged_reports=0), Writer(), films, split="val", epoch=0)
    assert "Reports of" not in caplog.text


def test_a_logged_report_is_one_line(tmp_path: Path, films: Films, caplog: pytest.LogCaptureFixture) -> None:
    class Chatty(Writer):
        def generate_reports(self, image: torch.Tensor, prompt: str, **settings: Any) -> Any:
            return [GeneratedText("One.\n\nTwo. " * 50, [], truncated=True)] * len(image), image

    with caplog.at_level(logging.INFO):
        evaluate(make_task(tmp_path), Chatty(), films, split="val", epoch=0)
    lines = next(message for message in caplog.messages if message.startswith("Reports of")).splitlines()
    assert len(lines) == 2 + 3
    assert lines[2].endswith("…") and len(lines[2]) < 180


def test_nothing_to_choose_by_is_no_number(tmp_path: Path, films: Films) -> None:
    """No reference names a side, so no side can be wrong."""
    for ann in films.annotation:
        ann["caption"] = "Pleural effusion."
    task = make_task(tmp_path, metrics=["laterality_error_rate", "rouge_l"], agg_metric="laterality_error_rate")
    numbers = evaluate(task, Writer(), films, split="val", epoch=0)
    assert numbers.keys() == {"loss", "rouge_l"}


# A test ----------------------------------------------------------------------------------------------------------


def test_a_test_leaves_the_scored_reports(tmp_path: Path, films: Films) -> None:
    task = make_task(tmp_path, scoring=ScoringConfig(resamples=20))
    # The first training film is nearest to the films with (1, …), the second to the others; their own texts do not matter.
    task.training = {"train": [Films(tmp_path, "t", [("Nodule.", [1.0, 0.5]), ("Edema.", [-1.0, 0.9])])], "test": [films]}
    model = Writer()
    numbers = evaluate(task, model, films, split="test", epoch="evaluate")
    folder = tmp_path / "test"
    names = {"predictions.jsonl", "references.jsonl", "baselines.jsonl", "scorecard.json", "scorecard.md", "report.html"}
    assert {path.name for path in folder.iterdir()} == names
    assert read_lines(folder / "predictions.jsonl")[:2] == [
        {"id": "film0", "report": EFFUSION, "truncated": False},
        {"id": "film1", "report": CLEAR, "truncated": True},
    ]
    baselines = read_lines(folder / "baselines.jsonl")
    assert [row["nearest_training"] for row in baselines] == ["Nodule.", "Edema.", "Nodule.", "Nodule.", "Edema."]
    assert {row["most_frequent"] for row in baselines} == {"Nodule."}
    card = json.loads((folder / "scorecard.json").read_text(encoding="utf-8"))
    assert card["data"]["num_samples"] == 5 and card["data"]["split"] == "test"
    assert numbers["agg_metrics"] == numbers["finding_f1_macro"]
    assert numbers["truncated_share"] == pytest.approx(0.4)
    assert "loss" not in numbers
    provenance = card["provenance"]
    assert provenance["prompt"] == "<ImageHere> "
    assert provenance["decoding"]["max_new_tokens"] == 160 and provenance["decoding"]["end_sym"] == "###"
    assert provenance["language_model"]["name"] == "weights/vicuna"
    assert (provenance["config"], provenance["device"], provenance["precision"]) == ("films.yaml", "cpu", "float32")
    assert provenance["seconds_per_report"] >= 0


def test_what_training_images_look_like_is_kept(tmp_path: Path, films: Films) -> None:
    task, model = make_task(tmp_path, scoring=ScoringConfig(resamples=0)), Writer()
    rng = np.random.default_rng(0)
    task.training["train"] = [Films(tmp_path, "training", [("Nodule.", rng.standard_normal(2).tolist()) for _ in range(MIN_IMAGES)])]
    evaluate(task, model, films, split="test", epoch="evaluate")
    known = KnownImages.load(tmp_path / FILE_NAME, model.image_features(probe_image(28)).numpy()[0])
    assert (known.distances(np.array([[0.5, -0.5], [9.0, 0.0]])) > 1).tolist() == [False, True]


def test_without_training_images_there_is_no_nearest_one(tmp_path: Path, films: Films) -> None:
    task = make_task(tmp_path, scoring=ScoringConfig(resamples=10, nearest_images=0))
    task.training = {"train": [Films(tmp_path, "t", [("Nodule.", [1.0, 0.5])])]}
    evaluate(task, Writer(), films, split="test", epoch="evaluate")
    assert read_lines(tmp_path / "test" / "baselines.jsonl")[0].keys() == {"id", "most_frequent", "normal", "random_training"}


def test_a_finished_batch_is_not_written_again(tmp_path: Path, films: Films) -> None:
    class Interrupted(Exception):
        """Stands for a crash."""

    class Crashing(Writer):
        def generate_reports(self, image: torch.Tensor, prompt: str, **settings: Any) -> Any:
            if len(self.asked) == 2:
                raise Interrupted
            return super().generate_reports(image, prompt, **settings)

    task = make_task(tmp_path, scoring=ScoringConfig(resamples=10))
    with pytest.raises(Interrupted):
        evaluate(task, Crashing(), films, split="test", epoch="evaluate")
    assert not (tmp_path / "test" / "predictions.jsonl").exists()
    model = Writer()
    evaluate(task, model, films, split="test", epoch="evaluate")
    assert [number for number, *_ in model.asked] == [1]
    assert len(read_lines(tmp_path / "test" / "predictions.jsonl")) == 5
    again = Writer()
    evaluate(task, again, films, split="test", epoch="evaluate")
    assert [number for number, *_ in again.asked] == [2, 2, 1]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"generation": GenerationConfig(num_beams=2)}, "decoding"),
        ({"generation": GenerationConfig(prompt="Why?")}, "prompt"),
        ({}, "weights"),
    ],
)
def test_another_evaluation_takes_nothing_from_an_unfinished_one(
    tmp_path: Path, films: Films, caplog: pytest.LogCaptureFixture, change: dict[str, Any], name: str
) -> None:
    task, model = make_task(tmp_path), Writer()
    task.before_evaluation(model, [films], split_name="test", epoch="evaluate")
    task.valid_step(model, {"image": torch.ones(2, 2), "sample_id": ["film0", "film1"]})
    if name == "weights":
        torch.nn.init.zeros_(model.weight)
    batches = make_task(tmp_path, **change).before_evaluation(model, [films], split_name="test", epoch="evaluate")
    assert batches == [[0, 1], [2, 3], [4]]
    assert f"differs from this one in: {name}." in caplog.text


def test_an_unreadable_training_image_says_what_it_was_for(tmp_path: Path, films: Films) -> None:
    class Broken(Films):
        def __getitem__(self, index: int) -> dict[str, Any]:
            raise DataError("t0.png cannot be read.")

    task = make_task(tmp_path)
    task.training = {"train": [Broken(tmp_path, "t", [("Nodule.", [1.0, 0.5])])]}
    with pytest.raises(DataError, match=r"(?s)t0\.png cannot be read\.\n.*run\.scoring\.nearest_images=0"):
        task.before_evaluation(Writer(), [films], split_name="test", epoch="evaluate")


def test_an_image_name_must_be_unique(films: Films) -> None:
    with pytest.raises(DataError, match="5 image_id values occur more than once in the split test: film0, "):
        EvaluatedSplit.of("test", [films, films])
