"""The AnnData contract as scanpy sees it."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy

from cellpipe.embedding_file import write_embeddings


def obs(rows):
    return pd.DataFrame(
        {
            "Metadata_Plate": ["P1"] * rows,
            "Metadata_pert_name": ["DMSO", "alpha"] * (rows // 2),
            "Count_Nuclei": np.arange(rows, dtype=np.int32),
        },
        index=[f"s__b__P1__A01__1__{i}" for i in range(rows)],
    )


def write(path, rows, block=7):
    rng = np.random.default_rng(0)
    pooled = rng.normal(size=(rows, 16)).astype(np.float32)
    channels = rng.normal(size=(rows, 2, 16)).astype(np.float32)
    with write_embeddings(
        path,
        obs(rows),
        dimension=16,
        channels=["DNA", "ER/RNA"],
        provenance={"weights_sha256": "0", "channels": ["DNA", "ER/RNA"], "missing_channels": []},
    ) as file:
        for start in range(0, rows, block):
            file.append(pooled[start : start + block], channels[start : start + block])
    return pooled, channels


def test_contract(tmp_path):
    pooled, channels = write(tmp_path / "P1.h5ad", 30)
    data = scanpy.read_h5ad(tmp_path / "P1.h5ad")
    assert data.X.dtype == np.float32
    np.testing.assert_array_equal(data.X, pooled)
    np.testing.assert_array_equal(data.obsm["X_fastchannelvim"], pooled)
    np.testing.assert_array_equal(data.obsm["X_DNA"], channels[:, 0])
    np.testing.assert_array_equal(data.obsm["X_ER_RNA"], channels[:, 1])
    assert list(data.var_names[:2]) == ["emb_0000", "emb_0001"]
    pd.testing.assert_frame_equal(
        data.obs.astype({"Metadata_Plate": str, "Metadata_pert_name": str}),
        obs(30).astype({"Metadata_Plate": str, "Metadata_pert_name": str}),
        check_index_type=False,
        check_dtype=False,
    )
    assert data.uns["fastchannelvim"]["weights_sha256"] == "0"


def test_scanpy_plots_it_unchanged(tmp_path):
    write(tmp_path / "P1.h5ad", 40)
    data = scanpy.read_h5ad(tmp_path / "P1.h5ad")
    scanpy.pp.neighbors(data, n_neighbors=5, use_rep="X_fastchannelvim")
    scanpy.tl.umap(data)
    axes = scanpy.pl.umap(data, color="Metadata_pert_name", show=False)
    assert axes.get_title() == "Metadata_pert_name"


def test_backed_reading(tmp_path):
    pooled, _ = write(tmp_path / "P1.h5ad", 30)
    backed = anndata.read_h5ad(tmp_path / "P1.h5ad", backed="r")
    np.testing.assert_array_equal(backed.X[10:20], pooled[10:20])


def test_no_rows(tmp_path):
    write(tmp_path / "P1.h5ad", 0)
    data = anndata.read_h5ad(tmp_path / "P1.h5ad")
    assert data.shape == (0, 16)
    assert data.obsm["X_DNA"].shape == (0, 16)


def test_a_failure_leaves_nothing(tmp_path):
    with (
        pytest.raises(RuntimeError, match="stopped"),
        write_embeddings(
            tmp_path / "P1.h5ad", obs(4), dimension=2, channels=["DNA"], provenance={}
        ),
    ):
        raise RuntimeError("stopped")
    assert list(tmp_path.iterdir()) == []
