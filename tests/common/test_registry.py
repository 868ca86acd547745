"""The registry: names → classes, with errors that help."""

import pytest

from xraygpt.common.errors import RegistryError
from xraygpt.common.registry import KINDS, Registry, registry, suggest
from xraygpt.datasets.builders import dataset_zoo
from xraygpt.models import model_zoo
from xraygpt.runners import RunnerBase
from xraygpt.tasks import ImageTextPretrainTask


class Base:
    pass


class Sub(Base):
    pass


class Other(Base):
    pass


@pytest.fixture
def own() -> Registry:
    """A registry of its own, so that the package's stays as it is."""
    return Registry()


def test_the_packages_names() -> None:
    assert {"mimic", "openi"} <= set(registry.list_datasets())
    assert {"image_text_pretrain", "report_generation"} <= set(registry.list_tasks())
    assert {"blip_caption", "blip2_image_train", "blip2_image_eval", "report_text"} <= set(registry.list_processors())
    assert {"linear_warmup_cosine_lr", "linear_warmup_step_lr", "constant_lr"} <= set(registry.list_lr_schedulers())
    assert "mini_gpt4" in registry.list_models()
    assert "runner_base" in registry.list_runners()
    assert registry.get_task_class("image_text_pretrain") is ImageTextPretrainTask
    assert registry.get_runner_class("runner_base") is RunnerBase


def test_the_familys_tables() -> None:
    assert registry.mapping.keys() == {*(f"{kind}_name_mapping" for kind in KINDS), "state", "paths"}
    assert registry.get("SPLIT_NAMES") == ["train", "val", "test"]
    assert registry.get_path("library_root").endswith("xraygpt")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_registers_and_finds(own: Registry, kind: str) -> None:
    assert getattr(own, f"register_{kind}")("x")(Sub) is Sub
    assert getattr(own, f"get_{kind}_class")("x") is Sub
    assert getattr(own, "list_datasets" if kind == "builder" else f"list_{kind}s")() == ["x"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_miss_lists_the_choices_and_the_nearest(own: Registry, kind: str) -> None:
    getattr(own, f"register_{kind}")("chest_xray")(Sub)
    getattr(own, f"register_{kind}")("zebra")(Other)
    with pytest.raises(RegistryError, match=rf"No {kind} .*'chest_xry'.*Did you mean 'chest_xray'\? Choices: chest_xray, zebra\."):
        getattr(own, f"get_{kind}_class")("chest_xry")


def test_a_name_twice_names_both_classes(own: Registry) -> None:
    own.register_model("x")(Sub)
    with pytest.raises(RegistryError, match=r"'x'.*Sub has it.*Other asks for it"):
        own.register_model("x")(Other)
    assert own.get_model_class("x") is Sub


def test_a_reloaded_module_may_register_again(own: Registry) -> None:
    again = type("Sub", (Base,), {"__module__": Sub.__module__})
    own.register_model("x")(Sub)
    own.register_model("x")(again)
    assert own.get_model_class("x") is again


def test_a_class_of_another_base_is_refused(own: Registry) -> None:
    own.declare_base("task", Base)
    with pytest.raises(RegistryError, match=r"task 'x' must derive from Base; .*int does not"):
        own.register_task("x")(int)
    assert own.list_tasks() == []


def test_paths(own: Registry) -> None:
    own.register_path("output_dir", "a")
    with pytest.raises(RegistryError, match="overwrite=True"):
        own.register_path("output_dir", "b")
    own.register_path("output_dir", "b", overwrite=True)
    assert own.get_path("output_dir") == "b"
    with pytest.raises(RegistryError, match="Did you mean 'output_dir'"):
        own.get_path("output_di")
    with pytest.raises(RegistryError, match="must be a string, not int"):
        own.register_path("other", 3)  # type: ignore[arg-type]


def test_state_is_nested_by_dots(own: Registry) -> None:
    own.register("a.b", 1)
    own.register("a.c", 2)
    assert (own.get("a"), own.get("a.b"), own.get("a.x"), own.get("a.b.c", 9)) == ({"b": 1, "c": 2}, 1, None, 9)
    assert own.unregister("a") == {"b": 1, "c": 2}
    assert own.unregister("a") is None


@pytest.mark.parametrize(
    ("name", "choices", "text"),
    [
        ("reed", ["read", "write"], " Did you mean 'read'? Choices: read, write."),
        ("qq", ["read"], " Choices: read."),
        ("qq", [], " Choices: (none registered)."),
    ],
)
def test_suggest(name: str, choices: list[str], text: str) -> None:
    assert suggest(name, choices) == text


def test_zoos() -> None:
    assert set(dataset_zoo()["mimic"]) == {"default", "phantom"}
    assert "pretrain_vicuna" in model_zoo() and "mini_gpt4" in model_zoo()
