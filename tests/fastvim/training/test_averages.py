import copy

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from fastvim.training import averaged_weights
from fastvim.training.averages import MovingAverage


def model() -> nn.Module:
    """Weights, and buffers both floating and whole: batch statistics and a count."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def train_a_step(network: nn.Module) -> None:
    network(torch.randn(5, 3, 4, 4))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn_like(parameter)


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_it_is_timms_average_to_the_bit():
    network = model()
    ours, theirs = MovingAverage(network, 0.9), ModelEmaV3(network, decay=0.9)
    for _ in range(5):
        train_a_step(network)
        ours.update()
        theirs.update(network)
    assert_equal(ours.state_dict(), theirs.module.state_dict())
    assert ours.state_dict()["1.num_batches_tracked"] == 5
    assert not ours.state_dict()["0.weight"].requires_grad


def test_the_model_gets_its_own_weights_back():
    network = model()
    average = MovingAverage(network, 0.5)
    train_a_step(network)
    average.update()
    own = copy.deepcopy(network.state_dict())
    addresses = [p.data_ptr() for p in network.parameters()]
    with pytest.raises(KeyError, match="metric"), average.in_model():
        assert_equal(network.state_dict(), average.state_dict())
        assert not torch.equal(network[0].weight, own["0.weight"])
        raise KeyError("metric")
    assert_equal(network.state_dict(), own)
    assert [p.data_ptr() for p in network.parameters()] == addresses


def test_it_goes_on_from_its_state():
    networks = [model(), model()]
    straight, resumed = (MovingAverage(network, 0.9) for network in networks)
    train_a_step(networks[0])
    straight.update()
    networks[1].load_state_dict(networks[0].state_dict())
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    for network, average in zip(networks, (straight, resumed), strict=True):
        torch.manual_seed(1)
        train_a_step(network)
        average.update()
    assert_equal(resumed.state_dict(), straight.state_dict())


def test_a_checkpoint_without_an_average_is_refused(tmp_path):
    torch.save({"model": {}}, tmp_path / "step-00000001.pt")
    with pytest.raises(
        ValueError, match=r"step-00000001\.pt: expected averaged weights.*ema_decay"
    ):
        averaged_weights(tmp_path / "step-00000001.pt")
