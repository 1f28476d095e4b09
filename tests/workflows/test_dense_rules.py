"""The workflows of segmentation and detection without running them."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMMANDS = {"ade20k": "segmentation", "coco": "detection"}
PICTURES = {"ade20k": "overlays", "coco": "pictures"}
RULES = [path for name in COMMANDS for path in ROOT.glob(f"workflows/{name}/**/*.smk")]

pytestmark = pytest.mark.parametrize("workflow", COMMANDS)


def planned(run, workflow):
    """Numbers of jobs by rule, its workflow's name left out, in a dry run's table."""
    assert run.returncode == 0, run.stderr + run.stdout
    words = [line.split() for line in (run.stdout + run.stderr).splitlines()]
    return {
        word[0].removeprefix(f"{workflow}_"): int(word[1])
        for word in words
        if len(word) == 2 and word[0].startswith(f"{workflow}_") and word[1].isdigit()
    }


def configured(tmp_path, workflow, **changes):
    config = yaml.safe_load((ROOT / "config" / f"{workflow}.yaml").read_text())
    config[workflow] |= changes
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_every_job_logs_is_measured_and_has_threads(workflow):
    files = [file for file in RULES if workflow in file.parts]
    files.append(ROOT / "workflows" / "natural_images" / "shapes.smk")
    found = 0
    for file in files:
        for rule in ("\n" + file.read_text()).split("\nrule ")[1:]:
            found += 1
            for directive in ("log:", "benchmark:", "threads:", "shell:"):
                assert directive in rule, f"{file.name}: {rule.splitlines()[0]} lacks {directive}"
    assert found == 3


def test_train_plans_shapes_a_model_and_its_evaluation(snakemake, tmp_path, workflow):
    run = snakemake("-n", "-p", f"{workflow}_train", folder=tmp_path)
    once = ("shapes", "train_model", "evaluate", "train")
    assert planned(run, workflow) == dict.fromkeys(once, 1)
    text = run.stdout + run.stderr
    assert f"natural-images shapes data/{workflow}_shapes" in text
    assert f"natural-images train-{COMMANDS[workflow]} " in text
    assert f"--data data/{workflow}_shapes/{workflow} " in text
    assert f"results/{workflow}/evaluations/fastvim/{PICTURES[workflow]}" in text


def test_eval_of_a_checkpoint_trains_nothing(snakemake, tmp_path, workflow):
    (tmp_path / "model.pth").touch()
    (tmp_path / "images").mkdir()
    config = configured(
        tmp_path, workflow, data="images", evaluate={"checkpoint": "model.pth", "limit": 100}
    )
    run = snakemake("-n", "-p", "--configfile", config, "--", f"{workflow}_eval", folder=tmp_path)
    assert planned(run, workflow) == {"eval": 1, "evaluate": 1}
    command = f"natural-images evaluate-{COMMANDS[workflow]} model.pth images"
    assert command in run.stdout + run.stderr
    assert "--limit 100" in run.stdout + run.stderr


def test_eval_alone_trains_what_it_needs(snakemake, tmp_path, workflow):
    jobs = planned(snakemake("-n", f"{workflow}_eval", folder=tmp_path), workflow)
    assert jobs == dict.fromkeys(("shapes", "train_model", "evaluate", "eval"), 1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"experimnets": []}, "experimnets"),
        ({"experiments": []}, "experiments"),
        ({"evaluate": {"limit": 0}}, "minimum"),
        ({"experiments": [{"name": "a", "config": "nowhere.yaml"}]}, "nowhere.yaml"),
    ],
)
def test_wrong_configuration_is_named(snakemake, tmp_path, workflow, changes, named):
    config = configured(tmp_path, workflow, **changes)
    run = snakemake("-n", "--configfile", config, "--", f"{workflow}_train", folder=tmp_path)
    assert run.returncode != 0
    assert named in run.stdout + run.stderr


def test_changed_keys_become_options_and_another_run(snakemake, tmp_path, workflow):
    folders = set()
    for steps in (2, 3):
        one = {
            "name": "one",
            "config": f"config/{workflow}/shapes.yaml",
            "set": {"recipe.steps": steps},
        }
        config = configured(tmp_path, workflow, experiments=[one])
        run = snakemake(
            "-n", "-p", "--configfile", config, "--", f"{workflow}_train", folder=tmp_path
        )
        text = run.stdout + run.stderr
        assert f"--set recipe.steps={steps}" in text
        folders.add(text.split("--checkpoints ")[1].split()[0])
    assert len(folders) == 2
