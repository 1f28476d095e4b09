import pytest
import torch
import torch.nn.functional as F

from natural_images.detection.layers import LayerNorm2d
from natural_images.detection.pyramid import SimpleFeaturePyramid, pyramid_strides


def test_layer_norm_2d_is_over_channels_at_each_place():
    torch.manual_seed(0)
    norm = LayerNorm2d(6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 3, 5)
    expected = F.layer_norm(x[1, :, 2, 3], (6,), norm.weight, norm.bias, 1e-6)
    torch.testing.assert_close(norm(x)[1, :, 2, 3], expected)


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (5, 7)])
def test_maps_cover_the_image_at_their_strides(rows, columns):
    maps = SimpleFeaturePyramid(16, 12)(torch.randn(2, 16, rows, columns))
    assert pyramid_strides(16) == [4, 8, 16, 32, 64]
    for each, stride in zip(maps, pyramid_strides(16), strict=True):
        covered = [-(-side * 16 // stride) for side in (rows, columns)]
        assert list(each.shape) == [2, 12, *covered]


def test_the_coarsest_map_is_every_second_place_of_the_one_before():
    maps = SimpleFeaturePyramid(16, 12)(torch.randn(1, 16, 8, 8))
    assert maps[4].equal(F.max_pool2d(maps[3], kernel_size=1, stride=2))


def test_names_are_the_published_ones():
    names = set(SimpleFeaturePyramid(16, 12).state_dict())
    ups = {"fpn1.0", "fpn1.1", "fpn1.3", "fpn2.0"}
    convs = [f"{kind}_convs.{i}" for kind in ("lateral", "fpn") for i in range(4)]
    with_bias = ups | {f"{conv}.ln" for conv in convs}
    expected = {f"{name}.{part}" for name in with_bias for part in ("weight", "bias")}
    assert names == expected | {f"{conv}.conv.weight" for conv in convs}
