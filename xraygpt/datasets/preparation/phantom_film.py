"""Draws the frontal film of a phantom: the normal chest, then each finding of its list, then exposure and noise."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from xraygpt.datasets.preparation.phantom_anatomy import (
    SIGN,
    Anatomy,
    Canvas,
    body_outline,
    curve,
    lateral_wall,
    rib_paths,
    vessel_paths,
)
from xraygpt.datasets.preparation.phantom_findings import SIDES, PhantomFinding

_ZONE_CENTRE = {"upper": (0.34, -0.46), "mid": (0.44, -0.08), "lower": (0.50, 0.24)}


class Film:
    """A film in the making.

    Attributes:
        canvas: draws in patient coordinates.
        anatomy: the patient.
        density: (size, size) float32, about 0 (air outside the patient) to 1 (bone over soft tissue); findings add to it.
        heart: (size, size) share of heart in each pixel.
        vessels: (size, size) share of vessel in each pixel, both lungs.
        lungs: side → (size, size) share of lung in each pixel.
        rng: draws where exactly a finding lies.
    """

    def __init__(self, *, canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator) -> None:
        self.canvas, self.anatomy, self.rng = canvas, anatomy, rng
        self.lungs = {side: canvas.region(anatomy.lung_outline(side), 0.012) for side in SIDES}
        self.vessels = canvas.lines([path for side in SIDES for path in vessel_paths(rng, side)], 0.016, 0.005)
        self.heart = canvas.region(anatomy.heart_outline(), 0.012)
        self.density = self._soft_tissue() + self._bones()
        self.density += 0.09 * self.vessels

    def _soft_tissue(self) -> np.ndarray:
        canvas, anatomy = self.canvas, self.anatomy
        density = 0.52 * canvas.region(body_outline(), 0.05)
        density += 0.14 * canvas.region([(-0.80, 0.45), (0.80, 0.45), (0.80, 1.4), (-0.80, 1.4)], 0.12)
        density -= 0.36 * (self.lungs["left"] + self.lungs["right"])
        trunk = curve([(0.10, -0.62), (0.11, -0.45), (0.13, -0.25), (0.14, 0.10), (0.11, 0.60), (0.11, 1.4)])
        density += 0.16 * canvas.region(np.concatenate([trunk, trunk[::-1] * (-1.0, 1.0)]), 0.03)
        density += 0.12 * canvas.disc((0.11, -0.34), anatomy.knob, 0.015)
        lungs = np.minimum(1.0, self.lungs["left"] + self.lungs["right"])
        density += self.heart * (0.06 + 0.22 * lungs)
        for side in SIDES:
            density += 0.09 * canvas.disc((SIGN[side] * 0.17, -0.07), (0.07, 0.13), 0.04)
        trachea, right_bronchus, left_bronchus = (
            [(0.0, -1.1), (0.01, -0.25)],
            [(0.01, -0.27), (-0.08, -0.17), (-0.18, -0.10)],
            [(0.01, -0.27), (0.09, -0.17), (0.20, -0.12)],
        )
        density -= 0.18 * canvas.lines([trachea, right_bronchus, left_bronchus], 0.06, 0.015)
        stomach = (0.34, anatomy.base("left") - 0.06)
        return density - 0.16 * canvas.disc(stomach, (0.13, 0.05), 0.025)

    def _bones(self) -> np.ndarray:
        canvas, anatomy = self.canvas, self.anatomy
        posterior, anterior = rib_paths(anatomy)
        density = 0.075 * canvas.lines(posterior, 0.045) + 0.035 * canvas.lines(anterior, 0.055, 0.01)
        clavicles = [curve([(0.05, -0.60), (0.25, -0.66), (0.50, -0.71), (0.80, -0.80)]) * (sign, 1.0) for sign in SIGN.values()]
        density += 0.13 * canvas.lines(clavicles, 0.045)
        scapulae = [curve([(0.86, -0.66), (0.74, -0.40), (0.74, -0.10)]) * (sign, 1.0) for sign in SIGN.values()]
        density += 0.07 * canvas.lines(scapulae, 0.05, 0.015)
        spine = [[(0.0, -1.2), (0.0, 1.3)]]
        discs = [[(-0.07, y), (0.07, y)] for y in np.arange(-1.1, 1.2, 0.115)]
        return density + 0.07 * canvas.lines(spine, 0.14, 0.012) - 0.05 * canvas.lines(discs, 0.02)

    def spot(self, finding: PhantomFinding) -> tuple[float, float]:
        """A place in the finding's zone and side."""
        x, y = _ZONE_CENTRE[finding.zone]
        x, y = x + self.rng.uniform(-0.06, 0.06), y + self.rng.uniform(-0.06, 0.06) + 0.5 * self.anatomy.diaphragm
        return SIGN[finding.side] * x, y


