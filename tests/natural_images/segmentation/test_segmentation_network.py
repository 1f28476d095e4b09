import copy
import math

import pytest
import torch
import torch.nn.functional as F

import fastvim
from natural_images.errors import NaturalImagesValueError
from natural_images.segmentation.network import Segmenter
from natural_images.segmentation.segmenter import build_segmenter
from natural_images.segmentation.upernet import HeadSection

OPTIONS = {"embed_dim": 16, "depth": 4, "patch_size": 8, "out_indices": (0, 1, 2, 3)}
HEADS = HeadSection(channels=8, auxiliary_channels=4)
NAME = "fastvim_tiny_patch16_dense"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_segmenter(NAME, OPTIONS, num_classes=3, heads=HEADS, crop=32)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 3, (2, 32, 32), generator=generator)
    labels[:, :4] = 255
    return images, labels


def test_logits_at_the_pixels(model, batch):
    logits = model.eval()(batch[0])
    assert logits.shape == (2, 3, 32, 32)
    assert logits.dtype == torch.float32


def test_pixels_of_a_partly_empty_patch_keep_their_place(model):
    """As if the image had been padded by the caller, whose pixels are then cut off."""
    image = torch.randn(1, 3, 29, 42)
    padded = F.pad(image, (0, 6, 0, 3))
    torch.testing.assert_close(model.eval()(image), model(padded)[:, :, :29, :42])


def test_gradients_reach_every_parameter(model, batch):
    model(*batch)["loss"].backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


def test_losses(model, batch):
    """Against cross entropy pixel by pixel; the published default divides by all pixels."""
    images, labels = batch
    losses = model.eval()(images, labels)
    logits = model(images)
    probabilities = logits.softmax(dim=1)
    counted = labels != 255
    chosen = probabilities.gather(1, labels.where(counted, 0)[:, None])[:, 0]
    expected = -chosen.log()[counted].sum() / labels.numel()
    torch.testing.assert_close(losses["decode_loss"], expected)
    right = (logits.argmax(dim=1) == labels)[counted].float().mean()
    torch.testing.assert_close(losses["accuracy"], right)
    weighted = losses["decode_loss"] + 0.4 * losses["auxiliary_loss"]
    torch.testing.assert_close(losses["loss"], weighted)
    assert losses["auxiliary_loss"] != losses["decode_loss"]


def test_nothing_is_learned_from_ignored_pixels(model, batch):
    images, labels = batch
    losses = model(images, torch.full_like(labels, 255))
    assert {name: value.item() for name, value in losses.items()} == dict.fromkeys(losses, 0.0)
    losses["loss"].backward()
    assert not any(parameter.grad.any() for parameter in model.parameters())


def test_an_image_weighs_the_same_in_every_batch(model, batch):
    images, labels = batch
    labels[0, :20] = 255
    model.eval()
    whole = model(images, labels)["loss"]
    parts = [model(images[k : k + 1], labels[k : k + 1])["loss"] for k in range(2)]
    torch.testing.assert_close(whole, sum(parts) / 2)


def test_it_learns_to_tell_colours_apart():
    torch.manual_seed(0)
    heads = HeadSection(channels=16, auxiliary_channels=16, dropout=0.0)
    model = build_segmenter(NAME, OPTIONS, num_classes=2, heads=heads, crop=32)
    labels = torch.zeros(4, 32, 32, dtype=torch.int64)
    labels[:, :16, 8:24] = 1
    labels[2:] = labels[2:].transpose(1, 2).clone()
    images = (labels[:, None] * 2.0 - 1).expand(-1, 3, -1, -1) + 0.1 * torch.randn(4, 3, 32, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = None
    for _ in range(40):
        losses = model(images, labels)
        first = first or losses["loss"].item()
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert losses["loss"] < 0.45 * first
    assert model.eval()(images, labels)["accuracy"] > 0.9


def test_the_auxiliary_head_sees_its_map_and_says_nothing_in_inference(model, batch):
    heads = HeadSection(channels=8, auxiliary_channels=4, auxiliary_map=1)
    other = Segmenter(copy.deepcopy(model.backbone), 3, heads)
    other.load_state_dict(model.state_dict())
    model.eval()
    other.eval()
    assert torch.equal(model(batch[0]), other(batch[0]))
    assert model(*batch)["auxiliary_loss"] != other(*batch)["auxiliary_loss"]
    seen = []
    other.auxiliary_head.register_forward_hook(lambda *arguments: seen.append(arguments))
    other(batch[0])
    assert seen == []


def test_a_missing_map_for_the_auxiliary_head():
    backbone = fastvim.DenseFastVim(**{**OPTIONS, "out_indices": (1, 3)}, img_size=32)
    with pytest.raises(NaturalImagesValueError, match=r"auxiliary_map: expected .* 0 to 1, got 2"):
        Segmenter(backbone, 3, HEADS)


def test_a_single_image_has_no_batch_statistics(model, batch):
    with pytest.raises(NaturalImagesValueError, match="at least 2 images"):
        model(batch[0][:1], batch[1][:1])
    assert torch.isfinite(model.eval()(batch[0][:1], batch[1][:1])["loss"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_float32_under_autocast(model, batch, dtype):
    exact = model.eval()(*batch)["loss"].item()
    with torch.autocast("cpu", dtype):
        losses = model(*batch)
        logits = model(batch[0])
    assert losses["loss"].dtype == logits.dtype == torch.float32
    assert math.isclose(losses["loss"].item(), exact, rel_tol=0.02)


def test_residual_stream_is_an_option_of_the_backbone(batch):
    torch.manual_seed(0)
    plain, summed = (
        build_segmenter(
            NAME, {**OPTIONS, "residual_stream": on}, num_classes=3, heads=HEADS, crop=32
        )
        for on in (False, True)
    )
    summed.load_state_dict(plain.state_dict())
    assert not torch.allclose(plain.eval()(batch[0]), summed.eval()(batch[0]))
