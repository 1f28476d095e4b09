import ngio
import numpy as np
import pytest
import zarr

from cellpipe.ngff import begin_plate, write_image, write_label_image, write_plate_metadata

SHAPES = {
    (1080, 1080): [(540, 540), (270, 270), (135, 135)],
    (904, 1224): [(452, 612), (226, 306), (113, 153)],
    (1081, 1081): [(540, 540), (270, 270), (135, 135)],
    (601, 520): [(300, 260), (150, 130)],
    (256, 70): [],
}


def write(path, image, pixel_size_um=0.5):
    channels = [ngio.Channel.default_init("DNA"), ngio.Channel.default_init("ER")]
    options = {"channels": channels, "attributes": {"mine": 1}}
    write_image(path, image, name="A/01/1", pixel_size_um=pixel_size_um, **options)
    return zarr.open_group(path, mode="r")


def files_of(level):
    return [path for path in (level / "c").rglob("*") if path.is_file()]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pyramid(tmp_path, shape):
    """A level is the rounded mean of 2 x 2 pixels of the one before, in one file."""
    expected = np.random.default_rng(0).integers(0, 65536, (2, *shape), dtype=np.uint16)
    group = write(tmp_path / "image", expected)
    for level, size in enumerate([shape, *SHAPES[shape]]):
        if level:
            height, width = size
            even = expected[:, : 2 * height, : 2 * width].reshape(2, height, 2, width, 2)
            expected = np.floor(even.mean(axis=(2, 4)) + 0.5)
        np.testing.assert_array_equal(group[str(level)][:], expected)
        assert len(files_of(tmp_path / "image" / str(level))) == 1
    assert len(list(group.array_keys())) == 1 + len(SHAPES[shape])
    assert group["0"].chunks[0] == 1
    datasets = group.attrs["ome"]["multiscales"][0]["datasets"]
    scales = [dataset["coordinateTransformations"][0]["scale"] for dataset in datasets]
    # What ngio makes of an odd side: the whole field over the pixels of the level.
    heights = [shape[0], *[size[0] for size in SHAPES[shape]]]
    assert [scale[1] for scale in scales] == pytest.approx([0.5 * shape[0] / h for h in heights])
    assert group.attrs["mine"] == 1


def test_unknown_pixel_size_has_no_unit(tmp_path):
    image = np.ones((2, 300, 300), np.uint16)
    for size, units in ((0.5, ["micrometer", "micrometer"]), (None, [None, None])):
        ome = write(tmp_path / str(size), image, size).attrs["ome"]
        axes = ome["multiscales"][0]["axes"]
        assert [axis.get("unit") for axis in axes[1:]] == units
        assert ome["omero"]["channels"][1]["label"] == "ER"


@pytest.mark.parametrize("size", [0.5, None])
def test_labels_take_every_second_pixel(tmp_path, size):
    labels = np.random.default_rng(0).integers(0, 2**32, (521, 300), dtype=np.uint32)
    write_label_image(tmp_path / "nuclei", labels, name="nuclei", pixel_size_um=size)
    group = zarr.open_group(tmp_path / "nuclei", mode="r")
    np.testing.assert_array_equal(group["1"][:], labels[:520:2, ::2])
    assert [group[level].shape for level in "012"] == [(521, 300), (260, 150), (130, 75)]
    assert group.attrs["ome"]["image-label"] == {"source": {"image": "../../"}}
    assert ("unit" in group.attrs["ome"]["multiscales"][0]["axes"][0]) == (size is not None)


def test_plate_names_all_rows_in_the_order_of_the_plate(tmp_path):
    begin_plate(tmp_path, {"mine": 1})
    images = ["B/02/1", "B/02/2", "AA/48/1"]
    write_plate_metadata(tmp_path, name="P1", shape=(32, 48), images=images)
    attributes = zarr.open_group(tmp_path, mode="r").attrs
    plate = attributes["ome"]["plate"]
    assert [row["name"] for row in plate["rows"]][24:28] == ["Y", "Z", "AA", "AB"]
    assert len(plate["columns"]) == 48
    assert [(w["path"], w["rowIndex"], w["columnIndex"]) for w in plate["wells"]] == [
        ("B/02", 1, 1),
        ("AA/48", 26, 47),
    ]
    assert attributes["mine"] == 1


def test_plate_is_described_anew(tmp_path):
    """Fields that a later run leaves out are not in its wells, and `begin_plate` unmakes it."""
    for images in (["A/01/1", "A/01/2", "B/02/1"], ["A/01/2"]):
        begin_plate(tmp_path, {"mine": 1})
        assert "ome" not in zarr.open_group(tmp_path, mode="r").attrs
        write_plate_metadata(tmp_path, name="P1", shape=(8, 12), images=images)
    plate = zarr.open_group(tmp_path, mode="r").attrs["ome"]["plate"]
    assert [well["path"] for well in plate["wells"]] == ["A/01"]
    well = zarr.open_group(tmp_path / "A" / "01", mode="r").attrs["ome"]["well"]
    assert [image["path"] for image in well["images"]] == ["2"]
