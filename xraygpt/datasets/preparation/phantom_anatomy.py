"""The normal chest of a phantom: its shape, and its shadows on a frontal film.

Patient coordinates: the field of view is about [-1, 1] × [-1, 1], x to the viewer's right (the patient's left), y down.
A film is a sum of optical densities; more is denser tissue, drawn brighter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIGN = {"right": -1.0, "left": 1.0}  # where a side lies on the x axis

Points = Sequence[tuple[float, float]]


def curve(points: Points, *, closed: bool = False, steps: int = 8) -> np.ndarray:
    """Catmull-Rom spline through `points`, (N, 2), with `steps` points a segment."""
    knots = np.asarray(points, dtype=np.float64)
    padded = np.concatenate([knots[-1:], knots, knots[:2]]) if closed else np.concatenate([knots[:1], knots, knots[-1:]])
    t = np.arange(steps)[:, None] / steps
    before, start, end, after = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    segments = start + 0.5 * t * (end - before + t * (2 * before - 5 * start + 4 * end - after + t * (3 * (start - end) + after - before)))
    path = segments.reshape(-1, 2)
    return path if closed else np.concatenate([path, knots[-1:]])


@dataclass(frozen=True)
class Canvas:
    """Draws soft shapes given in patient coordinates as (size, size) float32 arrays in 0..1.

    Attributes:
        size: side of the film in pixels.
        rotation: turn of the patient in radians.
        zoom: magnification; horizontally times `width`.
        width: broadness of the patient.
        shift: (x, y) of the patient's centre.
    """

    size: int
    rotation: float = 0.0
    zoom: float = 1.0
    width: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def sample(cls, rng: np.random.Generator, size: int) -> "Canvas":
        """A patient of ordinary build, positioned as well as patients usually are."""
        return cls(
            size=size,
            rotation=rng.normal(0.0, 0.018),
            zoom=rng.uniform(0.95, 1.04),
            width=rng.uniform(0.95, 1.06),
            shift=(rng.normal(0.0, 0.018), rng.normal(0.02, 0.018)),
        )

    def region(self, outline: np.ndarray | Points, softness: float = 0.01) -> np.ndarray:
        """The inside of a closed outline, its edge blurred by `softness` (standard deviation)."""
        side = self._drawing_size(softness)
        image = Image.new("L", (side, side))
        ImageDraw.Draw(image).polygon(self._pixels(outline, side), fill=255)
        return self._blurred(image, softness)

    def lines(self, paths: Sequence[np.ndarray | Points], width: float, softness: float = 0.006) -> np.ndarray:
        """Bands of `width` along open paths; where they cross they do not add up."""
        image = Image.new("L", (self.size, self.size))
        draw = ImageDraw.Draw(image)
        for path in paths:
            draw.line(self._pixels(path, self.size), fill=255, width=max(1, round(width * self.size / 2)))
        return self._blurred(image, softness)

    def disc(self, centre: tuple[float, float], radius: float | tuple[float, float], softness: float = 0.01) -> np.ndarray:
        """A disc, or an ellipse with (horizontal, vertical) radii."""
        angle = np.linspace(0.0, 2 * np.pi, 24, endpoint=False)
        return self.region(np.asarray(centre) + np.asarray(radius) * np.stack([np.cos(angle), np.sin(angle)], axis=1), softness)

    def _drawing_size(self, softness: float) -> int:
        """Blurring a large area widely is slow and needs no fine pixels."""
        return self.size if softness < 0.02 else max(32, self.size // 4)

    def _pixels(self, points: np.ndarray | Points, side: int) -> list[float]:
        """Pixel coordinates x0, y0, x1, y1, … on a drawing of `side` pixels."""
        cos, sin = self.zoom * math.cos(self.rotation), self.zoom * math.sin(self.rotation)
        to_film = np.array([[self.width * cos, self.width * sin], [-sin, cos]])
        pixels: np.ndarray = (np.asarray(points) @ to_film + self.shift + 1.0) * (side / 2)
        return pixels.ravel().tolist()

    def _blurred(self, image: Image.Image, softness: float) -> np.ndarray:
        radius = 3**0.5 * softness * self.zoom * image.width / 2  # of the box with the same variance, a third of a Gaussian's cost
        blurred = image.filter(ImageFilter.BoxBlur(max(0.5, radius)))
        if image.width != self.size:
            blurred = blurred.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(blurred, dtype=np.float32) / 255


@dataclass(frozen=True)
class Anatomy:
    """The measures in which one patient differs from another.

    Attributes:
        heart_width: transverse diameter of the heart; the inner chest measures about 1.4.
        diaphragm: how far the diaphragm stands below its usual height (a deeper breath).
        knob: radius of the aortic knob.
        ribs: height of the uppermost ribs.
    """

    heart_width: float
    diaphragm: float
    knob: float
    ribs: float

    @classmethod
    def sample(cls, rng: np.random.Generator, *, enlarged_heart: bool) -> "Anatomy":
        """Cardiothoracic ratio below 0.48 for a normal heart, above 0.58 for an enlarged one."""
        width = rng.random()
        return cls(
            heart_width=0.84 + 0.14 * width if enlarged_heart else 0.55 + 0.11 * width,
            diaphragm=rng.uniform(-0.04, 0.06),
            knob=rng.uniform(0.07, 0.10),
            ribs=rng.uniform(-0.76, -0.70),
        )

    def base(self, side: str) -> float:
        """Height of the costophrenic angle; the right dome stands higher, over the liver."""
        return 0.50 + self.diaphragm + (0.05 if side == "left" else 0.0)

    def lung_outline(self, side: str) -> np.ndarray:
        """Closed outline of one lung, corners at the costophrenic and cardiophrenic angles."""
        base = self.base(side)
        lateral = curve([(0.27, -0.74), (0.42, -0.64), (0.55, -0.40), (0.64, -0.05), (0.69, 0.25), (0.70, base)])
        dome = curve([(0.70, base), (0.60, base - 0.12), (0.42, base - 0.18), (0.24, base - 0.13), (0.09, base - 0.02)])
        medial = curve([(0.09, base - 0.02), (0.10, 0.1), (0.11, -0.25), (0.13, -0.55), (0.19, -0.70), (0.27, -0.74)])
        return np.concatenate([lateral, dome, medial]) * (SIGN[side], 1.0)

    def heart_outline(self) -> np.ndarray:
        """Closed outline of the heart; the apex points to the patient's left."""
        right, left, floor = 0.28 * self.heart_width, 0.72 * self.heart_width, 0.46 + self.diaphragm
        return curve(
            [(-right, 0.20), (-0.75 * right, -0.02), (-0.05, -0.16), (0.12, -0.13), (0.52 * left, 0.02), (0.86 * left, 0.20),
             (left, floor - 0.10), (0.92 * left, floor), (0.4 * left, floor + 0.05), (-0.85 * right, floor)],
            closed=True,
        )  # fmt: skip


