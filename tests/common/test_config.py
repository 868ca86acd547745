"""YAML + defaults + options → one checked configuration; every mistake in it reported at once."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from xraygpt.common.config import SECTIONS, Config, load_yaml, parse_options
from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import registry
from xraygpt.models import MiniGPT4, MiniGPT4Config
from xraygpt.runners import RunnerBase

GOOD = """
model: {arch: mini_gpt4, model_type: quickstart, llama_model: llm, prompt_path: prompts.txt}
datasets: {mimic: {storage: data}}
run: {task: image_text_pretrain, max_epoch: 3}
"""
LoadConfig = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadConfig:
    """A function from YAML text and options to a Config, in a folder where llm/, data/ and prompts.txt exist."""
    monkeypatch.chdir(tmp_path)
    for name in ("llm", "data", "data/phantom/mimic"):
        Path(name).mkdir(parents=True)
    Path("prompts.txt").touch()

    def load_config(text: str = GOOD, *options: str, needs: tuple[str, ...] = SECTIONS) -> Config:
        Path("run.yaml").write_text(text)
        return Config(Namespace(cfg_path="run.yaml", options=list(options)), needs=needs)

    return load_config


def problems_of(load: LoadConfig, text: str, *options: str) -> list[str]:
    """The lines of the error that a configuration gives."""
    with pytest.raises(ConfigError) as error:
        load(text, *options)
    return str(error.value).splitlines()[1:]


def default_of(model_type: str) -> DictConfig:
    """The `model:` block of a default file."""
    return load_yaml(MiniGPT4.default_config_path(model_type) or "").model


# What is filled in -----------------------------------------------------------------------------------------------


def test_options_over_yaml_over_defaults(load: LoadConfig) -> None:
    cfg = load(GOOD, "run.max_epoch=5", "model.image_size=77")
    assert (cfg.run_cfg.max_epoch, cfg.run_cfg.log_freq) == (5, 50)  # option; the schema's default
    assert cfg.model_cfg.image_size == 77  # option over the model type's default file
    assert cfg.model_cfg.num_query_token == default_of("quickstart").num_query_token != MiniGPT4Config().num_query_token
    assert cfg.datasets_cfg.mimic.storage == "data"  # YAML over the dataset's default file
    assert cfg.datasets_cfg.mimic.vis_processor.train.name == "blip2_image_train"
    assert registry.get("configuration") is cfg


def test_the_yaml_that_is_written_gives_the_same_configuration(load: LoadConfig) -> None:
    cfg = load(GOOD, "run.max_epoch=5")
    assert load(cfg.to_yaml()).to_dict() == cfg.to_dict() == cfg.get_config()


def test_both_forms_of_options(load: LoadConfig) -> None:
    equals = load(GOOD, "run.max_epoch=5", "model.vit.depth=2")
    pairs = load(GOOD, "run.max_epoch", "5", "model.vit.depth", "2")
    assert equals.to_dict() == pairs.to_dict()


def test_options_choose_the_default_files(load: LoadConfig) -> None:
    phantom = load(GOOD, "datasets.mimic.type=phantom")
    assert phantom.datasets_cfg.mimic.vis_processor.train.min_scale == 0.9
    vicuna = load(GOOD, "model.model_type=pretrain_vicuna", "model.vit_weights=llm", "model.q_former_model=llm")
    assert vicuna.model_cfg.image_size == default_of("pretrain_vicuna").image_size != load().model_cfg.image_size


def test_any_prepared_folder_under_any_name(load: LoadConfig) -> None:
    cfg = load(GOOD.replace("mimic: {", "my_data: {type: folder, "))
    assert cfg.datasets_cfg.my_data.storage == "data"
    assert cfg.datasets_cfg.my_data.vis_processor.train.name == "blip2_image_train"  # the default file of type folder
    assert load(cfg.to_yaml()).to_dict() == cfg.to_dict()
    mixed = load(GOOD, "datasets.mine.type=folder", "datasets.mine.storage=llm", "datasets.mine.sample_ratio=2")
    assert list(mixed.datasets_cfg) == ["mimic", "mine"]


def test_a_name_that_no_builder_has_is_told_of_the_folder_type(load: LoadConfig) -> None:
    (problem,) = problems_of(load, GOOD.replace("mimic: {", "my_data: {"))
    assert "datasets.my_data: No builder is registered as 'my_data'. Choices: folder, mimic, openi." in problem
    assert problem.endswith("type: folder.")


def test_options_choose_the_architecture(load: LoadConfig) -> None:
    assert "No model is registered as 'mini_gpt5'. Did you mean 'mini_gpt4'?" in problems_of(load, GOOD, "model.arch=mini_gpt5")[0]


def test_interpolation(load: LoadConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRAYGPT_TEST_FOLDER", "data")
    cfg = load(GOOD, "datasets.mimic.storage=${oc.env:XRAYGPT_TEST_FOLDER}", "run.job_id=${model.model_type}")
    assert (cfg.datasets_cfg.mimic.storage, cfg.run_cfg.job_id) == ("data", "quickstart")


def test_numbers_are_converted_where_nothing_is_lost(load: LoadConfig) -> None:
    run = load(GOOD, "run.init_lr=1", "run.warmup_lr=1e-6").run_cfg
    assert (run.init_lr, run.warmup_lr) == (1.0, 1e-6)
    assert isinstance(run.init_lr, float)


def test_the_schema_of_the_runner_counts(load: LoadConfig) -> None:
    assert RunnerBase.config_schema().max_epoch == load().run_cfg.max_epoch - 2


# What is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("run.max_epochs=3", "run.max_epochs: there is no such key. Did you mean 'max_epoch'?"),
        ("run.max_epoch=many", "run.max_epoch: expected int, got 'many'"),
        ("run.warmup_steps=1.5", "run.warmup_steps: expected int, got 1.5"),
        ("run.generation.beams=2", "run.generation.beams: there is no such key. Did you mean 'num_beams'?"),
        ("run.generation=3", "run.generation: expected a block of keys, got 3."),
        ("run.runner=runner_bse", "run.runner: No runner is registered as 'runner_bse'. Did you mean 'runner_base'?"),
        ("run.resume_ckpt_path=gone.pth", "run.resume_ckpt_path: gone.pth is missing (looked for "),
        ("run.job_id=../other", "run.job_id: expected a name of at most 100 letters (A-Z, a-z), digits, "),
        ("run.job_id=${oc.env:HOME}", "run.job_id: expected a name"),
        ("run.test_splits=[val,a/b]", "run.test_splits: expected a name"),
        ("run.resume_ckpt_path=3", "run.resume_ckpt_path: expected a path, got 3."),
        ("model.vit.dpth=2", "model.vit.dpth: there is no such key. Did you mean 'depth'?"),
        ("model.model_type=quickstrt", "model: model_type 'quickstrt' is not one of MiniGPT4's. Did you mean 'quickstart'?"),
        ("model.ckpt=[llm,gone.pth]", "model.ckpt: gone.pth is missing"),
        ("datasets.mimic.type=phantm", "datasets.mimic: MIMICBuilder has no type 'phantm'. Did you mean 'phantom'?"),
        ("datasets.mimc.storage=data", "datasets.mimc: No builder is registered as 'mimc'. Did you mean 'mimic'?"),
        ("datasets.mimic.storage=${oc.env:XRAYGPT_NOT_SET}", "datasets.mimic: "),
        ("modle.arch=x", "modle: there is no such section. Did you mean 'model'?"),
        ("run=3", "run: expected a block of keys, got 3."),
    ],
)
def test_a_problem_names_the_key_and_the_remedy(load: LoadConfig, option: str, problem: str) -> None:
    assert any(problem in line for line in problems_of(load, GOOD, option))


def test_all_problems_come_together(load: LoadConfig) -> None:
    text = "model: {arch: mini_gpt4, model_type: quickstart, image_sze: 3}\ndatasets: {mimic: {storage: nowhere}}\nextra: 1\n"
    lines = problems_of(load, text)
    expected = ["extra: there", "run.task: required", "model.image_sze: there", "datasets.mimic.storage: nowhere is missing"]
    assert all(any(part in line for line in lines) for part in expected)
    assert [line.split(".")[0].strip() for line in lines] == [str(i) for i in range(1, len(lines) + 1)]


def test_a_missing_path_says_how_to_get_it(load: LoadConfig) -> None:
    (line,) = problems_of(load, GOOD, "datasets.mimic.storage=nowhere")
    assert str(Path("nowhere").absolute()) in line and "xraygpt prepare" in line


def test_paths_of_sections_that_are_not_needed_may_be_absent(load: LoadConfig) -> None:
    cfg = load(GOOD, "datasets.mimic.storage=nowhere", needs=("model",))
    assert cfg.datasets_cfg.mimic.storage == "nowhere"


def test_auto_is_no_path(load: LoadConfig) -> None:
    assert load(GOOD, "run.resume_ckpt_path=auto").run_cfg.resume_ckpt_path == "auto"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {task: x", r"run\.yaml"),
        ("run:\n\ttask: x", r"run\.yaml.*line 2|line 2.*run\.yaml|run\.yaml(.|\n)*line 2"),
        ("- a\n- b", "must hold a block of keys"),
        ("just words", r"run\.yaml"),
        ("", "model.arch: required"),
    ],
)
def test_a_file_that_is_no_configuration(load: LoadConfig, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no configuration file .*gone\.yaml"):
        Config(Namespace(cfg_path=tmp_path / "gone.yaml"))


# --options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "parsed"),
    [
        ([], {}),
        (["a.b=1", "a.c=x=y"], {"a": {"b": 1, "c": "x=y"}}),
        (["a.b", "1", "a.c", "[1, 2]"], {"a": {"b": 1, "c": [1, 2]}}),
        (["a=true", "b=null", "c=1e-3"], {"a": True, "b": None, "c": 1e-3}),
    ],
)
def test_parse_options(options: list[str], parsed: dict) -> None:
    assert parse_options(options) == parsed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a=1", "b"], "expected key=value, got b"),
        (["a", "1", "b"], "b has no value"),
        (["a=[1"], "cannot be read"),
    ],
)
def test_malformed_options(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(options)
