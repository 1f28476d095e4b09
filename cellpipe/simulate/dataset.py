"""`cellpipe simulate`: plates in the JUMP layout, and the truth they were drawn from."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from cellpipe.errors import CellpipeValueError
from cellpipe.parallel import parallel_map
from cellpipe.simulate import gallery, harmony
from cellpipe.simulate.cells import populate
from cellpipe.simulate.compounds import Compound, layout
from cellpipe.simulate.debris import add_debris, scatter_debris
from cellpipe.simulate.microscope import CHANNELS, Plate, draw_plate, expose, well_brightness
from cellpipe.simulate.render import render
from cellpipe.simulate.textures import textures
from cellpipe.simulate.truth import README, SiteTruth, describe_site, write_truth
from fastvim.files import atomic_path


@dataclass(frozen=True)
class Well:
    """What a worker needs to draw all sites of one well, and nothing else."""

    folder: Path
    plate: int
    """Number of the plate, from 0."""
    compound: Compound
    sites: tuple[harmony.Site, ...]
    size: int
    seed: int


def simulate(
    output: Path,
    *,
    plates: int = 2,
    seed: int = 0,
    field_size: int = 320,
    sites_per_well: int = 2,
    replicates: int = 4,
    jobs: int = 1,
) -> None:
    """Write a small Cell Painting data set with known truth under `output`.

    U2OS-like cells under DMSO and eight compounds of graded effect, in eight channels, on
    replicate plates with plate, well and cell variation; folders and formats are those of the
    Cell Painting Gallery, and README.txt among them lists the files. The same arguments give the
    same images to the byte, whatever the number of jobs. `output` appears whole at the end or not
    at all.

    Parameters
    ----------
    output
        Folder to write; what it held before is replaced.
    plates
        Replicate plates, 1 to 99, all with the same plate map.
    seed
        Not negative.
    field_size
        Side of an image in px of 0.897 µm, 96 to 1080; 320 holds about 22 cells.
    sites_per_well
        Fields in each well, 1 to 9.
    replicates
        Wells of each compound on a plate, 1 to 8; DMSO has four times as many.
    jobs
        Processes that draw wells at the same time.

    Raises
    ------
    CellpipeValueError
        If an argument is out of its range.
    """
    _check("plates", plates, 1, 99)
    _check("seed", seed, 0, 2**63 - 1)
    _check("field_size", field_size, 96, 1080)
    _check("sites_per_well", sites_per_well, 1, 9)
    _check("replicates", replicates, 1, 8)

    output = Path(output).resolve()
    contents = layout(replicates, seed)
    sites = harmony.sites_of(list(contents), sites_per_well, field_size)
    drawn = [_plate(number, field_size, seed) for number in range(plates)]
    with atomic_path(output) as root:
        names = [plate.name for plate in drawn]
        gallery.write_maps(root / "workspace" / "metadata", contents, names)
        wells: list[Well] = []
        for number, name in enumerate(names):
            folder = gallery.write_plate(root, output, name, number, sites, field_size)
            for place, compound in contents.items():
                here = tuple(site for site in sites if (site.row, site.column) == place)
                wells.append(Well(folder, number, compound, here, field_size, seed))

        truths: dict[str, list[SiteTruth]] = {name: [] for name in names}
        drawings = parallel_map(_draw_well, wells, jobs=jobs, description="Drawing wells")
        for well, truth in zip(wells, drawings, strict=True):
            truths[names[well.plate]] += truth
        write_truth(root / "truth", truths, drawn)
        (root / "README.txt").write_text(README)


def _draw_well(well: Well) -> list[SiteTruth]:
    plate = _plate(well.plate, well.size, well.seed)
    row, column = well.sites[0].row, well.sites[0].column
    rng = _generator(well.seed, 3, well.plate, row, column)
    brightness = well_brightness(row, column, rng)
    density = float(rng.lognormal(0, 0.15))
    truths = []
    for site in well.sites:
        place = (well.plate, row, column, site.field)
        rng = _generator(well.seed, 4, *place)
        cells = populate(well.size, well.compound, density, rng)
        scene = render(cells, well.size, textures(well.seed))
        debris = scatter_debris(well.size, rng)
        add_debris(scene, debris)
        noise = [_generator(well.seed, 5, *place, index) for index in range(len(CHANNELS))]
        harmony.write_images(well.folder, site, expose(scene, plate, brightness, noise))
        truths.append(describe_site(plate.name, site, well.compound, cells, scene.labels, debris))
    return truths


@lru_cache
def _plate(number: int, size: int, seed: int) -> Plate:
    return draw_plate(f"SIM{number + 1:04d}", size, _generator(seed, 2, number))


def _generator(seed: int, *key: int) -> np.random.Generator:
    """Return the random numbers of one part of the data set, independent of all other parts."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _check(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        message = f"simulate: expected {name} from {lowest} to {highest}, got {value}."
        raise CellpipeValueError(message)
