"""Draw the cells of a field: what each stain would show under a perfect microscope."""

from dataclasses import dataclass

import numpy as np

from cellpipe.simulate.cells import Cell
from cellpipe.simulate.textures import FIBRE_DIRECTIONS, SIZE, Textures

STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")

REACH = 44
"""Half the side of the patch that holds one cell, in px."""


@dataclass(frozen=True)
class Scene:
    """A field before optics and camera."""

    stains: np.ndarray
    """(5, y, x) float32, brightness of Mito, AGP, RNA, ER, DNA; a bright structure is about 1."""
    height: np.ndarray
    """(y, x) float32, optical thickness, which brightfield shows."""
    labels: np.ndarray
    """(y, x) uint16 nuclei; label = position of the cell in the list + 1, 0 is background."""


@dataclass(frozen=True)
class _Patch:
    """One cell's neighbourhood. All maps are (y, x) float32 on the same patch."""

    rows: slice
    columns: slice
    rho: np.ndarray
    """Distance from the cell's centre; the outline is at 1."""
    rho_nucleus: np.ndarray
    nucleus: np.ndarray
    """1 inside the nucleus, 0 outside, with a rim one pixel wide."""
    dy: np.ndarray
    dx: np.ndarray


def render(cells: list[Cell], size: int, textures: Textures) -> Scene:
    """Draw `cells` into a field of (size, size) px. Where cells meet, the nearer one wins."""
    full = size + 4 * REACH
    best = np.full((full, full), 1.0, np.float32)
    owner = np.zeros((full, full), np.int32)
    best_nucleus = np.full((full, full), 1.0, np.float32)
    labels = np.zeros((full, full), np.uint16)
    patches = [_patch(cell) for cell in cells]
    for number, patch in enumerate(patches, 1):
        place = (patch.rows, patch.columns)
        _claim(best[place], owner[place], patch.rho, number)
        _claim(best_nucleus[place], labels[place], patch.rho_nucleus, number)

    stains = np.zeros((len(STAINS), full, full), np.float32)
    height = np.zeros((full, full), np.float32)
    for number, (cell, patch) in enumerate(zip(cells, patches, strict=True), 1):
        place = (patch.rows, patch.columns)
        body = (owner[place] == number).astype(np.float32)
        nucleus = patch.nucleus * ((labels[place] == number) | (labels[place] == 0))
        drawn, thickness = _draw(cell, patch, body, nucleus, textures)
        stains[:, patch.rows, patch.columns] += drawn
        height[place] += thickness
    inside = slice(2 * REACH, 2 * REACH + size)
    return Scene(stains[:, inside, inside], height[inside, inside], labels[inside, inside])


def _claim(best: np.ndarray, owner: np.ndarray, rho: np.ndarray, number: int) -> None:
    nearer = rho < best
    best[nearer] = rho[nearer]
    owner[nearer] = number


def _patch(cell: Cell) -> _Patch:
    top, left = int(np.floor(cell.y)) - REACH, int(np.floor(cell.x)) - REACH
    side = 2 * REACH + 1
    dy = (np.arange(side, dtype=np.float32) + np.float32(top - cell.y))[:, None]
    dx = (np.arange(side, dtype=np.float32) + np.float32(left - cell.x))[None]
    # The bulk of the cell lies to one side of its nucleus.
    shift = 0.3 * (cell.radius - cell.nucleus_radius)
    rho_nucleus = _polar(
        dy, dx, cell.nucleus_angle, cell.nucleus_radius, cell.nucleus_elongation, cell.nucleus_lobes
    )
    rho = _polar(
        dy - np.float32(shift * np.sin(cell.polarity)),
        dx - np.float32(shift * np.cos(cell.polarity)),
        cell.angle,
        cell.radius,
        cell.elongation,
        cell.lobes,
    )
    # A nucleus has its own cytoplasm around it, whatever the outline and the neighbours do.
    rho = np.where(rho_nucleus < 1.2, np.minimum(rho, 0.4 * rho_nucleus), rho)
    return _Patch(
        rows=slice(top + 2 * REACH, top + 2 * REACH + side),
        columns=slice(left + 2 * REACH, left + 2 * REACH + side),
        rho=rho,
        rho_nucleus=rho_nucleus,
        nucleus=np.clip((1 - rho_nucleus) * np.float32(cell.nucleus_radius) + 0.5, 0, 1),
        dy=dy,
        dx=dx,
    )


def _polar(
    dy: np.ndarray,
    dx: np.ndarray,
    angle: float,
    radius: float,
    elongation: float,
    lobes: np.ndarray,
) -> np.ndarray:
    """Distance from the origin in units of a lobed ellipse's outline in that direction."""
    stretch = np.sqrt(elongation)
    along = (dx * np.float32(np.cos(angle)) + dy * np.float32(np.sin(angle))) / np.float32(stretch)
    across = (dy * np.float32(np.cos(angle)) - dx * np.float32(np.sin(angle))) * np.float32(stretch)
    point = along + 1j * across
    distance = np.abs(point)
    unit = point / np.maximum(distance, np.float32(1e-3))
    # Horner's rule; the amplitudes belong to the harmonics 2, 3, …
    series: np.ndarray = np.zeros_like(unit)
    for amplitude in lobes[::-1]:
        series = (series + np.complex64(amplitude)) * unit
    outline = np.maximum(1 + (series * unit).real, np.float32(0.35))
    return distance / (np.float32(radius) * outline)


