import csv
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastvim.training.curves import Curves


def write(directory: Path, steps: range, *, resumed_step: int, offset: float = 0.0) -> None:
    with Curves(directory, resumed_step=resumed_step) as curves:
        for step in steps:
            curves.write("train", step, {"loss": step + offset, "lr": 0.1})
            if step % 3 == 0:
                curves.write("validation", step, {"accuracy": step / 10 + offset})
        curves.sync()


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_rows_have_a_header_and_full_precision(tmp_path):
    with Curves(tmp_path, resumed_step=0) as curves:
        curves.write("train", 1, {"loss": 0.1 + 0.2, "lr": 1e-6})
    assert rows(tmp_path / "train.csv") == [["step", "loss", "lr"], ["1", repr(0.1 + 0.2), "1e-06"]]


def test_resume_replaces_rows_past_the_checkpoint(tmp_path):
    write(tmp_path, range(1, 9), resumed_step=0)
    write(tmp_path, range(6, 13), resumed_step=5, offset=0.5)
    train = rows(tmp_path / "train.csv")
    assert [row[0] for row in train] == ["step", *map(str, range(1, 13))]
    assert [float(row[1]) for row in train[5:7]] == [5.0, 6.5]
    assert [row[0] for row in rows(tmp_path / "validation.csv")] == ["step", "3", "6", "9", "12"]


def test_resume_shows_each_step_once_in_tensorboard(tmp_path):
    write(tmp_path, range(1, 9), resumed_step=0)
    write(tmp_path, range(6, 13), resumed_step=5, offset=0.5)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    assert [(e.step, e.value) for e in events] == [
        (step, step + (0.5 if step > 5 else 0)) for step in range(1, 13)
    ]


@pytest.mark.parametrize("left", ["st", "step,loss,lr\n", "step,loss,lr\n1,2.0,0.1\n2,1.", ""])
def test_half_written_line_is_dropped(tmp_path, left):
    (tmp_path / "train.csv").write_text(left)
    resumed = left.count("\n1,")
    write(tmp_path, range(resumed + 1, 4), resumed_step=resumed)
    assert [row[0] for row in rows(tmp_path / "train.csv")] == ["step", "1", "2", "3"]


def test_restart_from_nothing_leaves_no_old_rows(tmp_path):
    write(tmp_path, range(1, 9), resumed_step=0)
    write(tmp_path, range(1, 3), resumed_step=0)
    assert [row[0] for row in rows(tmp_path / "train.csv")] == ["step", "1", "2"]
    assert rows(tmp_path / "validation.csv") == []


def test_metrics_that_change_their_names_are_refused(tmp_path):
    write(tmp_path, range(1, 3), resumed_step=0)
    with (
        Curves(tmp_path, resumed_step=2) as curves,
        pytest.raises(ValueError, match=r"values \['loss', 'lr'\] at step 3, got \['loss'\]"),
    ):
        curves.write("train", 3, {"loss": 1.0})
