"""Experiments from YAML: inheritance, overrides, and every value checked by name."""

from pathlib import Path

import pytest

from natural_images.config_file import parse_options
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError
from natural_images.experiment import expect_task, load_experiment

CONFIG = Path(__file__).parents[2] / "config"
BASES = {"supervised", "pretrain", "finetune", "probe"}
EXPERIMENTS = sorted(
    path
    for folder in ("imagenet", "mae")
    for path in (CONFIG / folder).glob("*.yaml")
    if path.stem not in BASES
)

MINIMAL = """\
task: supervised
model: {name: fastvim_tiny_patch16_224, options: {depth: 4, embed_dim: 64}}
data: {path: images, classes: 10}
recipe: {epochs: 20, warmup_epochs: 2, batch_size: 128}
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="experiment.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_every_configuration_loads_and_says_how_to_run_it():
    assert len(EXPERIMENTS) >= 20
    for path in EXPERIMENTS:
        experiment = load_experiment(path)
        command = {"supervised": "train"}.get(experiment.task, experiment.task)
        header = path.read_text().split("\n\n")[0]
        if "digits_" not in path.name or "natural-images" in header:
            written = f"natural-images {command}"
            assert written in header, path
            assert f"{path.parent.name}/{path.name}" in header, path


@pytest.mark.parametrize(
    ("name", "drop_path", "top1"),
    [
        ("fastvim_tiny", 0.05, 75.4),
        ("fastvim_small", 0.05, 81.1),
        ("fastvim_base", 0.4, 82.6),
        ("vim_base", 0.4, 82.6),
    ],
)
def test_supervised_recipe(name, drop_path, top1):
    path = CONFIG / "imagenet" / f"{name}.yaml"
    experiment = load_experiment(path)
    recipe, augment = experiment.recipe, experiment.augment
    assert f"{top1} % top-1" in path.read_text()
    assert experiment.model.options["drop_path_rate"] == drop_path
    assert (recipe.epochs, recipe.warmup_epochs, recipe.batch_size) == (300, 5, 1024)
    assert recipe.lr == pytest.approx(1e-3 * 1024 / 512)
    assert (recipe.warmup_lr, recipe.min_lr, recipe.warmup_endpoint) == (1e-6, 1e-5, True)
    assert (recipe.weight_decay, recipe.weight_decay_end) == (0.05, 0.05)
    assert (recipe.ema_decay, recipe.layer_decay, recipe.decay) == (0.9999, None, "matrices")
    assert (augment.mixup, augment.cutmix, augment.mixup_switch) == (0.8, 1.0, 0.5)
    assert (augment.label_smoothing, augment.color_jitter) == (0.1, 0.3)
    assert augment.rand_augment == "rand-m9-mstd0.5-inc1"
    assert (augment.erase_probability, augment.erase_mode) == (0.25, "pixel")
    assert (augment.interpolation, augment.eval_crop) == ("bicubic", 0.875)


@pytest.mark.parametrize("size", ["base", "large", "huge"])
@pytest.mark.parametrize("family", ["fastvim", "vim"])
def test_pretraining_recipe(family, size):
    experiment = load_experiment(CONFIG / "mae" / f"pretrain_{family}_{size}.yaml")
    recipe, augment = experiment.recipe, experiment.augment
    assert (recipe.epochs, recipe.warmup_epochs, recipe.batch_size) == (1600, 40, 4096)
    assert recipe.lr == pytest.approx(1.5e-4 * 16)
    assert (recipe.betas, recipe.decay, recipe.weight_decay) == ((0.9, 0.95), "all", 0.05)
    assert (recipe.warmup_lr, recipe.min_lr, recipe.warmup_endpoint) == (0, 0, False)
    assert experiment.masking.mask_ratio == 0.75
    assert experiment.model.options.get("drop_path_rate", 0) == 0
    assert (augment.crop_scale, augment.hflip) == ((0.2, 1.0), 0.5)
    assert (augment.rand_augment, augment.color_jitter, augment.mixup) == (None, 0, 0)


@pytest.mark.parametrize(
    ("name", "epochs", "base_lr", "layer_decay", "clip", "size"),
    [
        ("fastvim_base", 100, 5e-4, 0.65, None, 224),
        ("fastvim_large", 50, 1e-3, 0.75, None, 224),
        ("fastvim_huge", 50, 1e-3, 0.75, None, 224),
        ("fastvim_huge_448", 50, 1e-3, 0.75, 3.0, 448),
        ("vim_base", 100, 5e-4, 0.65, None, 224),
        ("vim_large", 50, 1e-3, 0.75, None, 224),
    ],
)
def test_finetuning_recipe(name, epochs, base_lr, layer_decay, clip, size):
    experiment = load_experiment(CONFIG / "mae" / f"finetune_{name}.yaml")
    recipe, augment = experiment.recipe, experiment.augment
    assert (recipe.epochs, recipe.warmup_epochs, recipe.batch_size) == (epochs, 5, 1024)
    assert recipe.lr == pytest.approx(base_lr * 1024 / 256)
    assert (recipe.layer_decay, recipe.clip_grad_norm) == (layer_decay, clip)
    assert (recipe.betas, recipe.min_lr, recipe.ema_decay) == ((0.9, 0.999), 1e-5, None)
    assert (experiment.data.size, augment.eval_crop) == (size, 1.0 if size > 224 else 0.875)
    assert (augment.mixup, augment.cutmix, augment.label_smoothing) == (0.8, 1.0, 0.1)
    assert experiment.model.options["drop_path_rate"] == 0.3
    fast = name.startswith("fastvim")
    assert experiment.model.options.get("scaling_factor") == (0.25 if fast else None)
    assert experiment.shifted_positions is not fast


@pytest.mark.parametrize("name", ["fastvim_base", "fastvim_large", "fastvim_huge", "vim_base"])
def test_probe_recipe(name):
    experiment = load_experiment(CONFIG / "mae" / f"probe_{name}.yaml")
    recipe, augment = experiment.recipe, experiment.augment
    assert (recipe.epochs, recipe.warmup_epochs, recipe.batch_size) == (90, 10, 4096)
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("sgd", 0.9, 0)
    assert recipe.lr == pytest.approx(0.1 * 16)
    assert (augment.rand_augment, augment.mixup, augment.label_smoothing) == (None, 0, 0)


def test_a_file_inherits_and_the_nearest_value_wins(write):
    write(MINIMAL, "base.yaml")
    path = write("base: base.yaml\nmodel: {options: {depth: 2}}\nrecipe: {epochs: 30}\n")
    experiment = load_experiment(path, ["recipe.base_lr=1e-4", "data.path=elsewhere"])
    assert experiment.model.name == "fastvim_tiny_patch16_224"
    assert experiment.model.options == {"depth": 2, "embed_dim": 64}
    assert experiment.recipe.epochs == 30
    assert experiment.recipe.batch_size == 128
    assert experiment.recipe.base_lr == 1e-4
    assert experiment.data.path == Path("elsewhere")


def test_a_file_that_inherits_from_itself(write):
    write("base: b.yaml\n", "a.yaml")
    with pytest.raises(NaturalImagesDataError, match="inherits from itself"):
        load_experiment(write("base: a.yaml\n", "b.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tsk: supervised", r"experiment.yaml: unknown key 'tsk'. Did you mean task"),
        ("recipe: {epoch: 3}", r"experiment.yaml: unknown key 'recipe.epoch'. Did you mean epochs"),
        ("augment: {mix_up: 3}", r"unknown key 'augment.mix_up'. Did you mean mixup"),
        ("data: {sizes: 3}", r"unknown key 'data.sizes'. Did you mean size"),
        ("recipe: 3", r"recipe: expected keys among .*, got 3"),
        ("task: pretrains", r"task: expected one of .*did you mean pretrain.*got 'pretrains'"),
        ("recipe: {epochs: 0}", r"recipe: Recipe key 'epochs': expected a whole number from 1"),
        ("augment: {hflip: 2}", r"augment: Augment key 'hflip': expected a probability"),
        ("data: {size: 0}", r"data.size: expected a whole number from 1, got 0"),
        ("masking: {mask_ratio: 1}", r"masking.mask_ratio: expected a number between 0 and 1"),
        ("model: {name: null}", r"model.name: expected a model's name, got None"),
        ("task: finetune", r"initial: expected the folder of a pre-training run"),
        ("task: finetune\ninitial: random", r"only a probe starts from 'random' weights"),
        ("initial: mae", r"initial: expected none for task supervised, got 'mae'"),
        ("- 3", r"expected a mapping of keys to values, got list"),
        ("a: [", r"not YAML"),
    ],
)
def test_wrong_values_name_file_and_key(write, text, message):
    write(MINIMAL, "base.yaml")
    inherits = "" if text[:2] in ("- ", "a:") else "base: base.yaml\n"
    path = write(f"{inherits}{text}\n")
    with pytest.raises((NaturalImagesValueError, NaturalImagesDataError), match=message) as error:
        load_experiment(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["recipe.epochs", "=3", "recipe.=3"])
def test_overrides_are_keys_and_values(write, text):
    with pytest.raises(NaturalImagesValueError, match=r"--set: expected `section.key=value`"):
        load_experiment(write(MINIMAL), [text])


@pytest.mark.parametrize("value", ["[x", "a: b: c", "2026-13-01"])
def test_an_override_that_is_no_yaml(write, value):
    with pytest.raises(
        NaturalImagesValueError, match=r"^--set data.path: .* JSON or YAML"
    ) as error:
        load_experiment(write(MINIMAL), [f"data.path={value}"])
    assert repr(value) in str(error.value)
    assert "\n" not in str(error.value)


def test_options_of_a_model():
    texts = ["scaling_factor=0.25", 'scan="a=b"', "rotate=true"]
    expected = {"scaling_factor": 0.25, "scan": "a=b", "rotate": True}
    assert parse_options(texts, "--model-option") == expected
    for text in ("scaling_factor", "=1", "scan=rows"):
        with pytest.raises(NaturalImagesValueError, match=f"^--model-option: .*'{text}'"):
            parse_options([text], "--model-option")


def test_an_unknown_override_is_not_blamed_on_the_file(write):
    with pytest.raises(NaturalImagesValueError, match=r"^--set: unknown key 'recipe.epoch'"):
        load_experiment(write(MINIMAL), ["recipe.epoch=3"])


def test_a_missing_file_says_where_the_published_ones_are(tmp_path):
    with pytest.raises(NaturalImagesDataError, match="config/imagenet, mae, ade20k and coco"):
        load_experiment(tmp_path / "nowhere.yaml")


def test_an_experiment_of_another_command(write):
    experiment = load_experiment(write(MINIMAL))
    expect_task(experiment, "supervised")
    with pytest.raises(NaturalImagesValueError, match="Run it with `natural-images train`"):
        expect_task(experiment, "pretrain")
