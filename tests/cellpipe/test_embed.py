"""Embedding plates: the contract, channels by name, fields of any size, many plates."""

import logging

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from cellpipe import embed as stage
from cellpipe.crop_store import CELLS_FILE, CropStore, CropWriter
from cellpipe.embed import embed, filled_up, forward_on
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.files import write_table
from cellpipe.plate import Plate
from cellpipe.trained_model import Preprocessing, TrainedModel, save_trained
from fastvim import create_model

DIMENSION = 32
CUDA = torch.cuda.is_available()
TOLERANCE = 2e-2 if CUDA else 1e-5  # of bfloat16 products, and of another order of summation


@pytest.fixture(scope="module")
def model(tmp_path_factory, drawn_plate):
    """Random weights for the drawn plate's channels but one, in another order, and one more."""
    channels = (*CropStore.open(drawn_plate.crops).channels[:0:-1], "Lipids")
    torch.manual_seed(0)
    network = create_model(
        "fastchannelvim_micro_patch8",
        in_chans=len(channels),
        num_classes=3,
        img_size=48,
        depth=2,
        embed_dim=DIMENSION,
    )
    folder = tmp_path_factory.mktemp("embed") / "model"
    preprocessing = Preprocessing(
        channels=channels,
        mean=tuple(np.linspace(100, 500, len(channels)).tolist()),
        std=tuple(np.linspace(50, 90, len(channels)).tolist()),
        labels=("a", "b", "c"),
        size_px=48,
        pixel_size_um=0.897,
        split="well",
    )
    save_trained(network, preprocessing, folder)
    return folder


