"""The path from train.py to the loss, name by name and file by file, as the architecture describes it."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.e2e.tiny_run import run_training

Call = tuple[str, str, str]

CHAIN: list[Call] = [
    # file, class of self or cls ("" for a function), function
    ("train.py", "", "train"),
    ("xraygpt/tasks/__init__.py", "", "setup_task"),
    ("xraygpt/common/registry.py", "Registry", "get_task_class"),
    ("xraygpt/tasks/base_task.py", "ImageTextPretrainTask", "setup_task"),
    ("xraygpt/tasks/base_task.py", "ImageTextPretrainTask", "build_datasets"),
    ("xraygpt/datasets/builders/base_dataset_builder.py", "MIMICBuilder", "__init__"),
    ("xraygpt/datasets/builders/image_text_pair_builder.py", "MIMICBuilder", "build_datasets"),
    ("xraygpt/datasets/datasets/caption_datasets.py", "MIMICDataset", "__init__"),
    ("xraygpt/tasks/base_task.py", "ImageTextPretrainTask", "build_model"),
    ("xraygpt/models/mini_gpt4.py", "MiniGPT4", "from_config"),
    ("xraygpt/models/mini_gpt4.py", "MiniGPT4", "__init__"),
    ("xraygpt/runners/runner_base.py", "RunnerBase", "__init__"),
    ("xraygpt/runners/runner_base.py", "RunnerBase", "train"),
    ("xraygpt/runners/runner_base.py", "RunnerBase", "train_epoch"),
    ("xraygpt/tasks/base_task.py", "ImageTextPretrainTask", "train_epoch"),
    ("xraygpt/tasks/base_task.py", "ImageTextPretrainTask", "_train_inner_loop"),
    ("xraygpt/datasets/datasets/caption_datasets.py", "MIMICDataset", "__getitem__"),
    ("xraygpt/processors/blip_processors.py", "Blip2ImageTrainProcessor", "__call__"),
    ("xraygpt/processors/blip_processors.py", "BlipCaptionProcessor", "__call__"),
    ("xraygpt/datasets/data_utils.py", "", "prepare_sample"),
    ("xraygpt/tasks/base_task.py", "ImageTextPretrainTask", "train_step"),
    ("xraygpt/models/mini_gpt4.py", "MiniGPT4", "forward"),
    ("xraygpt/models/mini_gpt4.py", "MiniGPT4", "encode_img"),
    ("xraygpt/models/mini_gpt4.py", "MiniGPT4", "choose_prompts"),
    ("xraygpt/models/mini_gpt4.py", "MiniGPT4", "prompt_wrap"),
    ("xraygpt/models/sequence.py", "", "tokenize"),
    ("xraygpt/models/loss.py", "", "supervised_loss"),
    ("transformers", "LlamaModel", "forward"),  # the decoder; logits of the supervised tokens alone come after it
]


def record_calls(function: Callable[[], Any], repo_root: Path) -> list[Call]:
    """The calls that `function` makes into the project, and those of the language model, in order."""
    calls: list[Call] = []

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        path = frame.f_code.co_filename
        if event != "call" or not (path.startswith(str(repo_root)) or "modeling_llama" in path):
            return
        owner = frame.f_locals.get("self", frame.f_locals.get("cls"))
        name = "" if owner is None else owner.__name__ if isinstance(owner, type) else type(owner).__name__
        file = "transformers" if "modeling_llama" in path else Path(path).relative_to(repo_root).as_posix()
        calls.append((file, name, frame.f_code.co_name))

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


@pytest.fixture(scope="module")
def calls(finished_run: Path, repo_root: Path) -> list[Call]:
    """The calls of a training of two iterations with the original's caption processor."""
    options = ["run.job_id=traced", "run.max_epoch=1", "run.iters_per_epoch=2", "run.test_splits=[]", "run.valid_splits=[]"]
    options += ["datasets.mimic.text_processor.train.name=blip_caption"]
    return record_calls(lambda: run_training(finished_run.parents[1] / "run.yaml", *options), repo_root)


def test_the_calls_come_in_the_order_of_the_architecture(calls: list[Call]) -> None:
    firsts = {call: calls.index(call) if call in calls else None for call in CHAIN}
    assert [call for call, index in firsts.items() if index is None] == []
    assert sorted(CHAIN, key=lambda call: firsts[call] or 0) == CHAIN


def test_an_image_is_opened_before_it_is_processed(calls: list[Call]) -> None:
    opened = calls.index(("xraygpt/processors/image_io.py", "", "open_image"))
    assert opened < calls.index(("xraygpt/processors/blip_processors.py", "Blip2ImageTrainProcessor", "__call__"))


def test_one_loss_an_iteration(calls: list[Call]) -> None:
    assert calls.count(("xraygpt/models/mini_gpt4.py", "MiniGPT4", "forward")) == 2
    assert calls.count(("xraygpt/datasets/datasets/caption_datasets.py", "MIMICDataset", "__getitem__")) == 4
