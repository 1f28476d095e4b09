"""Probe what an encoder has learned: a linear classifier on its frozen features."""

from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from fastvim.classifier import ImageClassifier
from natural_images.classification.train import fit_classifier, save_classifier
from natural_images.experiment import RANDOM, expect_no_averaging, expect_task
from natural_images.masked.encoder import classifier_from, digest, untrained_classifier
from natural_images.output_folder import check_places
from natural_images.splits import open_splits

if TYPE_CHECKING:
    from natural_images.experiment import Experiment

EPS = 1e-6
HEAD_STD = 0.01


class LinearProbe(nn.Module):
    """A frozen backbone, its pooled features normalised by the batch, and one linear layer.

    The batch norm has no weights of its own (He et al. 2022), and the backbone stays in evaluation
    mode.
    """

    def __init__(self, backbone: ImageClassifier, classes: int) -> None:
        super().__init__()
        backbone.reset_classifier(0)
        self.backbone = backbone.requires_grad_(False)
        width = backbone.head_hidden_size
        linear = nn.Linear(width, classes)
        nn.init.trunc_normal_(linear.weight, std=HEAD_STD)
        nn.init.zeros_(linear.bias)
        self.head = nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=EPS), linear)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (batch, class), from images (batch, channel, height, width)."""
        with torch.no_grad():
            features = self.backbone(images)
        return self.head(features)

    def train(self, mode: bool = True) -> Self:
        """Set the head's mode; the backbone's is always that of evaluation."""
        super().train(mode)
        self.backbone.eval()
        return self

    def classifier(self) -> ImageClassifier:
        """The backbone with a head that does what batch norm and linear layer do in evaluation."""
        norm, linear = self.head
        assert isinstance(norm, nn.BatchNorm1d)
        assert isinstance(linear, nn.Linear)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        # On the CPU: Apple's GPUs have no double precision.
        mean, variance, weight, bias = (
            tensor.detach().cpu().double()
            for tensor in (norm.running_mean, norm.running_var, linear.weight, linear.bias)
        )
        weight = weight * (variance + EPS).rsqrt()
        bias = bias - weight @ mean
        self.backbone.reset_classifier(linear.out_features)
        head = self.backbone.get_classifier()
        assert isinstance(head, nn.Linear)
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)
        return self.backbone


def probe(experiment: "Experiment", output: Path, checkpoints: Path) -> None:
    """Train a linear classifier on frozen features, and write both as one classifier's folder.

    Parameters
    ----------
    experiment
        Of task "probe"; ``initial`` is a folder of `pretrain`, a published checkpoint file, or
        "random" for weights that were never trained.
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
    expect_task(experiment, "probe")
    expect_no_averaging(experiment)
    check_places(output, checkpoints)
    splits = open_splits(experiment, checkpoints)
    classes = len(splits.classes)
    torch.manual_seed(experiment.recipe.seed)
    untrained = experiment.initial == Path(RANDOM)
    backbone = (untrained_classifier if untrained else classifier_from)(experiment, classes)
    model = LinearProbe(backbone, classes)
    start = RANDOM if untrained else digest(experiment)
    last = fit_classifier(model, splits, experiment, checkpoints, initial=start)
    if last is not None:
        save_classifier(model.classifier(), splits, experiment, output)
