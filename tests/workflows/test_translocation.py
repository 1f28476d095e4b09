"""A real dose-response plate goes through the whole workflow by its configuration file alone."""

import numpy as np
import pandas as pd
import pytest
import yaml

from cellpipe import schema

pytestmark = [pytest.mark.slow, pytest.mark.data]


@pytest.fixture(scope="module")
def translocation(tmp_path_factory, root, data, snakemake):
    source = data / "sbs_translocation_dose_plate" / "ExampleSBSImages"
    if not source.exists():
        pytest.skip("the translocation plate of ../shared/data is absent")
    folder = tmp_path_factory.mktemp("translocation")
    config = yaml.safe_load((root / "config" / "examples" / "translocation.yaml").read_text())
    # The example names the data relative to the repository; the run works elsewhere.
    (plate,) = config["jumpcp"]["plates"]
    plate["source"] = str(source)
    plate["platemap"] = str(source / "1049_Metadata.csv")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    run = snakemake("--configfile", path, "--", "jumpcp_train", folder=folder)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-10000:]
    return folder / "results" / "translocation"


def test_held_out_controls_are_told_apart(translocation, read_json):
    """Wells that the model never saw, by the mean over their cells."""
    predictions = pd.read_parquet(translocation / "predictions.parquet")
    wells = predictions[(predictions["level"] == "well") & (predictions["split"] != "train")]
    assert set(wells["label"]) == {"negcon", "poscon"}
    assert (wells["label"] == wells["predicted"]).mean() >= 0.95
    metrics = read_json(translocation / "metrics.json")
    assert metrics["split"] == "well"
    assert metrics["classification"]["head"]["test"]["well"]["accuracy"] >= 0.95


def test_dose_is_visible_in_the_embedding(translocation, read_json):
    spearman = read_json(translocation / "metrics.json")["dose"]["spearman"]
    print(f"dose: {spearman}")
    assert max(abs(spearman["pc1"]), spearman["cross_validated"]) >= 0.8


def test_every_well_came_through(translocation):
    sites = pd.read_parquet(translocation / "plates" / "translocation.sites.parquet")
    assert len(sites) == 32
    quarantine = pd.read_csv(translocation / "plates" / "translocation.quarantine.csv")
    assert len(quarantine) == 0
    cells = pd.read_parquet(translocation / "plates" / "translocation.cells.parquet")
    assert cells.groupby(schema.WELL).size().min() > 50
    assert np.isfinite(cells["area_px"]).all()


def test_the_report_shows_the_dose(translocation):
    assert (translocation / "figures" / "dose.png").stat().st_size > 10_000
    assert "dose.png" in (translocation / "report.html").read_text()
