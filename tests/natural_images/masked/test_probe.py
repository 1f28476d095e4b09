"""The linear probe: what is frozen, what is normalised, and the classifier that it becomes."""

import pytest
import torch

import fastvim
from fastvim.training import parameter_groups
from natural_images.masked.probe import LinearProbe


@pytest.fixture
def probe():
    torch.manual_seed(0)
    backbone = fastvim.create_model(
        "fastvim_base_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=2, num_classes=3
    )
    return LinearProbe(backbone, 5)


def test_only_the_linear_layer_is_trained(probe):
    trained = [name for name, value in probe.named_parameters() if value.requires_grad]
    assert trained == ["head.1.weight", "head.1.bias"]
    decayed, others = parameter_groups(probe)
    assert len(decayed["params"]) == len(others["params"]) == 1
    assert float(probe.head[1].weight.detach().std()) == pytest.approx(0.01, rel=0.3)
    probe(torch.randn(4, 3, 16, 16)).sum().backward()
    assert all(value.grad is None for value in probe.backbone.parameters())


def test_the_backbone_stays_in_evaluation_mode(probe):
    probe.train()
    assert probe.head[0].training
    assert not any(module.training for module in probe.backbone.modules())


def test_features_are_normalised_without_weights(probe):
    norm = probe.head[0]
    assert (norm.affine, norm.eps) == (False, 1e-6)
    probe.train()
    images = torch.randn(64, 3, 16, 16)
    features = norm(probe.backbone(images))
    torch.testing.assert_close(features.mean(0), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.std(0, correction=0), torch.ones(16), atol=1e-2, rtol=0)


@torch.no_grad()
def test_the_classifier_answers_as_the_probe(probe):
    images = torch.randn(8, 3, 16, 16)
    probe.train()
    for _ in range(20):
        probe(images)
    probe.head[1].weight.normal_()
    probe.head[1].bias.normal_()
    expected = probe.eval()(images)
    model = probe.classifier()
    assert model.num_classes == model.options["num_classes"] == 5
    torch.testing.assert_close(model(images), expected, atol=1e-4, rtol=1e-4)
