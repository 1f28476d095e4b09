"""What is on the simulated plate: compounds, what each does to a cell, and which well holds which.

Names, sample identifiers and targets are invented; the DMSO row is JUMP's own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cellpipe import schema

CONTROLS_PER_REPLICATE = 4
"""DMSO wells for each well of one compound, to know well how untreated cells vary."""

COLUMNS = 8
"""Columns of the block of wells that is filled, from A01: row A and column 01 are edge wells."""

RESPONDERS = 0.85
"""Fraction of treated cells that respond at all."""


@dataclass(frozen=True)
class Dials:
    """What a perturbation can change in one cell; the defaults are an untreated cell.

    Each dial from `mito_fragments` on acts in one channel; the others stay as they were to the bit.
    """

    cell_scale: float = 1.0
    nucleus_scale: float = 1.0
    roundness: float = 0.0
    dna_gain: float = 1.0
    chromatin: float = 1.0
    mito_fragments: float = 0.0
    nucleoli: float = 1.0
    er_gain: float = 1.0
    er_coarseness: float = 0.0
    fibres: float = 1.0
    golgi_spread: float = 0.0


PHENOTYPES: dict[str, Callable[[float], Dials]] = {
    "none": lambda effect: Dials(),
    "large_nucleus": lambda effect: Dials(
        nucleus_scale=1 + 0.32 * effect,
        cell_scale=1 + 0.10 * effect,
        dna_gain=1 - 0.2 * effect,
        chromatin=1 - 0.6 * effect,
    ),
    "cytotoxic": lambda effect: Dials(
        nucleus_scale=1 - 0.18 * effect,
        cell_scale=1 - 0.28 * effect,
        roundness=min(1.0, effect),
        dna_gain=1 + 0.5 * effect,
    ),
    "mito_fragmented": lambda effect: Dials(mito_fragments=min(1.0, effect)),
    "nucleoli_lost": lambda effect: Dials(nucleoli=max(0.0, 1 - effect)),
    "er_swollen": lambda effect: Dials(er_gain=1 + 0.4 * effect, er_coarseness=min(1.0, effect)),
    "stress_fibres": lambda effect: Dials(fibres=1 + 5.0 * effect),
    "golgi_dispersed": lambda effect: Dials(golgi_spread=min(1.0, effect)),
}
"""What a phenotype of a given effect (0 untreated, 1 full) does to a cell."""

LOST_CELLS = {"cytotoxic": 0.55}
"""Fraction of the cells that a phenotype of strength 1 removes."""

EVERY_CHANNEL = ("Mito", "AGP", "RNA", "ER", "DNA", "HighZBF", "LowZBF", "Brightfield")


@dataclass(frozen=True)
class Compound:
    """One perturbation: its invented names, its phenotype, and how strong that is (0 to 1)."""

    name: str
    broad_sample: str
    jcp2022: str
    target: str
    phenotype: str
    strength: float
    channels: tuple[str, ...]
    """The channels in which its cells differ from DMSO."""

    def effects(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Effects of `count` cells: some do not respond, the others differ in how much."""
        responds = rng.random(count) < RESPONDERS
        return self.strength * responds * np.clip(rng.normal(1.0, 0.2, count), 0.4, 1.6)


def _compound(
    number: int, name: str, target: str, phenotype: str, strength: float, channels: tuple[str, ...]
) -> Compound:
    return Compound(
        name=name,
        broad_sample=f"SIM-K{number:08d}-001-01-1",
        jcp2022=f"JCP2022_SIM{number:03d}",
        target=target,
        phenotype=phenotype,
        strength=strength,
        channels=channels,
    )


DMSO = Compound("DMSO", "", schema.DMSO_JCP2022, "", "none", 0.0, ())

COMPOUNDS = (
    _compound(1, "nucleomegalin", "SIMNUC1", "large_nucleus", 1.0, EVERY_CHANNEL),
    _compound(2, "mitofragin", "SIMMIT1", "mito_fragmented", 1.0, ("Mito",)),
    _compound(3, "nucleolostat", "SIMRNA1", "nucleoli_lost", 1.0, ("RNA",)),
    _compound(4, "cytotoxol", "SIMTOX1", "cytotoxic", 0.9, EVERY_CHANNEL),
    _compound(5, "reticulofen", "SIMRET1", "er_swollen", 0.6, ("ER",)),
    _compound(6, "stressfibrin", "SIMACT1", "stress_fibres", 0.5, ("AGP",)),
    _compound(7, "golgivaguine", "SIMGOL1", "golgi_dispersed", 0.3, ("AGP",)),
    _compound(8, "inertamide", "SIMNIL1", "none", 0.0, ()),
)


def layout(replicates: int, seed: int) -> dict[tuple[int, int], Compound]:
    """Which compound each well holds, by zero-based (row, column); the same on every plate.

    Treatments are scattered, so that position on the plate says little about treatment: of 500
    random layouts the one is taken whose treatments' mean positions lie closest together.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    contents = [DMSO] * (CONTROLS_PER_REPLICATE * replicates)
    contents += [compound for compound in COMPOUNDS for _ in range(replicates)]
    wells = [divmod(index, COLUMNS) for index in range(len(contents))]
    names = np.array([compound.name for compound in contents])
    orders = [rng.permutation(len(contents)) for _ in range(500)]

    def spread(order: np.ndarray) -> float:
        places = np.array(wells)[order]
        means = [places[names == name].mean(axis=0) for name in dict.fromkeys(names)]
        return float(np.var(means, axis=0).sum())

    best = min(orders, key=spread)
    placed = {wells[place]: compound for place, compound in zip(best, contents, strict=True)}
    return dict(sorted(placed.items()))
