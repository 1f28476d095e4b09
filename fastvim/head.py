"""From tokens to logits."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

FINAL_POOLS = ("mean", "max", "none", "all")


def new_head(dim: int, classes: int) -> nn.Linear | nn.Identity:
    """Linear classifier of pooled tokens; with 0 classes it hands them on."""
    if classes == 0:
        return nn.Identity()
    head = nn.Linear(dim, classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


def check_final_pool(name: str) -> str:
    """Raise ValueError for an unknown way of pooling."""
    if name not in FINAL_POOLS:
        raise ValueError(f"final_pool_type: expected one of {list(FINAL_POOLS)}, got {name!r}")
    return name


def pool_and_classify(
    tokens: Tensor, final_pool_type: str, head: Callable[[Tensor], Tensor]
) -> Tensor:
    """Logits of (batch, token, dim) tokens.

    final_pool_type : "mean" classifies the mean token and "none" the last one, (batch, class);
        "all" classifies every token, (batch, token, class), and "max" takes each class's maximum
        over them, (batch, class).
    """
    if final_pool_type == "mean":
        return head(tokens.mean(1))
    if final_pool_type == "none":
        return head(tokens[:, -1])
    logits = head(tokens)
    return logits if final_pool_type == "all" else torch.amax(logits, dim=1)
