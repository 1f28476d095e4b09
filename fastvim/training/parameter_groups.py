"""Which parameters weight decay applies to."""

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups for an optimiser: the decayed parameters first, then the others at decay 0.

    Biases and 1-D tensors (norm weights, the scan's ``D``) are not decayed; everything else is,
    ``A_log``, convolutions and position and channel embeddings included, as in the published
    training. Parameters that need no gradient are left out.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise ValueError(f"{type(model).__name__} has no parameters that require gradients")
    decayed = [p for name, p in trained if _is_decayed(name, p)]
    others = [p for name, p in trained if not _is_decayed(name, p)]
    return [{"params": decayed}, {"params": others, "weight_decay": 0.0}]


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim != 1 and name.split(".")[-1] != "bias"
