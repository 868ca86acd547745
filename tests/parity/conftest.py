"""The recording, and the model that must repeat it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.reference import supervised_ids, unloaded_model
from xraygpt.models import MiniGPT4
from xraygpt.models.weights import load_into


@pytest.fixture(scope="session")
def reference(test_data: Path) -> Path:
    """The folder of the values recorded from the original code; its README.md says what each is."""
    return test_data / "reference"


@pytest.fixture(scope="session")
def inputs(reference: Path) -> dict[str, Any]:
    return torch.load(reference / "inputs.pt")


@pytest.fixture(scope="session")
def outputs(reference: Path) -> dict[str, Any]:
    return torch.load(reference / "outputs.pt")


@pytest.fixture(scope="session")
def recorded_answers(outputs: dict[str, Any]) -> list[list[int]]:
    """Target ids as the original makes them: a caption that is too long loses its end symbol."""
    return supervised_ids(outputs["labels"])


@pytest.fixture(scope="session")
def reference_model(reference: Path, inputs: dict[str, Any]) -> MiniGPT4:
    """Our model with the original's weights; look, do not touch."""
    model = unloaded_model(reference, prompt_list=[inputs["prompt"]], max_txt_len=inputs["max_txt_len"], end_sym=inputs["end_sym"])
    load_into(model, torch.load(reference / "state_dict.pt"), "state_dict.pt")
    return model.eval()


@pytest.fixture
def model_to_train(reference_model: MiniGPT4) -> MiniGPT4:
    """A copy that a test may change."""
    return copy.deepcopy(reference_model)
