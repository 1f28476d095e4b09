import os
from pathlib import Path

import pytest
import torch

from fastvim.training.checkpoint import CheckpointFolder


def folder(path: Path, **fingerprint) -> CheckpointFolder:
    return CheckpointFolder(path, {"epochs": 2, "betas": (0.9, 0.95), **fingerprint})


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def state(value: float) -> dict:
    return {"model": {"w": torch.full((1000,), value)}}


def test_empty_folder_is_a_new_run(tmp_path):
    assert folder(tmp_path).load_latest() is None
    assert folder(tmp_path / "absent").load_latest() is None


def test_newest_is_loaded_and_two_are_kept(tmp_path):
    for step in (0, 9, 10):
        folder(tmp_path).save(step, state(step))
    assert names(tmp_path) == ["step-00000009.pt", "step-00000010.pt"]
    loaded = folder(tmp_path).load_latest()
    assert loaded["step"] == 10
    assert torch.equal(loaded["model"]["w"], state(10)["model"]["w"])


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_damaged_newest_falls_back_to_the_one_before(tmp_path, damage):
    for step in (1, 2):
        folder(tmp_path).save(step, state(step))
    newest = tmp_path / "step-00000002.pt"
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    newest.write_bytes(content[: {"truncated": len(content) // 2, "empty": 0}.get(damage)])
    with pytest.warns(RuntimeWarning, match=r"step-00000002\.pt is damaged and passed over"):
        assert folder(tmp_path).load_latest()["step"] == 1


def test_damaged_newest_does_not_push_out_the_good_ones(tmp_path):
    for step in (1, 5):
        folder(tmp_path).save(step, state(step))
    (tmp_path / "step-00000005.pt").write_bytes(b"")
    folder(tmp_path).save(2, state(2))
    assert names(tmp_path) == ["step-00000001.pt", "step-00000002.pt"]


@pytest.mark.filterwarnings("ignore:Checkpoint")
def test_nothing_but_damage_is_an_error_and_not_a_new_run(tmp_path):
    (tmp_path / "step-00000003.pt").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"none of .*step-00000003\.pt.* Delete the folder"):
        folder(tmp_path).load_latest()


def test_failed_write_leaves_the_checkpoints_before(tmp_path, monkeypatch):
    folder(tmp_path).save(1, state(1))

    def full_disk(content, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        folder(tmp_path).save(2, state(2))
    assert folder(tmp_path).load_latest()["step"] == 1
    assert names(tmp_path) == ["step-00000001.pt"]


def test_other_run_is_refused_with_the_differences(tmp_path):
    folder(tmp_path, samples=100).save(1, state(1))
    with pytest.raises(ValueError, match="belongs to another run") as error:
        folder(tmp_path, samples=90, split="b").load_latest()
    assert "samples: expected 100 (the checkpoint's), got 90" in str(error.value)
    assert "split: expected None (the checkpoint's), got 'b'" in str(error.value)
    assert "epochs" not in str(error.value)


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    class Exploit:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploited"),)

    folder(tmp_path).save(1, {"model": Exploit()})
    with (
        pytest.warns(RuntimeWarning, match="passed over"),
        pytest.raises(ValueError, match="can be read"),
    ):
        folder(tmp_path).load_latest()
    assert not (tmp_path / "exploited").exists()
