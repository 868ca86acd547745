"""Training, evaluation and writing from cached features: the same numbers, without looking at an image."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.e2e.tiny_run import NUM_TEST, NUM_TRAIN, NUM_VAL, arguments, kept_logging, make_workspace, read_log, run_training, trace, weights
from xraygpt.cli.main import main
from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.models import MiniGPT4
from xraygpt.models.vision import VisionParts
from xraygpt.processors import image_io
from xraygpt.tasks import feature_caching, setup_task

FROZEN = ("model.freeze_vit=true", "model.freeze_qformer=true", "model.freeze_llm=true")
WHOLE_IMAGES = "datasets.mimic.vis_processor.train.name=blip2_image_eval"
HALF = 2e-3  # relative; half precision keeps 11 bits


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run.yaml of a workspace with first/, a run that trained all parts."""
    cfg_path = make_workspace(tmp_path_factory.mktemp("cached"))
    run_training(cfg_path, "run.job_id=first", "run.max_epoch=1")
    return cfg_path


@pytest.fixture(scope="module")
def second(workspace: Path) -> Any:
    """Train the projection on, with the options given; returns the run's folder."""

    def run(job_id: str, *options: str) -> Path:
        return run_training(workspace, *second_stage(workspace), f"run.job_id={job_id}", *options)

    return run


def second_stage(workspace: Path) -> list[str]:
    return [*FROZEN, f"model.ckpt={workspace.parent}/output/first/checkpoint_best.pth"]


def cache_at(path: Path, **settings: Any) -> list[str]:
    return [f"run.feature_cache.path={path}", *(f"run.feature_cache.{key}={value}" for key, value in settings.items())]


def losses(folder: Path) -> list[float]:
    return [number for step in trace(folder) for number in step[3:]] + [
        record["val_loss"] for record in read_log(folder) if "val_loss" in record
    ]


@pytest.fixture(scope="module")
def uncached(second: Any) -> Path:
    """The second stage on whole images, without a cache."""
    return second("uncached", WHOLE_IMAGES)


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-6), ("fp16", HALF)])
def test_training_is_the_same(dtype: str, tolerance: float, second: Any, uncached: Path, tmp_path: Path) -> None:
    """An image that is read in another batch differs by the last bit of float32."""
    folder = second(f"cached-{dtype}", *cache_at(tmp_path, dtype=dtype))
    assert losses(folder) == pytest.approx(losses(uncached), rel=tolerance)
    assert json.loads((folder / "result" / "test_best.json").read_text()) == pytest.approx(
        json.loads((uncached / "result" / "test_best.json").read_text()), rel=tolerance
    )


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can open an image or build a vision part."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("an image was looked at")

    monkeypatch.setattr(image_io, "open_image", fail)
    monkeypatch.setattr("xraygpt.datasets.datasets.caption_datasets.open_image", fail)
    monkeypatch.setattr(VisionParts, "from_config", fail)
    monkeypatch.setattr("xraygpt.models.mini_gpt4.build_vision", fail)


