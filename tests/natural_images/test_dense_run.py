import numpy as np
import pytest

from natural_images.dense_run import check_run, spread
from natural_images.errors import NaturalImagesValueError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "half"}, "precision: expected one of"),
        ({"precision": "float32", "limit": 0}, "limit: expected at least 1, got 0"),
        ({"precision": "float32", "workers": 0}, "workers: expected at least 1, got 0"),
    ],
)
def test_wrong_options_are_named(wrong, message):
    with pytest.raises(NaturalImagesValueError, match=message):
        check_run(**wrong)


def test_images_are_taken_evenly():
    assert spread(5, None).tolist() == spread(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert spread(101, 3).tolist() == [0, 50, 100]
    assert spread(10, 1).tolist() == [0]
    assert len(np.unique(spread(1000, 999))) == 999
