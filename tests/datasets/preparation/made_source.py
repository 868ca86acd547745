"""A source made of a list, and small images for it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.study import About, Study, StudyImage


@dataclass
class ListSource:
    """Delivers the studies of a list."""

    root: Path
    listed: list[Study]
    name: str = "list"
    about: About = About(title="A list", licence="none", notes=("Made here.",))
    options: dict[str, Any] = field(default_factory=dict)
    unit: str = "reports"
    filters: tuple[str, ...] = ()

    @property
    def roots(self) -> tuple[Path, ...]:
        return (self.root,)

    def studies(self, account: Account) -> Iterator[Study]:
        yield from self.listed


def write_noise(path: Path, *, seed: int, size: tuple[int, int] = (40, 32), mode: str = "L") -> Path:
    """An image of `size` (width, height) that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def make_study(root: Path, number: int, *, images: int = 1, view: str = "frontal", suffix: str = ".png", **values: Any) -> Study:
    """A study whose images lie in `root/films`."""
    names = [f"s{number}-{i}" for i in range(images)]
    paths = [write_noise(root / "films" / f"{name}{suffix}", seed=100 * number + i, size=(60, 48)) for i, name in enumerate(names)]
    return Study(
        study_id=f"s{number}",
        images=tuple(StudyImage(image_id=name, path=path, view=view) for name, path in zip(names, paths, strict=True)),
        where=f"list, line {number}",
        **{"text": f"Report {number}."} | values,
    )
