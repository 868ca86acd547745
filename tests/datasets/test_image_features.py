"""Which row belongs to which sample."""

import os
from pathlib import Path

import numpy as np
import pytest

from xraygpt.common.errors import DataError
from xraygpt.common.files import sha256_file
from xraygpt.datasets import image_features
from xraygpt.datasets.feature_cache import FeatureCache
from xraygpt.datasets.image_features import ALL_PIXELS, WHOLE, FileChecksums, ImageFeatures, crop_seed, row_name
from xraygpt.processors import Blip2ImageEvalProcessor, load_processor

EVAL = load_processor("blip2_image_eval", {"image_size": 28})
TRAIN = load_processor("blip2_image_train", {"image_size": 28})


def test_a_row_is_known_by_image_settings_and_view() -> None:
    names = {
        row_name("a", EVAL, WHOLE),
        row_name("b", EVAL, WHOLE),
        row_name("a", EVAL, ALL_PIXELS),
        row_name("a", TRAIN, 0),
        row_name("a", TRAIN, 1),
        row_name("a", load_processor("blip2_image_eval", {"image_size": 56}), WHOLE),
        row_name("a", load_processor("blip2_image_train", {"image_size": 28, "min_scale": 0.7}), 0),
    }
    assert len(names) == 7 and all(len(name) == 32 for name in names)
    # What is given and what is left to the default are the same settings.
    assert row_name("a", load_processor("blip2_image_train", {"image_size": 28, "min_scale": 0.5}), 0) == row_name("a", TRAIN, 0)
    assert len({crop_seed(name) for name in names}) == 7


def test_a_processor_of_unknown_settings_is_refused() -> None:
    with pytest.raises(DataError, match="Blip2ImageEvalProcessor was not built by load_processor"):
        row_name("a", Blip2ImageEvalProcessor(image_size=28), WHOLE)


def test_views_are_a_function_of_the_seed_and_evenly_taken(tmp_path: Path) -> None:
    cache = FeatureCache.open(tmp_path, {"shape": [1, 1], "dtype": "float32"})
    features = ImageFeatures(cache, ["a", "a", None], TRAIN, views=4)
    assert (features.names[0] == features.names[1]).all() and (features.names[2] == b"").all()
    taken = [features.view_of(seed) for seed in range(4000)]
    assert taken == [features.view_of(seed) for seed in range(4000)]
    assert np.bincount(taken).min() > 900
    assert np.corrcoef(taken, np.arange(4000) % 4)[0, 1] == pytest.approx(0, abs=0.05)  # the prompt is chosen by seed % prompts


def test_a_sample_without_a_row_says_so(tmp_path: Path) -> None:
    cache = FeatureCache.open(tmp_path, {"shape": [1, 1], "dtype": "float32"})
    with pytest.raises(DataError, match="could not be read when the feature cache was filled"):
        ImageFeatures(cache, [None], EVAL).read(0, seed=0)


def old_file(path: Path, text: str) -> Path:
    path.write_text(text)
    os.utime(path, (1e9, 1e9))
    return path


def test_an_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(image_features, "sha256_file", lambda path: read.append(path) or sha256_file(path))
    files = [old_file(tmp_path / name, name) for name in ("a", "b")]
    checksums = FileChecksums(tmp_path / "files.json")
    expected = [sha256_file(file) for file in files]
    assert checksums.of([*files, tmp_path / "absent", None]) == [*expected, None, None]
    checksums.save()
    read.clear()
    assert FileChecksums(tmp_path / "files.json").of(files) == expected and read == []
    old_file(files[0], "c")
    os.utime(files[0], (1e9 + 1, 1e9 + 1))
    assert FileChecksums(tmp_path / "files.json").of(files) == [sha256_file(files[0]), expected[1]] and read == [files[0]]


def test_a_file_that_may_still_change_within_its_time_stamp_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "new"
    path.write_text("one")
    checksums = FileChecksums(tmp_path / "files.json")
    first, times = checksums.of([path]), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_text("two")
    os.utime(path, ns=times)  # same size, same time
    assert checksums.of([path]) != first


@pytest.mark.parametrize("content", ["{", "[]", "5", '{"PATH": 5}', '{"PATH": [1, 2]}', '{"PATH": [1, "2", "3"]}', "[" * 100_000])
def test_what_remembers_may_be_damaged(content: str, tmp_path: Path) -> None:
    (tmp_path / "files.json").write_text(content.replace("PATH", str(tmp_path / "a")))
    assert FileChecksums(tmp_path / "files.json").of([old_file(tmp_path / "a", "a")]) == [sha256_file(tmp_path / "a")]
