"""Where cells sit in a field and what each is like, before anything is drawn.

Lengths are pixels of 0.9 µm: a U2OS nucleus of 16 µm is 18 px across, its cell about 42 px.
"""

from dataclasses import dataclass, replace

import numpy as np

from cellpipe.simulate.compounds import LOST_CELLS, PHENOTYPES, Compound, Dials

CELLS_PER_PX2 = 20 / 320**2
"""Mean density of untreated cells."""

MARGIN = 30
"""Cells are drawn this far outside the field too, so that its border cuts through cells."""

SISTERS = 0.15
"""Fraction of cells placed against the nucleus of another, as after a division."""

LOBES = 6
"""Highest angular harmonic of an outline."""


@dataclass(frozen=True)
class Cell:
    """One cell: shape, contents and the pieces of texture it wears. Lengths in px, angles in rad.

    Every random number is drawn whether the phenotype uses it or not, so that the same seed gives
    the same cell under another treatment.
    """

    y: float
    x: float
    angle: float
    radius: float
    elongation: float
    lobes: np.ndarray
    """Complex amplitude of the outline's harmonics 2 … LOBES."""
    polarity: float
    """Direction from the nucleus to the Golgi and to the bulk of the cell."""
    nucleus_radius: float
    nucleus_elongation: float
    nucleus_angle: float
    nucleus_lobes: np.ndarray
    nucleoli: np.ndarray
    """(nucleolus, [y, x, sigma]): place relative to the nucleus in its radii, size in px."""
    golgi: np.ndarray
    """(vesicle, [along, across, scatter y, scatter x, brightness])."""
    stain: np.ndarray
    """(5,) brightness in Mito, AGP, RNA, ER, DNA."""
    texture_offset: np.ndarray
    """(texture, [y, x]) fractions of the texture's size."""
    dials: Dials
    effect: float


def populate(size: int, compound: Compound, density: float, rng: np.random.Generator) -> list[Cell]:
    """Fill a field of `size` px with cells of one treatment, `density` relative to the mean."""
    lost = LOST_CELLS.get(compound.phenotype, 0.0) * compound.strength
    mean = CELLS_PER_PX2 * density * (size + 2 * MARGIN) ** 2
    count = max(0, round((1 - lost) * (mean + 0.6 * np.sqrt(mean) * rng.standard_normal())))
    effects = compound.effects(count, rng)
    cells: list[Cell] = []
    for effect, seed in zip(effects, rng.integers(2**63, size=count), strict=True):
        cell = _draw_cell(PHENOTYPES[compound.phenotype](effect), effect, int(seed))
        place = _find_place(cell, cells, size, rng)
        if place is not None:
            cells.append(replace(cell, y=place[0], x=place[1]))
    return cells


def _draw_cell(dials: Dials, effect: float, seed: int) -> Cell:
    rng = np.random.default_rng(seed)
    spread = 1 - dials.roundness
    angle = rng.uniform(0, np.pi)
    growth = np.exp(0.12 * rng.standard_normal())
    harmonics = np.arange(2, LOBES + 1)
    lobes = _complex(rng, LOBES - 1) * np.array([0.07, 0.11, 0.07, 0.03, 0.015]) * spread
    nucleus_lobes = _complex(rng, LOBES - 1) * 0.05 / harmonics
    return Cell(
        y=0.0,
        x=0.0,
        angle=angle,
        radius=float(np.clip(23.5 * growth * rng.lognormal(0, 0.10), 17, 30)) * dials.cell_scale,
        elongation=1 + float(np.clip(rng.gamma(2.0, 0.16), 0, 0.9)) * spread,
        lobes=lobes,
        polarity=angle + rng.normal(0, 0.5) + np.pi * rng.integers(2),
        nucleus_radius=float(np.clip(8.9 * growth**0.7, 7.2, 10.8)) * dials.nucleus_scale,
        nucleus_elongation=1 + float(np.clip(rng.gamma(2.5, 0.09), 0, 0.6)),
        nucleus_angle=angle + rng.normal(0, 0.3),
        nucleus_lobes=nucleus_lobes,
        nucleoli=_nucleoli(rng),
        golgi=np.column_stack(
            [rng.normal(0, 1, (14, 2)), rng.uniform(-1, 1, (14, 2)), rng.gamma(2.0, 0.5, 14)]
        ),
        stain=np.exp(0.16 * rng.standard_normal() + 0.12 * rng.standard_normal(5)),
        texture_offset=rng.random((8, 2)),
        dials=dials,
        effect=effect,
    )


def _nucleoli(rng: np.random.Generator) -> np.ndarray:
    count = int(rng.integers(2, 5))
    angle = (
        rng.uniform(0, 2 * np.pi) + 2 * np.pi * (np.arange(4) + rng.uniform(-0.3, 0.3, 4)) / count
    )
    distance = rng.uniform(0.2, 0.6, 4)
    sigma = rng.uniform(1.0, 1.9, 4)
    return np.column_stack([distance * np.sin(angle), distance * np.cos(angle), sigma])[:count]


def _complex(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_normal(count) + 1j * rng.standard_normal(count)


def _find_place(
    cell: Cell, others: list[Cell], size: int, rng: np.random.Generator
) -> tuple[float, float] | None:
    """Return a place whose nucleus overlaps no other, or None where the field is full."""
    beside = bool(others) and rng.random() < SISTERS
    for _ in range(40):
        if beside:
            sister = others[int(rng.integers(len(others)))]
            angle = rng.uniform(0, 2 * np.pi)
            distance = _reach(cell, angle) + _reach(sister, angle) + rng.uniform(0.3, 2.5)
            y, x = sister.y + distance * np.sin(angle), sister.x + distance * np.cos(angle)
        else:
            y, x = rng.uniform(-MARGIN, size + MARGIN, 2)
        outside = max(-y, y - size, -x, x - size)
        # No slivers: a nucleus is seen at least by half, or not at all.
        if -2 < outside < 1.5 * cell.nucleus_radius or outside > MARGIN:
            continue
        gap = 0.3 if beside else 0.5 * cell.radius
        if all(_gap(cell, y, x, other) >= gap - 1e-6 for other in others):
            return float(y), float(x)
    return None


def _gap(cell: Cell, y: float, x: float, other: Cell) -> float:
    distance = np.hypot(y - other.y, x - other.x)
    angle = np.arctan2(y - other.y, x - other.x)
    return float(distance - _reach(cell, angle) - _reach(other, angle))


def _reach(cell: Cell, angle: float) -> float:
    """Radius of the nuclear ellipse in a direction."""
    stretch = np.sqrt(cell.nucleus_elongation)
    turn = angle - cell.nucleus_angle
    return float(cell.nucleus_radius / np.hypot(np.cos(turn) / stretch, np.sin(turn) * stretch))