# One function a finding. Cardiomegaly is not here: it is the anatomy that the film was begun with. ----------------------


def _draw_effusion(film: Film, finding: PhantomFinding) -> None:
    """Fluid fills the base; its upper border rises towards the chest wall (meniscus)."""
    height = {"small": 0.20, "moderate": 0.42, "large": 0.74}[finding.size] + film.rng.uniform(-0.03, 0.03)
    for side in SIDES if finding.side == "bilateral" else (finding.side,):
        base = film.anatomy.base(side)
        top = base - height
        meniscus = curve([(0.76, top), (0.62, top + 0.10), (0.42, top + 0.16), (0.04, top + 0.17)])
        outline = np.concatenate([meniscus, [(0.04, base + 0.1), (0.76, base + 0.1)]]) * (SIGN[side], 1.0)
        film.density += 0.40 * film.canvas.region(outline, 0.015) * film.lungs[side] * (1 - 0.6 * film.heart)


def _draw_pneumothorax(film: Film, finding: PhantomFinding) -> None:
    """The lung shrinks towards its hilum behind a thin pleural line; around it there is air without vessels."""
    share = {"small": 0.77, "large": 0.60}[finding.size] + film.rng.uniform(-0.03, 0.03)
    sign, lung = SIGN[finding.side], film.lungs[finding.side]
    hilum = np.array([sign * 0.12, 0.12])
    collapsed = hilum + (film.anatomy.lung_outline(finding.side) - hilum) * share
    inside = film.canvas.region(collapsed, 0.008)
    air = lung * (1 - inside)
    film.density -= air * (0.10 + 0.09 * film.vessels)
    film.density += 0.08 * lung * inside
    free = collapsed[np.abs(collapsed[:, 0]) > 0.22]  # towards the mediastinum and the diaphragm no line is seen
    film.density += 0.22 * lung * film.canvas.lines([free[: np.argmax(free[:, 1]) + 1]], 0.02, 0.004)


def _draw_consolidation(film: Film, finding: PhantomFinding) -> None:
    """A fuzzy, lobulated, patchy opacity that ends at the pleura."""
    centre = film.spot(finding)
    angles = np.linspace(0.0, 2 * np.pi, 9, endpoint=False)
    radii = film.rng.uniform(0.14, 0.23, 9)
    lobules = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1) + centre
    patches = 1.0 + 0.25 * _grain(film.rng, film.canvas.size, cells=24)
    film.density += 0.34 * film.canvas.region(curve([tuple(p) for p in lobules], closed=True), 0.035) * patches * film.lungs[finding.side]


def _draw_edema(film: Film, finding: PhantomFinding) -> None:
    """Perihilar haze on both sides, wide vessels, and short septal lines at the bases."""
    strength = {"mild": 0.17, "severe": 0.27}[finding.size]
    patches = 1.0 + 0.2 * _grain(film.rng, film.canvas.size, cells=32)
    for side in SIDES:
        sign, lung = SIGN[side], film.lungs[side]
        haze = film.canvas.disc((sign * 0.30, -0.04), (0.26, 0.40), 0.09)
        film.density += strength * haze * patches * lung + 0.5 * strength * film.vessels * lung
        walls = [(lateral_wall(y), y) for y in np.arange(0.12, 0.36, 0.05)]
        septal = [np.array([(wall - 0.12, y + 0.015), (wall, y)]) * (sign, 1.0) for wall, y in walls]
        film.density += 0.12 * film.canvas.lines(septal, 0.01, 0.003) * lung