def _draw(
    cell: Cell, patch: _Patch, body: np.ndarray, nucleus: np.ndarray, textures: Textures
) -> tuple[np.ndarray, np.ndarray]:
    """Return the (5, y, x) stains and the (y, x) optical thickness of one cell."""
    dials = cell.dials
    side = body.shape[0]

    def cut(texture: np.ndarray, piece: int) -> np.ndarray:
        y, x = (cell.texture_offset[piece] * (SIZE - side)).astype(int)
        return texture[y : y + side, x : x + side]

    rim = np.clip((1 - patch.rho) / 0.35, 0, 1)
    thickness = body * (0.25 + 0.75 * np.sqrt(np.clip(1 - patch.rho**2, 0, 1))) * rim
    cytoplasm = body * (1 - nucleus)
    # Distance from the nuclear rim in px sets how crowded organelles are.
    beyond = np.clip(patch.rho_nucleus - 1, 0, None) * np.float32(cell.nucleus_radius)
    side_of_golgi = _toward(patch, cell.polarity)
    fine = cut(textures.fine, 0)
    coarse = cut(textures.coarse, 1)

    spots = _nucleoli(cell, patch) * nucleus
    dome = np.clip(1 - 0.35 * patch.rho_nucleus**2, 0, 1)
    chromatin = 1 + np.float32(dials.chromatin) * (0.20 * fine + 0.12 * coarse)
    dna = nucleus * dome * chromatin * (1 - 0.45 * spots) * np.float32(dials.dna_gain)

    crowded = np.exp(-beyond / np.float32(0.36 * cell.radius)) * (1 + 0.3 * side_of_golgi)
    threads, puncta = cut(textures.threads, 2), cut(textures.puncta, 3)
    fragments = np.float32(dials.mito_fragments)
    network = (1 - fragments) * threads + fragments * puncta
    mito = cytoplasm * rim * (0.05 + crowded * (0.10 + 0.50 * network)) + 0.13 * nucleus

    crowded = np.exp(-beyond / np.float32(0.45 * cell.radius)) * (1 + 0.2 * side_of_golgi)
    coarseness = np.float32(dials.er_coarseness)
    mesh = (1 - coarseness) * cut(textures.reticulum, 4) + coarseness * cut(textures.cisternae, 5)
    er = cytoplasm * rim * (0.06 + 0.85 * crowded * mesh) * np.float32(dials.er_gain)
    er += 0.40 * nucleus * (1 + 0.08 * fine)

    crowded = np.exp(-beyond / np.float32(0.8 * cell.radius)) * (1 + 0.15 * side_of_golgi)
    grain = 1 + 0.12 * fine + 0.10 * coarse
    rna = 0.8 * cytoplasm * thickness * crowded * grain
    rna += nucleus * 0.34 + np.float32(dials.nucleoli) * 0.75 * spots

    direction = round(cell.angle / np.pi * FIBRE_DIRECTIONS) % FIBRE_DIRECTIONS
    fibres = cut(textures.fibres[direction], 6)
    edge = np.exp(-(((1 - patch.rho) / 0.08) ** 2))
    actin = 0.10 + 0.045 * np.float32(dials.fibres) * fibres
    agp = body * (0.05 + rim * actin * (0.5 + 0.5 * thickness) * (1 + 0.15 * fine) + 0.04 * edge)
    agp += 0.22 * nucleus * (1 + 0.1 * fine)
    agp += body * _golgi(cell, patch)

    stains = np.stack([mito, agp, rna, er, dna]) * cell.stain[:, None, None].astype(np.float32)
    granules = np.clip(cut(textures.puncta, 7) - 2.0, 0, 4) * cytoplasm * crowded * rim
    height = thickness * (1 + 0.05 * coarse) + 0.5 * nucleus * dome + 0.3 * spots + 0.06 * granules
    return stains, height


def _toward(patch: _Patch, angle: float) -> np.ndarray:
    """Cosine of the angle between each pixel's direction and `angle`."""
    projection = patch.dx * np.float32(np.cos(angle)) + patch.dy * np.float32(np.sin(angle))
    return projection / np.sqrt(patch.dx**2 + patch.dy**2 + 1)


def _nucleoli(cell: Cell, patch: _Patch) -> np.ndarray:
    spots = np.zeros_like(patch.rho)
    for y, x, sigma in cell.nucleoli:
        scale = cell.nucleus_radius
        spots += _spot(patch, y * scale, x * scale, sigma * cell.dials.nucleus_scale)
    return np.minimum(spots, 1)


def _golgi(cell: Cell, patch: _Patch) -> np.ndarray:
    spread = cell.dials.golgi_spread
    distance = 1.25 * cell.nucleus_radius
    vesicles = np.zeros_like(patch.rho)
    for along, across, scatter_y, scatter_x, brightness in cell.golgi:
        y = distance * np.sin(cell.polarity) + 2.6 * along
        x = distance * np.cos(cell.polarity) + 2.6 * across
        y += spread * (scatter_y * cell.radius - y)
        x += spread * (scatter_x * cell.radius - x)
        vesicles += 0.36 * brightness * _spot(patch, y, x, 1.0)
    return vesicles


def _spot(patch: _Patch, y: float, x: float, sigma: float) -> np.ndarray:
    """Return a Gaussian of height 1 at (y, x) px from the nucleus."""
    scale = np.float32(-0.5 / sigma**2)
    return np.exp(scale * (patch.dy - np.float32(y)) ** 2) * np.exp(
        scale * (patch.dx - np.float32(x)) ** 2
    )
