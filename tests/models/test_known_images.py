"""Images unlike the training images are told from images like them, and the file belongs to one model."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from xraygpt.common.errors import ConfigError, DataError
from xraygpt.models.known_images import FILE_NAME, MIN_IMAGES, KnownImages, probe_image

PROBE = np.arange(1, 9, dtype=np.float32)


def drawn(count: int, seed: int) -> np.ndarray:
    """Features [count, 8] with variances from 0.01 to 100, of which the last two go together."""
    features = np.random.default_rng(seed).standard_normal((count, 8)) * np.geomspace(0.1, 10, 8)
    features[:, 7] += features[:, 6]
    return (features + 5).astype(np.float32)


@pytest.fixture(scope="module")
def known() -> KnownImages:
    return KnownImages.of(drawn(1000, seed=0), PROBE)


def test_few_images_like_the_training_images_are_doubted(known: KnownImages) -> None:
    assert 0.001 < (known.distances(drawn(4000, seed=1)) > 1).mean() < 0.01


def test_each_direction_counts_by_its_own_variance(known: KnownImages) -> None:
    away = np.full((3, 8), 5, dtype=np.float32)
    away[0, 0] += 2  # 20 standard deviations
    away[1, 7] += 2  # a fraction of one
    away[2, 6] += 60
    away[2, 7] -= 60  # each is within reach, both together are not
    assert (known.distances(away) > 1).tolist() == [True, False, True]


def test_the_limit_is_that_of_images_that_the_fit_has_not_seen() -> None:
    few = KnownImages.of(drawn(MIN_IMAGES, seed=2), PROBE)
    assert (few.distances(drawn(4000, seed=3)) > 1).mean() < 0.03


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DataError, match="at least 100"):
        KnownImages.of(drawn(MIN_IMAGES - 1, seed=0), PROBE)


def test_the_file_is_read_again_and_belongs_to_its_model(known: KnownImages, tmp_path: Path) -> None:
    known.save(tmp_path / FILE_NAME)
    again = KnownImages.load(tmp_path / FILE_NAME, PROBE * 1.001)
    features = drawn(5, seed=1)
    assert (again.distances(features) == known.distances(features)).all()
    for other in (PROBE[::-1], PROBE[:4]):
        with pytest.raises(ConfigError, match="another ViT"):
            KnownImages.load(tmp_path / FILE_NAME, other)


def test_a_missing_or_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is missing .*xraygpt evaluate"):
        KnownImages.load(tmp_path / FILE_NAME, PROBE)
    (tmp_path / FILE_NAME).write_bytes(b"no tensors at all")
    with pytest.raises(ConfigError, match="cannot be read"):
        KnownImages.load(tmp_path / FILE_NAME, PROBE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": np.full(8, np.nan, np.float32)}, "mean is not finite float32"),
        ({"precision": np.full((8, 8), np.inf, np.float32)}, "precision is not finite float32"),
        ({"precision": np.ones((8, 4), np.float32)}, r"precision is \(8, 4\)"),
        ({"limit": np.zeros(1, np.float32)}, "its limit is not above 0"),
        ({"limit": np.ones(0, np.float32)}, r"limit is \(0,\)"),
        ({"probe": PROBE.astype(np.int64)}, "probe is not finite float32"),
    ],
)
def test_numbers_that_no_fit_gives_are_refused(known: KnownImages, change: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    dataclasses.replace(known, **change).save(tmp_path / FILE_NAME)
    with pytest.raises(ConfigError, match=message):
        KnownImages.load(tmp_path / FILE_NAME, PROBE)


def test_the_probe_shows_something_in_each_channel() -> None:
    image = probe_image(28)
    assert image.shape == (1, 3, 28, 28)
    assert image.dtype == torch.float32
    assert all(channel.std() > 0.3 for channel in image[0])
