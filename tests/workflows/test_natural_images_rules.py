"""The workflows of natural images without running them: lint, dry runs, configuration."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = [
    path
    for name in ("imagenet", "mae", "natural_images")
    for path in ROOT.glob(f"workflows/{name}/**/*.smk")
]


def planned(run):
    """Numbers of jobs by rule in a dry run's table."""
    assert run.returncode == 0, run.stderr + run.stdout
    words = [line.split() for line in (run.stdout + run.stderr).splitlines()]
    return {
        word[0]: int(word[1])
        for word in words
        if len(word) == 2 and word[0].startswith(("imagenet_", "mae_")) and word[1].isdigit()
    }


def configured(tmp_path, workflow, **changes):
    config = yaml.safe_load((ROOT / "config" / f"{workflow}.yaml").read_text())
    config[workflow] |= changes
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_every_job_logs_is_measured_and_has_threads():
    found = 0
    for file in RULES:
        for rule in ("\n" + file.read_text()).split("\nrule ")[1:]:
            found += 1
            for directive in ("log:", "benchmark:", "threads:", "shell:"):
                assert directive in rule, f"{file.name}: {rule.splitlines()[0]} lacks {directive}"
    assert found >= 7


def test_train_plans_three_models_and_their_comparison(snakemake, tmp_path):
    jobs = planned(snakemake("-n", "imagenet_train", folder=tmp_path))
    assert jobs["imagenet_digits"] == jobs["imagenet_compare"] == 1
    assert jobs["imagenet_train_model"] == jobs["imagenet_evaluate"] == 3


def test_eval_of_a_checkpoint_trains_nothing(snakemake, tmp_path):
    (tmp_path / "model.ckpt").touch()
    (tmp_path / "images").mkdir()
    config = configured(
        tmp_path, "imagenet", data="images", evaluate={"checkpoint": "model.ckpt", "limit": 100}
    )
    run = snakemake("-n", "-p", "--configfile", config, "--", "imagenet_eval", folder=tmp_path)
    assert planned(run) == {"imagenet_eval": 1, "imagenet_evaluate": 1}
    assert "natural-images evaluate model.ckpt images" in run.stdout + run.stderr
    assert "--limit 100" in run.stdout + run.stderr


def test_pretraining_stops_before_classifiers(snakemake, tmp_path):
    jobs = planned(snakemake("-n", "mae_pretrain", folder=tmp_path))
    assert jobs == {"mae_digits": 1, "mae_pretrain": 1, "mae_pretrain_model": 1}


def test_probe_has_a_random_one_beside_it(snakemake, tmp_path):
    run = snakemake("-n", "-p", "mae_probe", folder=tmp_path)
    assert planned(run)["mae_train_classifier"] == 2
    assert "--initial random" in run.stdout + run.stderr
    jobs = planned(snakemake("-n", "mae_finetune", folder=tmp_path))
    assert jobs["mae_train_classifier"] == 1


@pytest.mark.parametrize(
    ("workflow", "changes", "named"),
    [
        ("imagenet", {"experimnets": []}, "experimnets"),
        ("imagenet", {"evaluate": {"weights": "average"}}, "average"),
        ("mae", {"probe": 3}, "probe"),
    ],
)
def test_wrong_configuration_is_named(snakemake, tmp_path, workflow, changes, named):
    config = configured(tmp_path, workflow, **changes)
    run = snakemake("-n", "--configfile", config, "--", f"{workflow}_train", folder=tmp_path)
    assert run.returncode != 0
    assert named in run.stdout + run.stderr


def test_two_experiments_of_one_name_are_refused(snakemake, tmp_path):
    twice = [{"name": "one", "config": "config/imagenet/digits.yaml"}] * 2
    config = configured(tmp_path, "imagenet", experiments=twice)
    run = snakemake("-n", "--configfile", config, "--", "imagenet_train", folder=tmp_path)
    assert "expected different names" in run.stdout + run.stderr


def test_changed_keys_become_options(snakemake, tmp_path):
    one = {"name": "one", "config": "config/imagenet/digits.yaml", "set": {"recipe.epochs": 2}}
    config = configured(tmp_path, "imagenet", experiments=[one])
    run = snakemake("-n", "-p", "--configfile", config, "--", "imagenet_train", folder=tmp_path)
    assert "--set recipe.epochs=2" in run.stdout + run.stderr


def test_a_changed_base_starts_another_run(snakemake, tmp_path):
    (tmp_path / "base.yaml").write_text("recipe: {epochs: 1}\n")
    (tmp_path / "child.yaml").write_text("base: base.yaml\n")
    one = {"name": "one", "config": "child.yaml"}
    config = configured(tmp_path, "imagenet", experiments=[one])
    folders = set()
    for epochs in (1, 2):
        (tmp_path / "base.yaml").write_text(f"recipe: {{epochs: {epochs}}}\n")
        run = snakemake("-n", "-p", "--configfile", config, "--", "imagenet_train", folder=tmp_path)
        assert run.returncode == 0, run.stderr
        folders.add((run.stdout + run.stderr).split("--checkpoints ")[1].split()[0])
    assert len(folders) == 2
