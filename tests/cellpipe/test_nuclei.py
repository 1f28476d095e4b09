"""Nuclei segmentation against drawn discs and against published masks of real images."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from cellpipe.nuclei import segment_nuclei

DATA = Path(__file__).parents[3] / "shared" / "data"
NF1 = DATA / "nf1_cellpainting_plate2" / "NF1_cellpainting_data_shrunken"
JUMP = DATA / "jump_BR00117006_A01_site1" / "JUMP_plate_BR00117006" / "images"
PEDIATRIC = (
    DATA / "pediatric_BR00143976_C03_site3_6ch" / "pediatric_cancer_atlas_profiling" / "images"
)


def scores(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1 of objects matched at an intersection over union above 0.5."""
    shape = (int(predicted.max()) + 1, int(truth.max()) + 1)
    pairs = np.ravel_multi_index((predicted.ravel(), truth.ravel()), shape)
    overlap = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    union = overlap.sum(1, keepdims=True) + overlap.sum(0, keepdims=True) - overlap
    matched = int((overlap / np.maximum(union, 1) > 0.5)[1:, 1:].sum())
    precision, recall = matched / max(shape[0] - 1, 1), matched / max(shape[1] - 1, 1)
    return precision, recall, 2 * matched / max(shape[0] + shape[1] - 2, 1)


def inside_outlines(outlines: np.ndarray) -> np.ndarray:
    """Label image of the regions that outlines enclose."""
    regions, _ = ndimage.label(~outlines)
    sizes = np.bincount(regions.ravel())
    enclosed = (sizes > 30) & (sizes < sizes.max())
    enclosed[0] = False
    kept, _ = ndimage.label(ndimage.binary_dilation(enclosed[regions]) & ~outlines)
    return kept


def discs(centres: list[tuple[int, int]], radius: float, shape=(200, 200)) -> np.ndarray:
    y, x = np.indices(shape)
    labels = np.zeros(shape, np.int32)
    for number, (cy, cx) in enumerate(centres, 1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = number
    return labels


def photograph(labels: np.ndarray, height: float = 1000.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter((labels > 0) * height, 1.0) + 200
    return rng.poisson(image).astype(np.uint16)


def test_separate_and_touching_discs():
    truth = discs([(40, 40), (40, 62), (120, 60), (150, 150)], radius=11)
    labels = segment_nuclei(photograph(truth), diameter_px=22)
    assert labels.max() == 4
    assert scores(labels, truth)[2] == 1.0


def test_dim_nuclei_beside_bright_ones():
    truth = discs([(40, 40), (40, 120), (120, 60)], radius=11)
    image = photograph(truth).astype(float)
    bright = photograph(discs([(150, 150)], radius=11), height=8000).astype(float) - 200
    labels = segment_nuclei(image + bright, diameter_px=22)
    assert labels.max() == 4


@pytest.mark.parametrize("level", [0, 200])
def test_field_without_cells_has_no_nuclei(level):
    noise = np.random.default_rng(1).poisson(level, (200, 200)).astype(np.uint16)
    assert segment_nuclei(noise, diameter_px=20).max() == 0


def test_specks_and_blobs_are_dropped():
    truth = discs([(60, 60)], radius=11)
    specks = discs([(120, 40), (30, 150)], radius=2)
    blob = discs([(145, 145)], radius=45)
    labels = segment_nuclei(photograph(truth + specks + blob), diameter_px=22)
    assert labels.max() == 1
    assert labels[60, 60] == 1


@pytest.mark.data
@pytest.mark.skipif(not NF1.exists(), reason="the NF1 images of ../shared/data are absent")
def test_nf1_masks():
    """The masks leave out nuclei at the border; they count against the precision here."""
    matched = []
    for mask_file in sorted((NF1 / "Plate_2_masks").glob("*MaskNuclei.tiff")):
        image_name = mask_file.name.replace("_MaskNuclei.tiff", ".tif")
        truth, _ = ndimage.label(tifffile.imread(mask_file) > 0)
        labels = segment_nuclei(
            tifffile.imread(NF1 / "Plate_2_images" / image_name), diameter_px=60
        )
        matched.append(scores(labels, truth))
    precision, recall, f1 = np.mean(matched, axis=0)
    print(f"NF1 nuclei: precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}")
    assert f1 >= 0.85


@pytest.mark.data
@pytest.mark.skipif(not JUMP.exists(), reason="the JUMP site of ../shared/data is absent")
def test_jump_outlines():
    outlines = read_png(JUMP / "outlines" / "r01c01f01p01-ch5sk1fk1fl1_nuclei_outlines.png")
    image = tifffile.imread(JUMP / "orig" / "r01c01f01p01-ch5sk1fk1fl1.tiff")
    precision, recall, f1 = scores(
        segment_nuclei(image, diameter_px=25), inside_outlines(outlines > 0)
    )
    print(f"JUMP nuclei: precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}")
    assert f1 >= 0.9


@pytest.mark.data
@pytest.mark.skipif(not PEDIATRIC.exists(), reason="the 6-channel site of ../shared/data is absent")
def test_pediatric_outlines():
    outlines = tifffile.imread(PEDIATRIC / "outlines" / "NucleiOutlines_BR00143976_C03_3.tiff")
    image = tifffile.imread(PEDIATRIC / "orig" / "r03c03f03p01-ch5sk1fk1fl1.tiff")
    precision, recall, f1 = scores(
        segment_nuclei(image, diameter_px=30), inside_outlines(outlines.max(axis=-1) > 0)
    )
    print(f"6-channel nuclei: precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}")
    assert f1 >= 0.85


def read_png(path: Path) -> np.ndarray:
    from skimage.io import imread

    image = imread(path)
    return image if image.ndim == 2 else image[..., 0]
