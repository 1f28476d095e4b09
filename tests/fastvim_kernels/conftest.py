"""Fixtures: unwritten memory that shows, operations as Triton kernels, a check of gradients."""

import pytest
import torch


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
def triton_backend(monkeypatch, poisoned_memory):
    """Run the operations as Triton kernels, on poisoned memory."""
    monkeypatch.setenv("FASTVIM_BACKEND", "triton")


@pytest.fixture
def gradcheck():
    """Compare an operation's gradients with finite differences of its formula, and run to run.

    The formula is a loop in float64. The operation computes in float32, which finite differences
    cannot be taken of, so that gradcheck sees the formula forward and the operation backward.
    """

    def check(operation, formula, inputs):
        class FormulaForwardOperationBackward(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *exact):
                ctx.save_for_backward(*exact)
                return formula(*exact)

            @staticmethod
            def backward(ctx, *seeds):
                leaves = [v.float().requires_grad_() for v in ctx.saved_tensors]
                with torch.enable_grad():
                    outputs = operation(*leaves)
                outputs = outputs if isinstance(outputs, tuple) else (outputs,)
                gradients = torch.autograd.grad(outputs, leaves, [v.float() for v in seeds])
                return tuple(v.double() for v in gradients)

        exact = [v.detach().double().requires_grad_() for v in inputs]
        function = FormulaForwardOperationBackward.apply
        assert torch.autograd.gradcheck(function, exact, atol=1e-4, rtol=1e-4, nondet_tol=0.0)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many tiny products, which waiting for threads makes slow
    yield check
    torch.set_num_threads(threads)
