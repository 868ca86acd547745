"""What a configuration may refer to, and what is refused before anything is resolved."""

import pytest
from omegaconf import OmegaConf

from xraygpt.common.errors import ConfigError
from xraygpt.common.interpolation import check_interpolation, check_text, may_be_read


@pytest.mark.parametrize(
    "text",
    [
        "run: {output_dir: '${oc.env:SCRATCH}/runs', job_id: a}\nmodel: {ckpt: '${run.output_dir}/${run.job_id}/best.pth'}",
        "run: {output_dir: '${oc.env:SCRATCH,/tmp/my runs}'}",
        "run: {output_dir: '${ oc.env: SCRATCH , here }'}",
        "datasets: {my-data: {vis_processor: {train: {a: 1}, eval: '${datasets.my-data.vis_processor.train}'}}}",
        "run: {job_id: 'costs $5 {or more}'}",
        "a: &shared {b: 1}\nc: *shared",
    ],
)
def test_what_is_documented_is_let_through(text: str) -> None:
    check_interpolation(OmegaConf.create(text), "run.yaml")


@pytest.mark.parametrize(
    "name",
    [
        *("DATABASE_URL", "REDIS_URL", "SENTRY_DSN", "KUBECONFIG", "SSH_AUTH_SOCK", "MYSQL_PWD", "GH_PAT", "PGPASSFILE", "PYTHONPATH"),
        *("http_proxy", "home", "Scratch", "xraygpt_x", "Xraygpt_X", "HOME_", "MY_HOME", "XRAYGPT", "XRAYGPT_", "NOT_XRAYGPT_X"),
        *("XRAYGPT_API_TOKEN", "XRAYGPT_AUTH", "XRAYGPT_PASSWORD", "XRAYGPT_DB_PWD", "XRAYGPT_KEY", "XRAYGPT_DSN", "XRAYGPT_x"),
        *("XRAYGPT_\u00c4", "XRAYGPT_\uff21", "\uff28OME", "HOME\n", "XRAYGPT_X\n"),
    ],
)
def test_a_variable_that_may_hold_a_secret_is_not_read(name: str) -> None:
    assert not may_be_read(name)
    if name.isidentifier() and name.isascii():
        with pytest.raises(ConfigError, match=f"variable {name} is not read.*SCRATCH.*begins with XRAYGPT_.*export XRAYGPT_NAME"):
            check_text(f"run.x=${{oc.env:{name}}}", "--options")
        with pytest.raises(ConfigError, match=f"{name} is not read"):
            check_interpolation(OmegaConf.create({"x": f"${{ oc.env: {name} , here }}"}), "run.yaml")


@pytest.mark.parametrize(
    "name", ["HOME", "USER", "TMPDIR", "SCRATCH", "WORK", "SLURM_JOB_ID", "RANK", "CUDA_VISIBLE_DEVICES", "XRAYGPT_DATA_2"]
)
def test_folders_numbers_and_own_names_are_read(name: str) -> None:
    check_text(f"run.x=${{oc.env:{name}}}", "--options")


@pytest.mark.parametrize(
    "value",
    [
        "${oc.decode:'1'}",
        "${oc.create:{a: 1}}",
        "${oc.select:run.x}",
        "${oc.dict.keys:run}",
        "${my_resolver:1}",
        "${run.${run.x}}",
        "${oc.env:${run.x}}",
        "${oc.${run.x}:HOME}",
        "${oc.env:HOME,${oc.env:WORK}}",
        "${oc.env:}",
        "${.x}",
        "${run[x]}",
        r"\${oc.decode:1}",
        r"\\${oc.decode:1}",
    ],
)
def test_everything_else_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: run\.x.*: expected \$\{section\.key\}, \$\{oc\.env:NAME\}"):
        check_interpolation(OmegaConf.create({"run": {"x": ["fine", {"y": value}]}}), "run.yaml")
    with pytest.raises(ConfigError, match="--options"):
        check_text(f"run.x={value}", "--options")


@pytest.mark.parametrize(
    "content",
    [
        {"a": "${a}"},
        {"a": "${b}", "b": "${a}"},
        {"a": {"b": "${a}"}},
        {"x0": "ha" * 10, **{f"x{i}": f"${{x{i - 1}}}" * 2 for i in range(1, 40)}},
        {"x0": ["ha"] * 10, **{f"x{i}": [f"${{x{i - 1}}}"] * 2 for i in range(1, 40)}},
    ],
)
def test_references_without_bounds_are_refused(content: dict) -> None:
    with pytest.raises(ConfigError, match="come to more than 1,000,000 characters, or name each other in a circle"):
        check_interpolation(OmegaConf.create(content), "run.yaml")


def test_a_long_chain_is_fine() -> None:
    chain = {"x0": "end", **{f"x{i}": f"${{x{i - 1}}}" for i in range(1, 100)}}
    check_interpolation(OmegaConf.create(chain), "run.yaml")
