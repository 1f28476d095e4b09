"""The workflows of natural images without training: dry runs, configuration, stand-ins."""

import os
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = [
    path
    for name in ("imagenet", "mae", "natural_images")
    for path in ROOT.glob(f"workflows/{name}/**/*.smk")
]


ONE = {"name": "one", "config": "config/imagenet/digits.yaml"}
STAND_IN = """#!{python}
import pathlib, sys, time

words = sys.argv[1:]
output = pathlib.Path(words[words.index("--output") + 1] if "--output" in words else words[1])
if output.suffix == ".md":
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("| model |\\n")
    output.with_suffix(".csv").touch()
else:
    if words[0] == "train":
        gpu = pathlib.Path("the_gpu")
        gpu.mkdir()  # fails where another training has it
        time.sleep(0.2)
        gpu.rmdir()
    output.mkdir(parents=True, exist_ok=True)
    (output / "made").touch()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A `natural-images` that writes folders at once, so that workflows run and are remembered."""
    command = tmp_path / "bin" / "natural-images"
    command.parent.mkdir()
    command.write_text(STAND_IN.format(python=sys.executable))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)


def ran(run):
    assert run.returncode == 0, run.stdout + run.stderr


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
    assert "imagenet_tabulate" not in jobs


def test_eval_of_a_checkpoint_trains_nothing(snakemake, tmp_path):
    (tmp_path / "model.ckpt").touch()
    (tmp_path / "images").mkdir()
    config = configured(
        tmp_path, "imagenet", data="images", evaluate={"checkpoint": "model.ckpt", "limit": 100}
    )
    run = snakemake("-n", "-p", "--configfile", config, "--", "imagenet_eval", folder=tmp_path)
    jobs = ("imagenet_eval", "imagenet_evaluate", "imagenet_tabulate")
    assert planned(run) == dict.fromkeys(jobs, 1)
    assert "natural-images evaluate model.ckpt images" in run.stdout + run.stderr
    assert "--limit 100" in run.stdout + run.stderr


@pytest.mark.parametrize(
    ("changes", "evaluations"),
    [
        ({"data": "imagenet-a"}, 1),
        ({"data": "imagenet-a", "evaluate": {"checkpoint": "results/imagenet/models/one"}}, 1),
        ({"evaluate": {"data": {"a": "imagenet-a", "r": "imagenet-r"}}}, 2),
        ({"experiments": [{**ONE, "set": {"recipe.epochs": 2}}]}, 0),
        ({"gpus": 2}, 0),
    ],
)
def test_eval_never_trains_a_model_that_exists(snakemake, tmp_path, stand_in, changes, evaluations):
    config = configured(tmp_path, "imagenet", experiments=[ONE])
    ran(snakemake("--configfile", config, "--", "imagenet_train", folder=tmp_path))
    weights = tmp_path / "results" / "imagenet" / "models" / "one" / "made"
    trained = weights.stat().st_mtime_ns
    for name in ("imagenet-a", "imagenet-r"):
        (tmp_path / name).mkdir()
    config = configured(tmp_path, "imagenet", **{"experiments": [ONE], **changes})
    jobs = planned(snakemake("-n", "--configfile", config, "--", "imagenet_eval", folder=tmp_path))
    assert "imagenet_train_model" not in jobs
    assert jobs.get("imagenet_evaluate", 0) == evaluations
    ran(snakemake("--configfile", config, "--", "imagenet_eval", folder=tmp_path))
    assert weights.stat().st_mtime_ns == trained


def test_another_workflow_s_training_retrains_nothing(snakemake, tmp_path, stand_in):
    config = configured(tmp_path, "imagenet", experiments=[ONE])
    ran(snakemake("--configfile", config, "--", "imagenet_train", folder=tmp_path))
    changed = [{**ONE, "set": {"recipe.epochs": 2}}]
    config = configured(tmp_path, "imagenet", experiments=changed)
    targets = ("imagenet_eval", "ade20k_train")
    run = snakemake("-n", "--configfile", config, "--", *targets, folder=tmp_path)
    assert "imagenet_train_model" not in planned(run)
    assert "ade20k_train" in run.stdout + run.stderr


def test_eval_trains_a_model_that_is_missing(snakemake, tmp_path):
    config = configured(tmp_path, "imagenet", experiments=[ONE])
    jobs = planned(snakemake("-n", "--configfile", config, "--", "imagenet_eval", folder=tmp_path))
    assert jobs["imagenet_train_model"] == 1


def test_train_follows_its_experiment_and_no_other_images(snakemake, tmp_path, stand_in):
    config = configured(tmp_path, "imagenet", experiments=[ONE])
    ran(snakemake("--configfile", config, "--", "imagenet_train", folder=tmp_path))

    def jobs(**changes):
        config = configured(tmp_path, "imagenet", **{"experiments": [ONE], **changes})
        run = snakemake("-n", "--configfile", config, "--", "imagenet_train", folder=tmp_path)
        return planned(run)

    assert jobs(gpus=2) == jobs(evaluate={"data": {"a": "imagenet-a"}}) == {}
    again = jobs(experiments=[{**ONE, "set": {"recipe.epochs": 2}}])
    assert again["imagenet_train_model"] == again["imagenet_evaluate"] == 1
    (tmp_path / "data/digits/new").touch()  # as when something else is put beside the classes
    assert "imagenet_train_model" not in jobs()


