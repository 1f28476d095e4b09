import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from natural_images.classification.augment import (
    Augment,
    eval_transform,
    normalise,
    train_transform,
)
from natural_images.classification.batch_augment import BatchAugment
from natural_images.classification.loader_speed import photographs
from natural_images.errors import NaturalImagesValueError

OFF = {
    "rand_augment": None,
    "color_jitter": 0,
    "erase_probability": 0,
    "mixup": 0,
    "cutmix": 0,
    "label_smoothing": 0,
}


@pytest.fixture(scope="module")
def cat():
    return Image.fromarray(dict(photographs())["chelsea"])


@pytest.fixture
def batch():
    images = torch.randint(256, (8, 3, 32, 32), generator=torch.manual_seed(0))
    return {"images": images.to(torch.uint8), "classes": torch.arange(8) % 4}


def states():
    numpy = np.random.get_state()[1].tolist()  # noqa: NPY002 - timm's generator
    return random.getstate(), numpy, torch.get_rng_state().tolist()


def test_defaults_are_the_published_recipe():
    # shared/recipes.md, section 3: ImageNet supervised.
    augment = Augment()
    assert (augment.mixup, augment.cutmix, augment.mixup_switch) == (0.8, 1.0, 0.5)
    assert augment.rand_augment == "rand-m9-mstd0.5-inc1"
    assert (augment.erase_probability, augment.erase_mode) == (0.25, "pixel")
    assert (augment.color_jitter, augment.label_smoothing) == (0.3, 0.1)
    assert (augment.interpolation, augment.eval_crop) == ("bicubic", 0.875)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crop_scale", (0.5, 0.1)),
        ("crop_scale", 0.2),
        ("crop_scale", (0, 1)),
        ("crop_scale", ("a", "b")),
        ("hflip", 2),
        ("color_jitter", -1),
        ("color_jitter", None),
        ("rand_augment", "rand-z9"),
        ("rand_augment", "augmix-m3"),
        ("rand_augment", 9),
        ("interpolation", "cubic"),
        ("erase_probability", float("nan")),
        ("erase_mode", "noise"),
        ("mixup", "0.8"),
        ("label_smoothing", 1),
        ("eval_crop", 0),
        ("std", (1, 1, 0)),
        ("mean", (1, 1)),
    ],
)
def test_wrong_values_name_the_key(key, value):
    with pytest.raises(NaturalImagesValueError, match=f"Augment key '{key}': expected"):
        Augment(**{key: value})


def test_training_follows_the_seed_and_leaves_the_process_alone(cat):
    transform = train_transform(Augment(), 96)
    before = states()
    images = [transform(cat, seed) for seed in (1, 2, 1)]
    assert states() == before
    assert images[0].shape == (3, 96, 96)
    assert images[0].dtype == torch.uint8
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    assert torch.equal(transform(cat, 1), images[0])


@pytest.mark.parametrize("magnitude", [0, 9, 10])
def test_every_operation_works_at_every_magnitude(cat, magnitude):
    # Ten operations an image, all of them applied: each of the fifteen occurs.
    augment = Augment(rand_augment=f"rand-m{magnitude}-n10-p1-mstd0.5-inc1")
    transform = train_transform(augment, 32)
    for seed in range(60):
        assert transform(cat, seed).shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("bits", "expected"), [(0, 0), (1, 128), (4, 0b1011_0000), (8, 0b1011_0110)]
)
def test_posterize_keeps_the_upper_bits(bits, expected):
    image = Image.new("RGB", (2, 2), (0b1011_0110,) * 3)
    (op,) = {
        op.aug_fn
        for step in train_transform(Augment(), 32).steps.transforms
        for op in getattr(step, "ops", ())
        if op.name == "PosterizeIncreasing"
    }
    assert op(image, bits, fillcolor=0, resample=0).getpixel((0, 0)) == (expected,) * 3


@pytest.mark.parametrize("rand_augment", [None, "rand-m9-mstd0.5-inc1"])
def test_colour_jitter_is_for_runs_without_randaugment(cat, rand_augment):
    def changed(strength):
        augment = Augment(rand_augment=rand_augment, color_jitter=strength)
        return train_transform(augment, 64)(cat, 5)

    assert torch.equal(changed(0), changed(0.3)) == (rand_augment is not None)


def test_crop_and_flip_alone_are_crop_and_flip(cat):
    whole = {"crop_scale": (1.0, 1.0), **OFF}
    square = cat.crop((0, 0, 300, 300))
    images = [
        train_transform(Augment(hflip=flip, **whole), 300)(square, seed)
        for seed in range(20)
        for flip in (0, 1)
    ]
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)
    # A crop of the whole area has another aspect unless it does not fit, which is the usual case.
    same = [torch.equal(image, pixels) for image in images[0::2]]
    assert any(same)
    assert torch.equal(images[2 * same.index(True) + 1], pixels.flip(2))


