"""Which backend an operation runs on."""

import pytest
import torch
from fastvim_kernels import add_norm, expand_norm_gate, operation
from fastvim_kernels.operation import use_native, use_triton

CUDA = torch.cuda.is_available()


def test_the_device_decides(monkeypatch):
    monkeypatch.delenv("FASTVIM_BACKEND", raising=False)
    assert not use_triton(torch.empty(1))
    monkeypatch.setenv("FASTVIM_BACKEND", "auto")
    assert not use_triton(torch.empty(1))
    if CUDA:
        assert use_triton(torch.empty(1, device="cuda"))


def test_the_environment_decides(monkeypatch):
    monkeypatch.setenv("FASTVIM_BACKEND", "torch")
    assert not use_triton(torch.empty(1))
    monkeypatch.setenv("FASTVIM_BACKEND", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert use_triton(torch.empty(1))
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match="CUDA"):
        use_triton(torch.empty(1))
    monkeypatch.setenv("FASTVIM_BACKEND", "cuda")
    with pytest.raises(ValueError, match="FASTVIM_BACKEND"):
        use_triton(torch.empty(1))


def test_c_serves_float32_on_a_cpu(monkeypatch):
    built = []
    monkeypatch.setattr(operation, "library", lambda: built[0])
    for there in (object(), None):
        built[:] = [there]
        monkeypatch.delenv("FASTVIM_BACKEND", raising=False)
        assert use_native(torch.empty(1)) == (there is not None)
        assert not use_native(torch.empty(1, dtype=torch.float64))
        assert not use_native(torch.empty(1, dtype=torch.bfloat16))
        assert not use_native(torch.empty(1, device="meta"))
        monkeypatch.setenv("FASTVIM_BACKEND", "torch")
        assert not use_native(torch.empty(1))
    monkeypatch.setenv("FASTVIM_BACKEND", "native")
    with pytest.raises(RuntimeError, match="FASTVIM_BACKEND=native"):
        use_native(torch.empty(1))
    assert not use_native(torch.empty(1, dtype=torch.float64))


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_captured_as_a_cuda_graph():
    torch.manual_seed(0)
    shape = (2, 4, 6, 192)
    hidden, residual, z = (torch.randn(shape, device="cuda", requires_grad=True) for _ in range(3))
    y = torch.randn(2, 2, 4, 192, device="cuda", requires_grad=True)
    weight, bias = (torch.randn(192, device="cuda", requires_grad=True) for _ in range(2))
    leaves = [hidden, residual, z, y, weight, bias]

    def step():
        normed, total = add_norm(hidden, residual, weight)
        out = expand_norm_gate(y, normed, z, weight, bias, (1,))
        return [out, *torch.autograd.grad(out.square().sum() + total.sum(), leaves)]

    stream = torch.cuda.Stream()  # compiles the kernels outside of the capture
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for leaf in leaves:
            leaf.copy_(torch.randn_like(leaf))
    graph.replay()
    for got, want in zip(captured, step(), strict=True):
        assert torch.equal(got, want)
