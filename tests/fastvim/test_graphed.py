"""Inference recorded as a CUDA graph; without a CUDA device, when it is recorded."""

from contextlib import nullcontext
from types import SimpleNamespace

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


@pytest.fixture
def card(monkeypatch):
    """Stands in for a card of 100 bytes: counts recordings and replays, which compute nothing."""
    card = SimpleNamespace(reserved=0, call_takes=10, recordings=0, replays=0)

    class Graph:
        def __init__(self):
            card.recordings += 1

        def replay(self):
            card.replays += 1

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", nullcontext)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: setattr(card, "reserved", 0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: card.reserved)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100 - card.reserved, 100))
    return card


def on_card(card, **options):
    """Double the input, which takes memory."""

    def call(model, image):
        card.reserved += card.call_takes
        return 2 * image

    return Graphed(torch.nn.Identity(), call, dtype=torch.float32, **options)


@pytest.mark.parametrize("plain", [1, 2])
def test_records_after_the_plain_calls_of_each_shape(card, plain):
    graphed = on_card(card, plain_calls=plain)
    image = torch.ones(1)
    for _ in range(plain + 1):  # the recording call computes plainly, too
        assert graphed(image) == 2
    assert (card.recordings, card.replays) == (1, 0)
    graphed(image)
    assert (card.recordings, card.replays) == (1, 1)
    for _ in range(plain):
        graphed(torch.ones(2))
    assert card.recordings == 1
    graphed(torch.ones(2))
    assert (card.recordings, card.replays) == (2, 1)


def test_stays_plain_where_memory_is_short(card):
    card.call_takes = 90
    graphed = on_card(card)
    for _ in range(4):
        assert graphed(torch.ones(1)) == 2
    assert (card.recordings, card.replays) == (0, 0)


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_replays_embeddings_of_some_channels():
    torch.manual_seed(0)
    model = fastvim.FastChannelVim(**SMALL).cuda().eval()
    channels = torch.tensor([5, 0, 2], device="cuda")
    graphed = Graphed(model, lambda model, image: model.embed(image, channels), plain_calls=2)
    for image in torch.randn(5, 2, 3, 32, 32, device="cuda"):
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            want = model.embed(image, channels)
        for one, other in zip(graphed(image), want, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_out_of_memory_while_recording_is_raised_as_such():
    """What the search for a batch size that fits goes by."""

    def call(model, image):
        if torch.cuda.is_current_stream_capturing():
            torch.empty(1 << 50, device="cuda")
        return 2 * image

    graphed = Graphed(torch.nn.Identity(), call)
    image = torch.ones(3, device="cuda")
    graphed(image)
    with pytest.raises(torch.OutOfMemoryError):
        graphed(image)
    assert torch.equal(2 * image, torch.full_like(image, 2))