@pytest.fixture(scope="module")
def filled(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that `xraygpt cache build` has filled with three crops of each training image, and one view of the others."""
    path = tmp_path_factory.mktemp("filled")
    build(workspace, path, "run.feature_cache.views=3", "run.feature_cache.dtype=fp32")
    return path


def build(workspace: Path, path: Path, *options: str) -> None:
    with kept_logging():
        command = ["cache", "build", "--cfg-path", str(workspace), "--options", *second_stage(workspace), *cache_at(path), *options]
        assert main(command) == 0


def test_a_complete_cache_needs_no_image_and_no_vision_part(second: Any, filled: Path, blind: None) -> None:
    folder = second("blind", *cache_at(filled, views=3, dtype="fp32"))
    assert json.loads((folder / "summary.json").read_text())["memory_mib"]["weights"].keys() == {
        "query_tokens", "llama_model", "llama_proj"
    }  # fmt: skip


def test_views_do_not_depend_on_workers_or_interruption(second: Any, filled: Path) -> None:
    cached = cache_at(filled, views=3, dtype="fp32")
    one = second("workers-0", *cached)
    assert trace(second("workers-2", *cached, "run.num_workers=2")) == trace(one)
    half = second("halves", *cached, "run.max_epoch=1", "run.test_splits=[]")
    (half / "summary.json").unlink()
    again = second("halves", *cached, "run.resume_ckpt_path=auto", "run.resume_allow=[max_epoch]")
    assert [step[0] for step in trace(again)] == [step[0] for step in trace(one)]
    assert trace(again)[:10] != trace(second("one-view", *cache_at(filled, dtype="fp32")))[:10]


def test_views_are_crops_as_the_processor_makes_them(workspace: Path, filled: Path, second: Any) -> None:
    """More than one view each, all different, none the whole image; and rows of two builds are equal."""
    cfg = second_config(workspace, *cache_at(filled, views=3, dtype="fp32"))
    task = feature_task(cfg)
    (dataset,) = [splits["train"] for splits in task.datasets.values()]
    rows = np.stack([[dataset.features.cache.read(int(row)) for row in rows] for rows in dataset.features.rows])
    assert rows.shape == (NUM_TRAIN, 3, 4, 32)
    assert min(np.abs(rows[:, i] - rows[:, k]).max(axis=(1, 2)).min() for i, k in ((0, 1), (0, 2), (1, 2))) > 1e-4


def second_config(workspace: Path, *options: str) -> Any:
    return Config(arguments(workspace, *second_stage(workspace), *options))


def feature_task(cfg: Any) -> Any:
    task = setup_task(cfg)
    task.build_datasets(cfg)
    task.use_features(cfg)
    return task


def test_another_weight_processor_or_image_is_computed_anew(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    compute = feature_caching._compute
    monkeypatch.setattr(feature_caching, "_compute", lambda cfg, cache, jobs: computed.append(len(jobs)) or compute(cfg, cache, jobs))
    data = tmp_path / "data"
    shutil.copytree(workspace.parent / "data", data)
    options = [f"datasets.mimic.storage={data}"]
    build(workspace, tmp_path / "cache", *options)
    build(workspace, tmp_path / "cache", *options)
    assert computed == [NUM_TRAIN + NUM_VAL + NUM_TEST]
    pixels = np.random.default_rng(99).integers(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(pixels).save(data / "image" / "film-0.png")
    build(workspace, tmp_path / "cache", *options)
    assert computed[1:] == [1]
    build(workspace, tmp_path / "cache", *options, "datasets.mimic.vis_processor.eval.mean=[0.5,0.5,0.5]")
    assert computed[2:] == [NUM_TRAIN + NUM_VAL + NUM_TEST]
    run_training(workspace, "run.job_id=other", "run.max_epoch=1", "run.seed=7")
    build(workspace, tmp_path / "cache", *options, f"model.ckpt={workspace.parent}/output/other/checkpoint_best.pth")
    assert computed[3:] == [NUM_TRAIN + NUM_VAL + NUM_TEST]
    build(workspace, tmp_path / "cache", *options, "run.feature_cache.dtype=fp32")
    assert len(list((tmp_path / "cache").glob("*/key.json"))) == 3 and len(computed) == 5


def test_a_build_that_is_killed_goes_on(workspace: Path, tmp_path: Path, repo_root: Path) -> None:
    options = [*second_stage(workspace), *cache_at(tmp_path / "killed"), "run.num_workers=0"]
    slow = (
        "import time, sys\n"
        "from xraygpt.datasets import feature_cache\n"
        "feature_cache.ROWS_A_SYNC = 1\n"
        "from xraygpt.tasks import feature_caching, setup_task\n"
        "feature_caching.IMAGES_AT_A_TIME = 2\n"
        "read = feature_caching.read_queries\n"
        "feature_caching.read_queries = lambda *args: (time.sleep(0.2), read(*args))[1]\n"
        "from xraygpt.cli.main import main\n"
        f"sys.exit(main(['cache', 'build', '--cfg-path', {str(workspace)!r}, '--options', *{options!r}]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", slow], cwd=repo_root, stderr=subprocess.DEVNULL)
    while process.poll() is None and sum(file.stat().st_size for file in (tmp_path / "killed").glob("*/*.index")) < 6 * 40:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    build(workspace, tmp_path / "killed")
    build(workspace, tmp_path / "whole")
    one, other = (all_rows(workspace, tmp_path / name) for name in ("killed", "whole"))
    assert one.keys() == other.keys() and len(one) == NUM_TRAIN + NUM_VAL + NUM_TEST
    assert all(np.allclose(one[name], other[name], rtol=HALF, atol=HALF) for name in one)


def all_rows(workspace: Path, path: Path) -> dict[bytes, np.ndarray]:
    cache, _ = feature_caching.open_cache(second_config(workspace, *cache_at(path)))
    return {bytes(cache._entries["name"][row]): cache.read(row).astype(np.float32) for row in range(len(cache))}


def test_two_ranks_share_the_filling(workspace: Path, tmp_path: Path, repo_root: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "xraygpt.cli.main"]
    options = [*second_stage(workspace), *cache_at(tmp_path / "ranks")]
    done = subprocess.run(
        [*launcher, "cache", "build", "--cfg-path", str(workspace), "--options", *options], cwd=repo_root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "ranks").glob("*/*.rows"))) == 2
    build(workspace, tmp_path / "alone")
    ranks, alone = (all_rows(workspace, tmp_path / name) for name in ("ranks", "alone"))
    assert ranks.keys() == alone.keys() and len(ranks) == NUM_TRAIN + NUM_VAL + NUM_TEST
    assert all(np.allclose(ranks[name], alone[name], rtol=HALF, atol=HALF) for name in ranks)


def test_reports_are_the_same(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["run.task=report_generation", "run.scoring.resamples=20", "run.generation.max_new_tokens=12", *second_stage(workspace)]
    written = []
    cached = cache_at(tmp_path / "cache", dtype="fp32")
    for name, how in (("plain", []), ("cached", cached), ("again", cached)):
        if name == "again":
            monkeypatch.setattr(feature_caching, "_compute", None)
        with kept_logging():
            assert main(["evaluate", "--cfg-path", str(workspace), "--options", *options, *how, f"run.job_id={name}"]) == 0
        folder = workspace.parent / "output" / name / "test"
        written.append([(folder / file).read_text() for file in ("predictions.jsonl", "baselines.jsonl")])
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("model.freeze_qformer=false", r"model.freeze_qformer is False. Freeze ViT and Q-Former"),
        ("model.ckpt=", r"visual_encoder, ln_vision, Qformer, query_tokens would have random weights"),
        ("run.feature_cache.views=0", "views must be 1 or more"),
        ("run.feature_cache.dtype=int8", "dtype fp16 or fp32"),
    ],
)
def test_what_cannot_be_kept_is_refused(option: str, says: str, second: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        second("refused", *cache_at(tmp_path), option)


def test_a_damaged_image_stops_or_is_replaced(workspace: Path, second: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(workspace.parent / "data", data)
    (data / "image" / "film-3.png").write_bytes(b"no image")
    options = [f"datasets.mimic.storage={data}", *cache_at(tmp_path / "cache")]
    with pytest.raises(DataError, match=r"film-3 .*cannot be read"):
        second("stopped", *options)
    folder = second("skipped", *options, "run.on_bad_sample=skip", "run.max_bad_share=0.5")
    assert "film-3" in (folder / "bad_samples.jsonl").read_text()
    assert len(trace(folder)) == 20


def test_an_image_that_comes_after_all_brings_the_vision_parts(workspace: Path) -> None:
    """Heat maps and chats look at images whatever the cache has."""
    cfg = second_config(workspace).model_cfg
    whole, late = MiniGPT4.from_config(cfg), MiniGPT4.from_config(cfg, vision_key="key")
    images = torch.linspace(-1, 1, 2 * 3 * 28 * 28).view(2, 3, 28, 28)
    assert late.parameter_counts().keys() == {"query_tokens", "llama_model", "llama_proj"}
    assert torch.equal(late.place(torch.device("cpu")).eval().encode_img(images), whole.eval().encode_img(images))
    assert not any(parameter.requires_grad for parameter in late.visual_encoder.parameters())


def test_show_and_verify(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cache"
    build(workspace, path)
    assert main(["cache", "show", str(path)]) == 0
    assert f" {NUM_TRAIN + NUM_VAL + NUM_TEST} " in capsys.readouterr().out
    assert main(["cache", "verify", str(path)]) == 0
    (rows,) = path.glob("*/*.rows")
    data = bytearray(rows.read_bytes())
    data[5] ^= 1
    rows.write_bytes(data)
    assert main(["cache", "verify", str(path)]) == 1
    assert "1 damaged" in capsys.readouterr().out
    assert main(["cache", "verify", str(path), "--repair"]) == 0
    assert main(["cache", "verify", str(path)]) == 0
    assert main(["cache", "show", str(tmp_path)]) == 1


@pytest.mark.parametrize(
    "content", ["{", "5", "{}", "[" * 100_000, '{"shape": [0, 4], "dtype": "float16"}', '{"shape": [2, 2], "dtype": "no type"}']
)
def test_a_key_that_is_damaged_is_one_line(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "0123").mkdir()
    (tmp_path / "0123" / "key.json").write_text(content)
    (tmp_path / "0123" / "a.index").touch()
    (tmp_path / "0123" / "a.rows").touch()
    assert main(["cache", "show", str(tmp_path)]) == 1
    assert re.fullmatch(r"error: .*key\.json is damaged: .*\n", capsys.readouterr().err)


def test_resuming_with_another_cache_folder_is_no_change(second: Any, filled: Path, tmp_path: Path) -> None:
    second("moved", *cache_at(filled, views=3, dtype="fp32"), "run.max_epoch=1", "run.test_splits=[]")
    shutil.copytree(filled, tmp_path / "moved")
    options = ["run.resume_ckpt_path=auto", "run.resume_allow=[max_epoch]"]
    folder = second("moved", *cache_at(tmp_path / "moved", views=3, dtype="fp32"), *options)
    assert len(trace(folder)) == 20
    with pytest.raises(Exception, match=r"feature_cache\.views: 3 then, 1 now"):
        second("moved", *cache_at(filled, dtype="fp32"), "run.resume_ckpt_path=auto", "run.max_epoch=3", "run.resume_allow=[max_epoch]")


def test_weights_are_learnt_from_features(second: Any, filled: Path) -> None:
    folder = second("learnt", *cache_at(filled, views=3, dtype="fp32"))
    assert weights(folder, "1").keys() == {"llama_proj.weight", "llama_proj.bias"}


def test_generate_looks_at_each_film_once(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    read = MiniGPT4.read_images
    monkeypatch.setattr(MiniGPT4, "read_images", lambda self, image: looked.append(len(image)) or read(self, image))
    films = str(workspace.parent / "data" / "image")
    options = [*second_stage(workspace), "run.generation.max_new_tokens=8"]
    rows = []
    cached = cache_at(tmp_path / "c", dtype="fp32")
    for name, how in (("plain", []), ("first", cached), ("again", cached)):
        looked.clear()
        out = tmp_path / f"{name}.jsonl"
        command = ["generate", "--cfg-path", str(workspace), "--images", films, "--out", str(out), "--options", *options, *how]
        with kept_logging():
            assert main(command) == 0
        written = map(json.loads, out.read_text().splitlines())
        rows.append([{key: row.get(key) for key in ("id", "report", "confidence")} for row in written])
        assert len(list((tmp_path / "c").glob("*/*.rows"))) == (name != "plain")  # not one for each batch
        assert sum(looked) == (0 if name == "again" else NUM_TRAIN + NUM_VAL + NUM_TEST)
    assert rows[0] == rows[1] == rows[2]


def test_computing_features_draws_nothing_from_the_run(workspace: Path, tmp_path: Path) -> None:
    """A projection with random weights starts the same, whether the cache was empty or complete."""
    cfg = second_config(workspace, *cache_at(tmp_path))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    feature_task(cfg)
    assert torch.equal(torch.get_rng_state(), state)
