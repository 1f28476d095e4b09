"""A fixture that makes operations run as Triton kernels."""

import pytest
import torch


@pytest.fixture
def triton_backend(monkeypatch):
    """Run the operations as Triton kernels, on memory that is full of NaN until it is written."""
    monkeypatch.setenv("FASTVIM_BACKEND", "triton")

    def poisoned(allocate):
        def allocate_and_fill(*arguments, **options):
            memory = allocate(*arguments, **options)
            return memory.fill_(float("nan")) if memory.is_floating_point() else memory

        return allocate_and_fill

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
