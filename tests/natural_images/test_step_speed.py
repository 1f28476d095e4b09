"""The table of step times: a row for every kind of experiment, and what cannot be measured said."""

from pathlib import Path

import pytest

from natural_images import step_speed

FILES = [
    "config/imagenet/digits.yaml",
    "config/mae/digits_pretrain.yaml",
    "config/mae/digits_finetune.yaml",
    "config/mae/digits_probe.yaml",
]
SMALL = ["--set", "recipe.batch_size=8", "--set", "model.options.depth=1", "--steps", "1"]


def test_a_row_for_each_file_whose_hours_follow_from_its_speed(capsys):
    step_speed.main([*FILES, *SMALL])
    rows = [row.strip("| ").split(" | ") for row in capsys.readouterr().out.splitlines()[4:]]
    assert [row[0] for row in rows] == FILES
    for (_, images, _, speed, _, hours), epochs in zip(rows, (10, 25, 8, 10), strict=True):
        assert int(images) == 8
        assert int(hours) == pytest.approx(epochs * 1_281_167 / int(speed) / 3600, rel=0.05, abs=1)


def test_accumulated_parts_are_timed_one_at_a_time(capsys):
    step_speed.main([FILES[0], *SMALL, "--set", "data.images_at_once=4"])
    assert "| config/imagenet/digits.yaml | 4 |" in capsys.readouterr().out


def test_other_files_are_measured_where_one_fails(tmp_path: Path, capsys):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("task: supervise\n")
    with pytest.raises(SystemExit, match="1"):
        step_speed.main([str(wrong), FILES[0], *SMALL])
    printed = capsys.readouterr()
    assert "did you mean supervised" in printed.err
    assert FILES[0] in printed.out
