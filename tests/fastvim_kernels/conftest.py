"""Fixtures: unwritten memory that shows, operations on other backends, a check of gradients."""

import pytest
import torch
from fastvim_kernels.cpu.library import library


@pytest.fixture
def poisoned_memory(monkeypatch):
    """Fresh memory is full of NaN, or of places that are none, until it is written."""

    def poisoned(allocate):
        def allocate_and_fill(*arguments, **options):
            memory = allocate(*arguments, **options)
            return memory.fill_(float("nan") if memory.is_floating_point() else -1)

        return allocate_and_fill

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))


@pytest.fixture
def native_backend(monkeypatch, poisoned_memory):
    """Run the operations in C where they are in float32, on poisoned memory."""
    if library() is None:
        pytest.skip("needs a C compiler with OpenMP")
    monkeypatch.setenv("FASTVIM_BACKEND", "native")


@pytest.fixture(params=["torch", "native"])
def cpu_backend(request, monkeypatch, poisoned_memory):
    """Run the operations in PyTorch, and in C where they are in float32, on poisoned memory."""
    if request.param == "native":
        request.getfixturevalue("native_backend")
    monkeypatch.setenv("FASTVIM_BACKEND", request.param)


@pytest.fixture
def triton_backend(monkeypatch, poisoned_memory):
    """Run the operations as Triton kernels, on poisoned memory."""
    monkeypatch.setenv("FASTVIM_BACKEND", "triton")


@pytest.fixture
def gradcheck():
    """Compare an operation's gradients with its finite differences in float64, and run to run."""

    def check(operation, inputs):
        exact = [v.detach().double().requires_grad_() for v in inputs]
        assert torch.autograd.gradcheck(operation, exact, nondet_tol=0.0)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many tiny products, which waiting for threads makes slow
    yield check
    torch.set_num_threads(threads)
