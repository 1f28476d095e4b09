import pytest
import torch
import torch.nn.functional as F
from torch import nn

from natural_images.errors import NaturalImagesValueError
from natural_images.segmentation import inference
from natural_images.segmentation.inference import predict, resized_rows, windows


class Pointwise(nn.Module):
    """Logits of a pixel from that pixel alone: what windows see of it does not matter."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.sizes = []

    def forward(self, images):
        self.sizes.append(tuple(images.shape))
        return self.conv(images)


class Means(Pointwise):
    """Logits of a pixel from the mean of its window as well."""

    def forward(self, images):
        return super().forward(images + images.mean(dim=(2, 3), keepdim=True))


class Leftness(Pointwise):
    """Says how far left a pixel lies, which mirroring reverses."""

    def forward(self, images):
        left = torch.linspace(1, 0, images.shape[-1]).expand(len(images), *images.shape[2:])
        return torch.stack([left, 1 - left], dim=1)


def section(**values):
    return inference.TestSection(**{"crop": 16, "stride": 10, "short_side": None, **values})


@pytest.fixture
def image():
    return torch.randn(3, 37, 53, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("side", "starts"),
    [
        (512, [0]),
        (300, [0]),
        (513, [0, 1]),
        (683, [0, 171]),
        (853, [0, 341]),
        (854, [0, 341, 342]),
        (2048, [0, 341, 682, 1023, 1364, 1536]),
    ],
)
def test_windows_end_with_the_image(side, starts):
    assert windows(side, 512, 341) == starts


def test_windows_leave_no_gap():
    for side in range(1, 80):
        seen = {
            place
            for start in windows(side, 16, 10)
            for place in range(start, min(start + 16, side))
        }
        assert seen == set(range(side))


def test_slide_equals_whole_where_pixels_speak_for_themselves(image):
    model = Pointwise().eval()
    whole = predict(model, image, section(mode="whole"))
    torch.testing.assert_close(predict(model, image, section()), whole)
    torch.testing.assert_close(whole, model.conv(image).softmax(dim=0))
    assert whole.shape == (4, 37, 53)


def test_slide_equals_whole_where_one_window_covers_the_image():
    model, image = Means().eval(), torch.randn(3, 16, 16)
    whole = predict(model, image, section(mode="whole"))
    torch.testing.assert_close(predict(model, image, section()), whole)
    larger = predict(model, torch.randn(3, 30, 30), section())
    assert larger.shape == (4, 30, 30)


def test_logits_are_averaged_where_windows_overlap():
    model, image = Means().eval(), torch.randn(3, 16, 26)
    left, right = (model(image[None, :, :, cut])[0] for cut in (slice(0, 16), slice(10, 26)))
    found = predict(model, image, section())
    torch.testing.assert_close(found[:, :, :10], left[:, :, :10].softmax(dim=0))
    both = ((left[:, :, 10:] + right[:, :, :6]) / 2).softmax(dim=0)
    torch.testing.assert_close(found[:, :, 10:16], both)


def test_few_windows_at_once_and_all_of_the_crop(image):
    model = Pointwise().eval()
    predict(model, image, section())
    assert {size[1:] for size in model.sizes} == {(3, 16, 16)}
    assert max(size[0] for size in model.sizes) == inference.WINDOWS_AT_ONCE
    assert sum(size[0] for size in model.sizes) == 4 * 5


def test_a_small_image_is_padded_to_a_window():
    model, image = Means().eval(), torch.randn(3, 9, 12)
    padded = predict(model, F.pad(image, (0, 4, 0, 7)), section())
    torch.testing.assert_close(predict(model, image, section()), padded[:, :9, :12])


def test_an_image_is_resized_to_fit_and_back():
    model, image = Pointwise().eval(), torch.randn(3, 30, 60)
    found = predict(model, image, section(mode="whole", short_side=20, long_side=80))
    assert model.sizes == [(1, 3, 20, 40)]
    small = F.interpolate(image[None], (20, 40), mode="bilinear", align_corners=False)
    logits = F.interpolate(model.conv(small), (30, 60), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, logits[0].softmax(dim=0))
    predict(model, image, section(mode="whole", short_side=20, long_side=32))
    assert model.sizes[-1] == (1, 3, 16, 32)


def test_the_published_size_of_a_photograph():
    model = Pointwise().eval()
    predict(model, torch.randn(3, 683, 1024), inference.TestSection(mode="whole"))
    assert model.sizes == [(1, 3, 512, 768)]


def test_flip_averages_with_the_mirror_image(image):
    model = Leftness().eval()
    once = predict(model, image, section(mode="whole"))
    both = predict(model, image, section(mode="whole", flip=True))
    torch.testing.assert_close(both, (once + once.flip(-1)) / 2)
    assert not torch.allclose(both, once)


def test_flip_changes_nothing_for_a_symmetric_model(image):
    model = Pointwise().eval()
    plain = predict(model, image, section())
    torch.testing.assert_close(predict(model, image, section(flip=True)), plain)


def test_ratios_average_probabilities(image):
    model = Pointwise().eval()
    alone = [predict(model, image, section(mode="whole", ratios=(r,))) for r in (0.5, 1.0, 1.75)]
    assert [size[2:] for size in model.sizes] == [(19, 27), (37, 53), (65, 93)]
    together = predict(model, image, section(mode="whole", ratios=(0.5, 1.0, 1.75)))
    torch.testing.assert_close(together, sum(alone) / 3)
    torch.testing.assert_close(together.sum(dim=0), torch.ones(37, 53))


@pytest.mark.parametrize("size", [(37, 53), (80, 20), (5, 90), (200, 53)])
def test_resizing_row_by_row_is_resizing(image, size):
    whole = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
    starts = range(0, size[0], 7)
    parts = [resized_rows(image, size, range(k, min(k + 7, size[0]))) for k in starts]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mode", "tiles"),
        ("crop", 0),
        ("stride", 0),
        ("stride", 513),
        ("flip", 1),
        ("ratios", []),
        ("ratios", 1.0),
        ("ratios", [0.0]),
        ("short_side", 0),
        ("long_side", 511),
    ],
)
def test_options_that_cannot_be(key, value):
    with pytest.raises(NaturalImagesValueError, match=f"{key}: expected"):
        inference.TestSection(**{key: value})


def test_a_list_of_ratios_from_yaml_is_the_same_section():
    assert inference.TestSection(ratios=[1.0]) == inference.TestSection()