def test_each_data_set_has_its_evaluations_and_its_table(snakemake, tmp_path, stand_in):
    for name in ("imagenet-a", "imagenet-r"):
        (tmp_path / name).mkdir()
    data = {"a": "imagenet-a", "r": "imagenet-r"}
    config = configured(tmp_path, "imagenet", experiments=[ONE], evaluate={"data": data})
    run = snakemake("--configfile", config, "--", "imagenet_eval", folder=tmp_path)
    ran(run)
    assert run.stdout.count("| model |") == 2
    results = tmp_path / "results" / "imagenet" / "evaluations"
    assert {path.name for path in results.iterdir()} == {"one", "a.md", "a.csv", "r.md", "r.csv"}
    assert {path.name for path in (results / "one").iterdir()} == {"a", "r"}


def test_options_of_an_evaluation_reach_it(snakemake, tmp_path):
    (tmp_path / "model.ckpt").touch()
    evaluate = {
        "checkpoint": "model.ckpt",
        "model_options": {"scaling_factor": 0.25},
        "precision": "bfloat16",
        "batch_size": 256,
        "crop": 1.0,
        "all_classes": True,
        "weights": "ema",
    }
    config = configured(tmp_path, "imagenet", evaluate=evaluate)
    run = snakemake("-n", "-p", "--configfile", config, "--", "imagenet_eval", folder=tmp_path)
    for option in (
        "--model-option scaling_factor=0.25",
        "--precision bfloat16",
        "--batch-size 256",
        "--crop 1.0",
        "--all-classes",
        "--weights ema",
        "--workers 2",
        "evaluations/checkpoint/val/ema",
    ):
        assert option in run.stdout + run.stderr, option


def test_trainings_do_not_share_a_gpu(snakemake, tmp_path, stand_in):
    ran(snakemake("--cores", "64", "imagenet_train", folder=tmp_path))


@pytest.mark.parametrize("workflow", ["imagenet", "mae"])
def test_several_gpus_have_a_process_each(snakemake, tmp_path, workflow):
    config = configured(tmp_path, workflow, gpus=2)
    target = {"imagenet": "imagenet_train", "mae": "mae_finetune"}[workflow]
    run = snakemake("-n", "-p", "--configfile", config, "--", target, folder=tmp_path)
    text = run.stdout + run.stderr
    trainings = {"imagenet": ("train",), "mae": ("pretrain", "finetune")}[workflow]
    for command in trainings:
        launched = "torchrun --standalone --no-python --nproc-per-node 2 natural-images"
        assert f"{launched} {command} " in text
    assert "torchrun" not in text.split("natural-images evaluate")[1]


def test_pretraining_stops_before_classifiers(snakemake, tmp_path):
    jobs = planned(snakemake("-n", "mae_pretrain", folder=tmp_path))
    assert jobs == {"mae_digits": 1, "mae_pretrain": 1, "mae_pretrain_model": 1}


def test_probe_has_a_random_one_beside_it(snakemake, tmp_path):
    run = snakemake("-n", "-p", "mae_probe", folder=tmp_path)
    assert planned(run)["mae_train_classifier"] == 2
    assert "--initial random" in run.stdout + run.stderr
    jobs = planned(snakemake("-n", "mae_finetune", folder=tmp_path))
    assert jobs["mae_train_classifier"] == 1


def test_classifiers_start_from_an_encoder_that_is_given(snakemake, tmp_path):
    (tmp_path / "encoder.pth").touch()
    config = configured(tmp_path, "mae", initial="encoder.pth", set={"probe": {"recipe.epochs": 3}})
    targets = ("mae_finetune", "mae_probe")
    run = snakemake("-n", "-p", "--configfile", config, "--", *targets, folder=tmp_path)
    jobs, text = planned(run), run.stdout + run.stderr
    assert "mae_pretrain_model" not in jobs
    assert jobs["mae_train_classifier"] == 3
    assert text.count("--initial encoder.pth") == 2
    assert text.count("--initial random") == 1
    assert text.count("--set recipe.epochs=3") == 2


def test_other_weights_or_keys_start_another_run(snakemake, tmp_path):
    (tmp_path / "encoder.pth").touch()
    folders = set()
    for changes in (
        {},
        {"initial": "encoder.pth"},
        {"set": {"finetune": {"recipe.epochs": 3}}},
        {"set": {"pretrain": {"recipe.epochs": 3}}},
    ):
        config = configured(tmp_path, "mae", **changes)
        run = snakemake("-n", "-p", "--configfile", config, "--", "mae_finetune", folder=tmp_path)
        words = (run.stdout + run.stderr).split("checkpoints/finetune-")
        folders.add(words[1].split()[0])
    assert len(folders) == 4


@pytest.mark.parametrize(
    ("workflow", "changes", "named"),
    [
        ("imagenet", {"experimnets": []}, "experimnets"),
        ("imagenet", {"evaluate": {"weights": "average"}}, "average"),
        ("imagenet", {"evaluate": {"data": {"a/b": "images"}}}, "a/b"),
        ("imagenet", {"evaluate": {"precision": "fp8"}}, "fp8"),
        ("imagenet", {"gpus": -1}, "-1"),
        ("mae", {"probe": 3}, "probe"),
        ("mae", {"set": {"probes": {}}}, "probes"),
    ],
)
def test_wrong_configuration_is_named(snakemake, tmp_path, workflow, changes, named):
    config = configured(tmp_path, workflow, **changes)
    run = snakemake("-n", "--configfile", config, "--", f"{workflow}_train", folder=tmp_path)
    assert run.returncode != 0
    assert named in run.stdout + run.stderr


def test_two_experiments_of_one_name_are_refused(snakemake, tmp_path):
    config = configured(tmp_path, "imagenet", experiments=[ONE, ONE])
    run = snakemake("-n", "--configfile", config, "--", "imagenet_train", folder=tmp_path)
    assert "expected different names" in run.stdout + run.stderr


def test_changed_keys_become_options(snakemake, tmp_path):
    one = {**ONE, "set": {"recipe.epochs": 2}}
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