def lateral_wall(y: float) -> float:
    """Distance of the inner chest wall from the midline at height `y`."""
    return float(np.interp(y, [-0.74, -0.64, -0.40, -0.05, 0.25, 0.6], [0.27, 0.42, 0.55, 0.64, 0.69, 0.70]))


def body_outline() -> np.ndarray:
    """Neck, shoulders and trunk, open below."""
    neck_and_shoulder = [(0.17, -1.3), (0.18, -0.92), (0.32, -0.83), (0.62, -0.78), (0.90, -0.66), (1.08, -0.40)]
    half = curve([*neck_and_shoulder, (1.02, -0.10), (0.88, 0.10), (0.86, 1.4)])
    return np.concatenate([half, half[::-1] * (-1.0, 1.0)])


def rib_paths(anatomy: Anatomy) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Posterior arcs (from the spine outwards, nearly level) and anterior arcs (from the wall downwards to the middle)."""
    posterior, anterior = [], []
    for y in anatomy.ribs + 0.128 * np.arange(10):
        for sign in SIGN.values():
            wall = lateral_wall(y + 0.17) + 0.02
            posterior.append(curve([(0.07, y + 0.02), (0.35 * wall, y - 0.015), (0.75 * wall, y + 0.05), (wall, y + 0.18)]) * (sign, 1.0))
            if -0.7 < y < 0.2:
                anterior.append(curve([(wall, y + 0.18), (0.86 * wall, y + 0.31), (0.52 * wall, y + 0.42)]) * (sign, 1.0))
    return posterior, anterior


def vessel_paths(rng: np.random.Generator, side: str) -> list[np.ndarray]:
    """Vessels from the hilum into one lung."""
    sign, paths = SIGN[side], []
    for angle in np.linspace(-1.25, 1.35, 9) + rng.normal(0.0, 0.08, 9):
        length, bend = rng.uniform(0.28, 0.46), rng.normal(0.0, 0.25)
        hilum = np.array([0.15, -0.06])
        middle = hilum + 0.5 * length * np.array([np.cos(angle), np.sin(angle)])
        for turn in (bend, bend + rng.choice([-0.5, 0.5])):
            end = middle + 0.5 * length * np.array([np.cos(angle + turn), np.sin(angle + turn)])
            paths.append(curve([tuple(hilum), tuple(middle), tuple(end)], steps=5) * (sign, 1.0))
    return paths