@pytest.mark.parametrize(("size", "crop"), [(224, 0.875), (96, 0.875), (64, 1.0)])
def test_evaluation_is_the_published_resize_and_crop(cat, size, crop):
    transform = eval_transform(Augment(eval_crop=crop), size)
    expected = tv.resize(cat, int(size / crop), InterpolationMode.BICUBIC)
    expected = tv.pil_to_tensor(tv.center_crop(expected, size))
    assert torch.equal(transform(cat), expected)
    assert torch.equal(transform(cat, 7), expected)
    assert not transform.random


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (900, 2)])
def test_odd_shapes_get_through(shape):
    image = Image.fromarray(np.full((*shape, 3), 99, np.uint8))
    assert eval_transform(Augment(), 32)(image).shape == (3, 32, 32)
    for seed in range(5):
        assert train_transform(Augment(), 32)(image, seed).shape == (3, 32, 32)


def test_transforms_can_be_pickled(cat):
    import pickle

    transform = train_transform(Augment(), 48)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(cat, 3), transform(cat, 3))


@pytest.mark.parametrize("size", [0, 2.5, True])
def test_wrong_size(size):
    with pytest.raises(NaturalImagesValueError, match="size"):
        train_transform(Augment(), size)


def test_everything_off_normalises_only(batch):
    augment = Augment(**OFF)
    result = BatchAugment(augment, 4)(batch, torch.Generator().manual_seed(0))
    expected = tv.normalize(batch["images"] / 255, augment.mean, augment.std)
    torch.testing.assert_close(result["images"], expected, rtol=0, atol=1e-5)
    assert torch.equal(result["targets"], torch.eye(4)[batch["classes"]])
    assert torch.equal(result["classes"], batch["classes"])


def test_batch_follows_the_generator_and_leaves_the_process_alone(batch):
    function = BatchAugment(Augment(), 4)
    original = batch["images"].clone()
    before = states()
    results = [function(batch, torch.Generator().manual_seed(s)) for s in (1, 2, 1)]
    assert states() == before
    assert torch.equal(batch["images"], original)
    assert torch.equal(results[0]["images"], results[2]["images"])
    assert torch.equal(results[0]["targets"], results[2]["targets"])
    assert not torch.equal(results[0]["images"], results[1]["images"])


def test_targets_sum_to_one_and_both_kinds_of_mixing_occur(batch):
    augment = Augment(erase_probability=0)
    function, generator = BatchAugment(augment, 4), torch.Generator().manual_seed(0)
    plain = normalise(batch["images"], augment)
    mixed = cut = 0
    for _ in range(40):
        result = function(batch, generator)
        torch.testing.assert_close(result["targets"].sum(1), torch.ones(8))
        assert result["targets"].min() > 0  # smoothed
        # A cut image has pixels of either image, a mixed one hardly any.
        kept = (result["images"] == plain) | (result["images"] == plain.flip(0))
        cut += bool(kept.all())
        mixed += bool(kept.float().mean() < 0.2)
    assert cut + mixed == 40
    assert 8 <= cut <= 32


def test_smoothing_is_that_of_cross_entropy(batch):
    logits = torch.randn(8, 4, generator=torch.manual_seed(1))
    function = BatchAugment(Augment(**{**OFF, "label_smoothing": 0.1}), 4)
    targets = function(batch, torch.Generator())["targets"]
    expected = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(logits, batch["classes"])
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, targets), expected)


def test_erasing_reaches_its_share_and_is_noise():
    augment = Augment(**{**OFF, "erase_probability": 0.25})
    images = torch.full((400, 3, 32, 32), 128, dtype=torch.uint8)
    batch = {"images": images, "classes": torch.zeros(400, dtype=torch.int64)}
    result = BatchAugment(augment, 2)(batch, torch.Generator().manual_seed(0))["images"]
    erased = result != normalise(images, augment)
    touched = erased.flatten(1).any(1).float().mean()
    assert 0.17 < touched < 0.33
    assert abs(result[erased].std() - 1) < 0.05


def test_odd_batch_cannot_be_mixed(batch):
    odd = {name: tensor[:5] for name, tensor in batch.items()}
    with pytest.raises(NaturalImagesValueError, match=r"'mixup'.*even number.*got 5"):
        BatchAugment(Augment(), 4)(odd, torch.Generator())
    BatchAugment(Augment(**OFF), 4)(odd, torch.Generator())
