"""Inference recorded as a CUDA graph; needs a CUDA device but for its preparation."""

import pytest
import torch

import fastvim
from fastvim.graphed import Graphed
from fastvim.mixer import Mixer

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_classes": 3}


def test_a_frozen_mixer_gives_the_same():
    torch.manual_seed(0)
    model = fastvim.FastVim(**SMALL).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = model(image)
        for module in model.modules():
            if isinstance(module, Mixer):
                module.freeze(torch.float32)
        assert torch.equal(model(image), want)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["FastVim", "Vim", "FastChannelVim"])
def test_replays_what_the_model_gives(name):
    torch.manual_seed(0)
    model = getattr(fastvim, name)(**SMALL).cuda().eval()
    images = torch.randn(3, 2, model.in_chans, 32, 32, device="cuda")
    graphed = Graphed(model)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        want = [model(image) for image in images]
    for _ in range(3):  # plain, recorded, replayed
        got = [graphed(image) for image in images]
        for one, other in zip(got, want, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)
    assert graphed(images[0, :1]).shape == (1, 3)