def _draw_nodule(film: Film, finding: PhantomFinding) -> None:
    """A small, round, sharply outlined opacity."""
    film.density += 0.42 * film.canvas.disc(film.spot(finding), film.rng.uniform(0.065, 0.085), 0.008)


def _draw_pacemaker(film: Film, finding: PhantomFinding) -> None:
    """A generator below the clavicle and two leads through the veins into the right atrium and the right ventricle."""
    sign = SIGN[finding.side]
    x, y = sign * film.rng.uniform(0.50, 0.58), film.rng.uniform(-0.58, -0.50)
    vein = [(x - sign * 0.04, y - 0.07), (sign * 0.30, -0.66), (-0.06, -0.52)]
    leads = [curve([*vein, (-0.10, -0.15), (-0.14, 0.16)]), curve([*vein, (-0.08, -0.15), (-0.02, 0.26), (0.24, 0.38)])]
    film.density += 0.55 * film.canvas.lines(leads, 0.016, 0.003)
    film.density += 0.80 * film.canvas.disc((x, y), (0.10, 0.075), 0.006)


def _draw_tube(film: Film, finding: PhantomFinding) -> None:
    """An endotracheal tube: a dense line down the trachea that ends above the carina."""
    tip = film.rng.uniform(-0.34, -0.26)
    film.density += 0.60 * film.canvas.lines([[(0.01, -1.2), (0.01, -0.7), (0.0, tip)]], 0.060, 0.004)


_DRAW: dict[str, Callable[[Film, PhantomFinding], None]] = {
    "cardiomegaly": lambda film, finding: None,
    "pleural_effusion": _draw_effusion,
    "pneumothorax": _draw_pneumothorax,
    "consolidation": _draw_consolidation,
    "edema": _draw_edema,
    "nodule": _draw_nodule,
    "pacemaker": _draw_pacemaker,
    "tube": _draw_tube,
}


def render_film(findings: Sequence[PhantomFinding], *, size: int, seed: Sequence[int]) -> np.ndarray:
    """Draw one film.

    Patient, position and exposure depend on `seed` alone, so two films of one seed differ only by their findings.

    Returns:
        (size, size) uint8; bright is dense, as on a film for reading (MONOCHROME2).
    """
    patient, exposure, details = (np.random.default_rng([*seed, stream]) for stream in range(3))
    canvas = Canvas.sample(patient, size)
    anatomy = Anatomy.sample(patient, enlarged_heart=any(item.finding == "cardiomegaly" for item in findings))
    film = Film(canvas=canvas, anatomy=anatomy, rng=details)
    for item in findings:
        _DRAW[item.finding](film, item)
    _draw_left_marker(film)
    return _expose(film.density, exposure)


def _draw_left_marker(film: Film) -> None:
    """The lead letter L beside the patient's left shoulder."""
    letter = [[(0.84, -0.90), (0.84, -0.80), (0.89, -0.80)]]
    film.density += 0.5 * Canvas(film.canvas.size).lines(letter, 0.016, 0.0)


def _expose(density: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = density.shape[0]
    noise = 0.010 * _grain(rng, size, cells=size // 2) + 0.010 * rng.standard_normal(density.shape, dtype=np.float32)
    shading = 0.02 * _grain(rng, size, cells=4)
    brightness, contrast = rng.uniform(-0.03, 0.03), rng.uniform(0.92, 1.08)
    # A film saturates at both ends, here as a logistic curve about middle grey.
    value = 1.0 / (1.0 + np.exp(-4.6 * (contrast * (density + noise + shading - 0.42) + brightness)))
    return np.round(255 * np.clip(1.12 * value - 0.08, 0.0, 1.0)).astype(np.uint8)


def _grain(rng: np.random.Generator, size: int, *, cells: int) -> np.ndarray:
    """Smooth noise, (size, size) float32 of about unit variance, with about `cells` blobs across."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
