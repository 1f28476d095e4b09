"""A run never deletes itself, nor what is no model."""

import pytest

from natural_images.errors import NaturalImagesValueError
from natural_images.output_folder import check_places


@pytest.mark.parametrize("checkpoints", ["model", "model/run", "other/../model/run"])
def test_checkpoints_inside_the_output(tmp_path, checkpoints):
    with pytest.raises(NaturalImagesValueError, match="outside of --output") as error:
        check_places(tmp_path / "model", tmp_path / checkpoints)
    assert str(tmp_path / "model") in str(error.value)
    assert str(tmp_path / checkpoints) in str(error.value)


def test_an_output_that_is_no_model(tmp_path):
    output, run = tmp_path / "mine", tmp_path / "mine_run"
    check_places(output, run)
    check_places(output, tmp_path)
    output.mkdir()
    check_places(output, run)
    (output / "thesis.txt").write_text("mine")
    for wrong in (output, output / "thesis.txt"):
        with pytest.raises(NaturalImagesValueError, match=f"got {wrong}, .*{run}"):
            check_places(wrong, run)


@pytest.mark.parametrize("description", ["natural_images.json", "pretraining.json"])
def test_an_earlier_run_is_replaced(tmp_path, description):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / description).touch()
    check_places(tmp_path, tmp_path.parent / "run")
