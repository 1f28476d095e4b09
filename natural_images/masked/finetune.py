"""Fine-tune a pre-trained encoder to classify images."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from natural_images.classification.train import averaged, fit_classifier, save_classifier
from natural_images.experiment import expect_task
from natural_images.masked.encoder import classifier_from, digest
from natural_images.output_folder import check_places
from natural_images.splits import open_splits

if TYPE_CHECKING:
    from natural_images.experiment import Experiment


def finetune(experiment: "Experiment", output: Path, checkpoints: Path) -> None:
    """Train all of an encoder and a new head on labelled images, and write the classifier's folder.

    The recipe's ``layer_decay`` lets blocks learn the slower the further they are from the head. A
    FastVim pools all patches where its pre-training pooled the kept ones and divided by their
    number without masking, so ``model.options.scaling_factor`` is the share that was kept: 0.25.

    Parameters
    ----------
    experiment
        Of task "finetune"; ``initial`` is a folder of `pretrain` or a published checkpoint file.
    output
        The model folder; appears when training has ended.
    checkpoints
        Folder of checkpoints, curves and the table of images that could not be decoded; a killed
        run resumes from it.

    Raises
    ------
    NaturalImagesValueError
        The experiment is for another command, a value in it does not fit model or machine, or
        `output` would replace what is no model.
    NaturalImagesDataError
        Images or weights are not what the experiment says.
    """
    expect_task(experiment, "finetune")
    check_places(output, checkpoints)
    splits = open_splits(experiment, checkpoints)
    torch.manual_seed(experiment.recipe.seed)
    model = classifier_from(experiment, len(splits.classes))
    last = fit_classifier(model, splits, experiment, checkpoints, initial=digest(experiment))
    if last is not None:
        save_classifier(model, splits, experiment, output, ema=averaged(experiment, last))
