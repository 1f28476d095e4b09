from dataclasses import fields

import pytest

from fastvim.training import Recipe


def test_defaults_are_the_jump_cp_recipe():
    recipe = Recipe()
    assert (recipe.epochs, recipe.warmup_epochs, recipe.batch_size) == (100, 10, 256)
    assert (recipe.lr, recipe.min_lr) == (1e-3, 1e-6)
    assert (recipe.weight_decay, recipe.weight_decay_end) == (0.04, 0.4)


def test_learning_rate_scales_with_the_batch():
    assert Recipe(batch_size=1024, base_lr=1e-3, lr_scale_batch=512).lr == 2e-3


def test_betas_from_a_list_become_a_tuple():
    assert Recipe(betas=[0.9, 0.95]) == Recipe(betas=(0.9, 0.95))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("epochs", 0, "a whole number from 1, got 0"),
        ("epochs", 1.0, "a whole number from 1, got 1.0"),
        ("epochs", True, "a whole number from 1, got True"),
        ("warmup_epochs", -1, "a whole number from 0, got -1"),
        ("warmup_epochs", 101, "at most epochs (100), got 101"),
        ("batch_size", "256", "a whole number from 1, got '256'"),
        ("base_lr", "1e-3", "YAML needs 1.0e-3, not 1e-3"),
        ("base_lr", 0.0, "a number above 0, got 0.0"),
        ("base_lr", float("nan"), "a number above 0, got nan"),
        ("lr_scale_batch", 0, "a whole number from 1, got 0"),
        ("min_lr", 0.1, "at most the peak rate (0.001), got 0.1"),
        ("warmup_lr", -1e-6, "a number from 0, got -1e-06"),
        ("warmup_lr", 0.1, "at most the peak rate (0.001), got 0.1"),
        ("warmup_endpoint", "no", "true or false, got 'no'."),
        ("optimizer", "lars", "one of ['adamw', 'sgd'], got 'lars'."),
        ("momentum", 1.0, "a number in [0, 1), got 1.0"),
        ("decay", None, "one of ['matrices', 'all'], got None"),
        ("layer_decay", 0, "None or a number in (0, 1], got 0"),
        ("layer_decay", 1.5, "None or a number in (0, 1], got 1.5"),
        ("layer_decay", "65e-2", "without quotes"),
        ("ema_decay", 0.0, "None or a number in (0, 1), got 0.0"),
        ("ema_decay", 1, "None or a number in (0, 1), got 1"),
        ("weight_decay", -0.1, "a number from 0, got -0.1"),
        ("weight_decay_end", float("inf"), "a number from 0, got inf"),
        ("betas", (0.9, 1.0), "two numbers in [0, 1), got (0.9, 1.0)"),
        ("betas", 0.9, "two numbers in [0, 1), got 0.9"),
        ("clip_grad_norm", 0, "None or above 0, got 0"),
        ("precision", "fp32", "one of ['no', 'bf16', 'fp16'], got 'fp32'"),
        ("accumulation", 0, "a whole number from 1, got 0"),
        ("num_workers", 0, "a whole number from 1, got 0"),
        ("checkpoint_every_steps", 0, "a whole number from 1, got 0"),
        ("seed", -1, "a whole number from 0, got -1"),
        ("steps", 0, "None or a whole number from 1, got 0"),
        ("validate_every_steps", 1.5, "None or a whole number from 1, got 1.5"),
        ("schedule", "poly", "one of ['cosine', 'linear', 'steps'], got 'poly'."),
        ("milestones", [10], "none unless schedule is 'steps', got [10]"),
        ("undecayed", "norm", "a list of parts of parameter names, got 'norm'"),
        ("lr_scales", {"pos_embed": -1}, "a number from 0 by part of a parameter's name"),
    ],
)
def test_wrong_value_is_refused_by_its_key(key, value, expected):
    with pytest.raises(ValueError, match=f"Recipe key '{key}'") as error:
        Recipe(**{key: value})
    assert expected in str(error.value)


def test_layer_decay_has_its_own_rule_for_what_is_decayed():
    with pytest.raises(ValueError, match="'layer_decay': expected None where decay is 'all'"):
        Recipe(layer_decay=0.75, decay="all")


def test_warmup_in_steps_fits_the_run():
    with pytest.raises(ValueError, match=r"'warmup_steps': expected at most steps \(10\), got 11"):
        Recipe(steps=10, warmup_steps=11)


def test_layer_decay_goes_alone():
    with pytest.raises(ValueError, match="'layer_decay': expected None beside undecayed"):
        Recipe(layer_decay=0.75, undecayed=["norm"])


def test_a_wrong_word_gets_no_advice_on_numbers():
    for key in ("optimizer", "decay", "precision", "schedule", "warmup_endpoint"):
        with pytest.raises(ValueError, match=f"'{key}'") as error:
            Recipe(**{key: "adam"})
        assert "number" not in str(error.value)


def test_docstring_names_every_key():
    assert all(field.name in Recipe.__doc__ for field in fields(Recipe))