@pytest.fixture(scope="module")
def cells(model, drawn_plate, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    embed([drawn_plate.crops], model=model, output=folder)
    return anndata.read_h5ad(folder / "SIM0001.h5ad")


def test_cells_follow_the_contract(cells, drawn_plate):
    store = CropStore.open(drawn_plate.crops)
    assert cells.shape == (len(store.cells), DIMENSION)
    assert cells.X.dtype == np.float32
    assert list(cells.obs_names) == list(store.cells["cell_id"])
    np.testing.assert_array_equal(cells.obsm["X_fastchannelvim"], cells.X)
    for column in ("Source", "Batch", "Plate", "Well", "Site", "ObjectNumber", "JCP2022"):
        assert f"Metadata_{column}" in cells.obs
    assert "Count_Nuclei" in cells.obs
    assert len(cells.uns["fastchannelvim"]["weights_sha256"]) == 64
    products = "bfloat16" if CUDA else "float32"
    assert cells.uns["fastchannelvim"]["matrix_products"] == products


def test_channels_are_matched_by_name(cells, model, drawn_plate, caplog):
    """The same numbers come out when the model is fed by hand, channel by channel name."""
    provenance = cells.uns["fastchannelvim"]
    store = CropStore.open(drawn_plate.crops)
    assert list(provenance["missing_channels"]) == ["Lipids"]
    assert list(provenance["unknown_channels"]) == [store.channels[0]]
    trained = TrainedModel.load(model)
    names = [name for name in trained.preprocessing.channels if name in store.channels]
    index = [trained.preprocessing.channels.index(name) for name in names]
    counts = store.read(np.array([3, 7]), store.channel_indices(names)).astype(np.float32)
    mean, std = (np.array(getattr(trained.preprocessing, k))[index] for k in ("mean", "std"))
    pixels = (counts - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        pooled, per_channel = trained.model.embed(torch.from_numpy(pixels).float(), index)
    np.testing.assert_allclose(cells.X[[3, 7]], pooled, atol=TOLERANCE)
    for place, name in enumerate(names):
        rows = cells.obsm[f"X_{name}"][[3, 7]]
        np.testing.assert_allclose(rows, per_channel[:, place], atol=TOLERANCE)
    assert "X_Lipids" not in cells.obsm


def test_a_smaller_batch_is_filled_up_and_the_filling_dropped():
    seen = []

    def forward(batch):
        seen.append(batch.clone())
        return batch.mean((1, 2, 3))[:, None], batch.mean((2, 3))

    pixels = torch.rand(3, 2, 5, 5)
    for given in (3, 4):
        pooled, per_channel = filled_up(forward, 4)(pixels[:given])
        assert (len(pooled), len(per_channel)) == (min(given, 3),) * 2
    torch.testing.assert_close(per_channel, pixels.mean((2, 3)))
    assert [len(batch) for batch in seen] == [4, 4]
    assert torch.equal(seen[0][:3], pixels)
    assert not seen[0][3].any()


@pytest.fixture
def sizes(monkeypatch):
    """Sizes of the batches that are embedded, by the greatest size of their plate or attempt."""
    found = {}

    def watched(device, model, channels, *, rows):
        forward = forward_on(device, model, channels, rows=rows)
        found[rows] = []

        def watch(batch):
            found[rows].append(len(batch))
            return forward(batch)

        return watch

    monkeypatch.setattr(stage, "forward_on", watched)
    return found


@pytest.fixture
def at_most(monkeypatch, drawn_plate):
    """Let the first batches that are tried have so many cells."""
    _, channels, height, width = CropStore.open(drawn_plate.crops).array.shape
    tokens = (channels - 1) * -(-height // 8) * -(-width // 8)  # the model lacks a channel

    def limit(cells):
        monkeypatch.setitem(stage.TOKENS_PER_BATCH, "cuda" if CUDA else "cpu", cells * tokens)

    return limit


def test_batches_differ_by_one_row_at_most(cells, model, drawn_plate, tmp_path, at_most, sizes):
    at_most(100)
    embed([drawn_plate.crops], model=model, output=tmp_path)
    batches = next(iter(sizes.values()))
    assert sum(batches) == cells.n_obs
    assert len(batches) == -(-cells.n_obs // 100)
    assert max(batches) - min(batches) <= 1
    again = anndata.read_h5ad(tmp_path / "SIM0001.h5ad")
    np.testing.assert_allclose(again.X, cells.X, atol=TOLERANCE)


def test_smaller_batches_where_memory_ends(
    cells, model, drawn_plate, tmp_path, monkeypatch, at_most, sizes
):
    """Also after a batch of the size that turns out too large."""
    watched = stage.forward_on

    def short(device, model, channels, *, rows):
        forward = watched(device, model, channels, rows=rows)

        def run(batch):
            if rows > 50 and sizes[rows]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 TiB.")
            return forward(batch)

        return run

    monkeypatch.setattr(stage, "forward_on", short)
    at_most(60)
    embed([drawn_plate.crops], model=model, output=tmp_path)
    assert [size > 50 for size in sizes] == [True] * (len(sizes) - 1) + [False]
    assert len(sizes) > 1
    again = anndata.read_h5ad(tmp_path / "SIM0001.h5ad")
    np.testing.assert_allclose(again.X, cells.X, atol=TOLERANCE)


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_a_recorded_graph_gives_what_the_model_gives(model):
    trained = TrainedModel.load(model, "cuda")
    network, channels = trained.model, (3, 0, 1)
    forward = forward_on(torch.device("cuda"), network, channels, rows=4)
    for given in (4, 4, 4, 4, 3):  # plain, plain, recorded, replayed, replayed
        pixels = torch.randn(given, 3, 48, 48, device="cuda")
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            want = network.embed(pixels, channels)
        for got, one in zip(forward(pixels), want, strict=True):
            torch.testing.assert_close(got, one, rtol=1e-2, atol=1e-2)


def test_fields_in_one_piece_without_segmentation(model, drawn_plate, tmp_path):
    embed(
        [drawn_plate.sites],
        model=model,
        output=tmp_path,
        mode="fields",
        illumination=[drawn_plate.illumination],
    )
    fields = anndata.read_h5ad(tmp_path / "SIM0001.h5ad")
    sites = Plate.open(drawn_plate.sites).sites
    assert fields.n_obs == len(sites)
    assert fields.obs_names[0] == f"source_sim__b__SIM0001__{sites['Metadata_Well'].iloc[0]}__1"
    assert np.isfinite(fields.X).all()
    assert float(np.std(fields.X, axis=0).max()) > 0


def test_existing_plates_are_skipped_unless_overwritten(model, drawn_plate, tmp_path, caplog):
    target = tmp_path / "SIM0001.h5ad"
    target.write_text("kept")
    with caplog.at_level(logging.INFO):
        embed([drawn_plate.crops], model=model, output=tmp_path)
    assert target.read_text() == "kept"
    assert "exists already" in caplog.text
    embed([drawn_plate.crops], model=model, output=tmp_path, overwrite=True)
    assert anndata.read_h5ad(target).n_obs > 0


def make_store(path, channels, count):
    writer = CropWriter(path, count=count, channels=channels, size_px=16, pixel_size_um=None)
    writer.append(np.zeros((count, len(channels), 16, 16), np.uint16))
    writer.close()
    table = pd.DataFrame({"cell_id": [f"c{i}" for i in range(count)], "Metadata_Plate": "P"})
    table["site_row"], table["edge"] = np.int32(0), False
    write_table(table, path / CELLS_FILE)
    return path


def test_a_plate_without_cells_gives_an_empty_file(model, tmp_path):
    store = make_store(tmp_path / "P.crops.zarr", ("DNA", "ER"), 0)
    embed([store], model=model, output=tmp_path)
    assert anndata.read_h5ad(tmp_path / "P.h5ad").shape == (0, DIMENSION)


def test_no_shared_channel_is_an_error_that_names_both_sides(model, tmp_path):
    store = make_store(tmp_path / "P.crops.zarr", ("GFP",), 2)
    with pytest.raises(CellpipeValueError, match=r"\['GFP'\], none of which .*'DNA'"):
        embed([store], model=model, output=tmp_path)


def test_fields_need_one_illumination_each(model, drawn_plate, tmp_path):
    with pytest.raises(CellpipeValueError, match="one --illumination for each of 1 site"):
        embed([drawn_plate.sites], model=model, output=tmp_path, mode="fields")


def test_a_folder_without_a_model_is_refused(tmp_path, drawn_plate):
    with pytest.raises(CellpipeDataError, match="not a model folder"):
        embed([drawn_plate.crops], model=tmp_path, output=tmp_path)
