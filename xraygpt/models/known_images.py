"""What training images look like to the model, so that it can be said of an image that it is unlike all of them.

An image's features are the mean over what its query tokens read, float32 [D_q]. Of the training images' features mean and covariance are
kept; an image's distance is Mahalanobis' (Lee et al., NeurIPS 2018), in units of the distance that 99.5 % of training images stay
below when they are left out of the fit.

`N` images, `D_q` width of the Q-Former, `S` image size.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from xraygpt.common.checkpoint_guard import check_weights_file
from xraygpt.common.errors import CheckpointError, ConfigError, DataError, first_line
from xraygpt.common.files import atomic_path

Floats = NDArray[np.floating]

FILE_NAME = "known_images.safetensors"
MIN_IMAGES = 100
"""Fewer training images do not say what is usual."""

_SHRINKAGE = 0.01  # towards the multiple of the identity that has the same trace: directions of little variance are not trusted
_INSIDE = 0.995
_NUM_FOLDS = 10
_PROBE_TOLERANCE = 0.05  # relative; half precision and another device stay below 0.01


@dataclass(frozen=True)
class KnownImages:
    """The training images of a model, as far as they are needed to tell what is unlike them.

    Attributes:
        mean: float32 [D_q] of their features.
        precision: float32 [D_q, D_q], the inverse of their shrunk covariance.
        limit: float32 [1], the distance that is 1.
        probe: float32 [D_q], the features of `probe_image`, by which the model is known again.
    """

    mean: Floats
    precision: Floats
    limit: Floats
    probe: Floats

    @classmethod
    def of(cls, features: Floats, probe: Floats) -> "KnownImages":
        """Learn from the features [N, D_q] of training images; `probe` [D_q] are those of `probe_image`.

        Raises:
            DataError: there are fewer than `MIN_IMAGES`.
        """
        if len(features) < MIN_IMAGES:
            raise DataError(f"{len(features)} training images came; at least {MIN_IMAGES} are needed to say what is usual.")
        features = features.astype(np.float64)
        left_out = [_distances(features[i::_NUM_FOLDS], *_fit(np.delete(features, np.s_[i::_NUM_FOLDS], 0))) for i in range(_NUM_FOLDS)]
        mean, precision = _fit(features)
        limit = np.quantile(np.concatenate(left_out), _INSIDE, keepdims=True)
        return cls(mean.astype(np.float32), precision.astype(np.float32), limit.astype(np.float32), probe)

    def distances(self, features: Floats) -> Floats:
        """Features [N, D_q] → [N]; above 1 an image is unlike the training images."""
        return _distances(features.astype(np.float64), self.mean, self.precision) / self.limit

    def _require_numbers(self, path: Path) -> None:
        """ConfigError unless these are finite numbers of shapes that belong together."""
        width = self.mean.size
        expected = {"mean": (width,), "precision": (width, width), "limit": (1,)}
        wrong = [f"{name} is {vars(self)[name].shape}" for name, shape in expected.items() if vars(self)[name].shape != shape]
        wrong += [f"{name} is not finite float32" for name, value in vars(self).items() if not _is_finite(value)]
        if wrong or self.limit[0] <= 0:
            raise ConfigError(f"run.known_images: {path} is damaged: {'; '.join(wrong) or 'its limit is not above 0'}. Make it again.")

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        with atomic_path(path) as temporary:
            save_file({name: np.ascontiguousarray(value) for name, value in vars(self).items()}, temporary)

    @classmethod
    def load(cls, path: Path, probe: Floats) -> "KnownImages":
        """Read what `save` wrote. `probe` [D_q]: the features of `probe_image` as the model gives them now.

        Raises:
            ConfigError: there is no such file, it is damaged, or it was made with another ViT or Q-Former.
        """
        if not path.is_file():
            raise ConfigError(
                f"run.known_images: {path} is missing (looked for {path.absolute()}). `xraygpt evaluate` writes it beside its scores; "
                "run.known_images= goes without it."
            )
        try:
            check_weights_file(path)
            known = cls(**load_file(path))
        except (CheckpointError, SafetensorError, TypeError, OSError) as error:
            raise ConfigError(f"run.known_images: {path} cannot be read: {first_line(error)}") from error
        known._require_numbers(path)
        if known.probe.shape != probe.shape or np.linalg.norm(known.probe - probe) > _PROBE_TOLERANCE * np.linalg.norm(probe):
            raise ConfigError(
                f"run.known_images: {path} was made with another ViT or Q-Former. Make it anew with `xraygpt evaluate`, or go without: "
                "run.known_images="
            )
        return known


def probe_image(size: int) -> Tensor:
    """float32 [1, 3, S, S]: waves in three directions."""
    waves = torch.sin(torch.arange(size) / 7)
    return torch.stack([waves + waves[:, None], waves - waves[:, None], waves * waves[:, None]])[None]


def _is_finite(values: Floats) -> bool:
    return values.dtype == np.float32 and bool(np.isfinite(values).all())


def _fit(features: Floats) -> tuple[Floats, Floats]:
    """Mean [D_q] and inverse of the shrunk covariance [D_q, D_q]."""
    covariance = np.cov(features.T)
    usual = np.trace(covariance) / len(covariance)
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * usual * np.eye(len(covariance))
    return features.mean(0), np.linalg.inv(covariance)


def _distances(features: Floats, mean: Floats, precision: Floats) -> Floats:
    away = features - mean
    return np.sqrt(np.einsum("ni,ij,nj->n", away, precision, away))
