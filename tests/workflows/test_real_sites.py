"""Real sites with other channels than the model's, embedded by the demonstration's checkpoint."""

import anndata
import numpy as np
import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.data]

TRAINED = {"Mito", "AGP", "RNA", "ER", "DNA", "HighZBF", "LowZBF", "Brightfield"}


def embed(demo, folder, snakemake, plate, diameter_um):
    config = {
        "output": "results/sites",
        "plates": [plate],
        "segment": {"nucleus_diameter": diameter_um},
        "crops": {"size_px": 48},
        "embed": {"checkpoint": str(demo.results / "model"), "mode": "cells"},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"jumpcp": config}))
    run = snakemake("--configfile", path, "--", "jumpcp_embed", folder=folder)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-5000:]
    name = plate["name"]
    log = folder / "results" / "sites" / "logs" / "embed_cells_by_checkpoint" / f"{name}.log"
    cells = anndata.read_h5ad(folder / "results" / "sites" / "embedded" / "cells" / f"{name}.h5ad")
    return cells, log.read_text()


def test_three_channels_of_a_jump_site(demo, data, tmp_path, snakemake):
    images = data / "jump_BR00117006_A01_site1" / "JUMP_plate_BR00117006" / "images" / "orig"
    if not images.exists():
        pytest.skip("the JUMP site of ../shared/data is absent")
    plate = {
        "name": "BR00117006",
        "source": str(images),
        "layout": "harmony",
        "channels": {"2": "AGP", "3": "RNA", "5": "DNA"},
        "pixel_size_um": 0.598,
        "source_name": "source_4",
    }
    cells, log = embed(demo, tmp_path, snakemake, plate, 15)
    assert 120 < cells.n_obs < 200
    assert np.isfinite(cells.X).all()
    missing = set(cells.uns["fastchannelvim"]["missing_channels"])
    assert missing == TRAINED - {"AGP", "RNA", "DNA"}
    for name in missing:
        assert name in log


def test_six_channels_in_another_order(demo, data, tmp_path, snakemake):
    folder = data / "pediatric_BR00143976_C03_site3_6ch"
    if not folder.exists():
        pytest.skip("the 6-channel site of ../shared/data is absent")
    plate = {
        "name": "BR00143976",
        "source": str(next((folder / "loaddata").glob("*.csv"))),
        "layout": "load_data",
        "image_root": str(folder / "pediatric_cancer_atlas_profiling" / "images" / "orig"),
        "pixel_size_um": 0.598,
    }
    cells, log = embed(demo, tmp_path, snakemake, plate, 18)
    assert 20 < cells.n_obs < 45
    assert set(cells.uns["fastchannelvim"]["missing_channels"]) == {"HighZBF", "LowZBF"}
    assert "HighZBF" in log
    assert {"X_ER", "X_Mito", "X_Brightfield"} <= set(cells.obsm)
