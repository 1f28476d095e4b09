"""Groups of parameters for an optimiser: which are decayed, and how fast each block learns."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from fastvim.training.recipe import Decay

_EMBEDDINGS = ("patch_embed", "pos_embed", "cls_token")


def parameter_groups(
    model: nn.Module,
    *,
    decay: Decay = "matrices",
    undecayed: Collection[str] = (),
    lr_scales: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Groups for an optimiser: the decayed parameters first, then the others at decay 0.

    Biases and 1-D tensors (norm weights, the scan's ``D``) are not decayed; everything else is,
    ``A_log``, convolutions and position and channel embeddings included, as in the published
    training. The published MAE pre-training decays "all" of them.

    undecayed
        Parts of names: a parameter is not decayed that has one of them, ``norm`` or ``.D`` say.
    lr_scales
        Factors by parts of names, "lr_scale" of a group of their own; the first that fits counts.

    Parameters that need no gradient are left out. A part that fits no name raises ValueError: it
    is misspelt, or for another model.
    """
    scales = lr_scales or {}
    trained = _trained(model)
    for part in (*undecayed, *scales):
        if not any(part in name for name, _ in trained):
            raise ValueError(
                f"{type(model).__name__}: expected parameters with {part!r} in their names, as "
                "undecayed or lr_scales say, found none"
            )
    # Checkpoints know a group by its place, so these are there even where they are empty.
    groups: dict[tuple[bool, float], dict[str, Any]] = {(True, 1.0): {"params": []}}
    if decay != "all":
        groups[False, 1.0] = {"params": [], "weight_decay": 0.0}
    for name, parameter in trained:
        decayed = decay == "all" or _is_decayed(name, parameter)
        decayed = decayed and not any(part in name for part in undecayed)
        scale = next((factor for part, factor in scales.items() if part in name), 1.0)
        group = {"params": [], "lr_scale": scale, "weight_decay": float(decayed)}
        groups.setdefault((decayed, scale), group)["params"].append(parameter)
    return list(groups.values())


def layer_decay_groups(
    model: nn.Module, *, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Groups that learn the slower the further they are from the head, for fine-tuning.

    A group has an "lr_scale", to multiply the learning rate by (timm's name; an optimiser keeps the
    key but does not act on it), and a "weight_decay". Of `depth` blocks, ``layers.{i}`` has the
    scale ``layer_decay ** ceil((depth - i) / 2)``, so two neighbours share one; the patch, channel
    and position embeddings and the class token have ``layer_decay ** ceil((depth + 1) / 2)``.
    Everything else has 1: norm_f and head, and by the same rule an MAE decoder and a dense model's
    output norms, which the published code never trained with these scales.

    `weight_decay` is 0 for biases, 1-D tensors and, unlike in `parameter_groups`, the names in the
    model's ``no_weight_decay()``, if it has that method. Parameters that need no gradient are left
    out. A layer decay outside (0, 1] and a model without ``layers.{i}`` raise ValueError.

    This is the published ``param_groups_lrd``, which is MAE's (He et al. 2022, after BEiT) with
    blocks counted in pairs.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay: expected a number above 0, at most 1, got {layer_decay}")
    # Frozen blocks count too: the scale is of the place in the model.
    depth = 1 + max((_block(name, depth=-1) for name, _ in model.named_parameters()), default=-1)
    if depth == 0:
        # The published detection training looked for another name and scaled no block at all.
        raise ValueError(
            f"{type(model).__name__} has no parameters named layers.0.…, so there are no blocks to "
            "scale. Pass the model itself, not one that wraps it"
        )
    undecayed: Collection[str] = getattr(model, "no_weight_decay", tuple)()
    groups: dict[tuple[int, float], dict[str, Any]] = {}
    for name, parameter in _trained(model):
        block = _block(name, depth=depth)
        decay = weight_decay if _is_decayed(name, parameter) and name not in undecayed else 0.0
        scale = layer_decay ** ((depth - block + 1) // 2)
        group = {"params": [], "lr_scale": scale, "weight_decay": decay}
        groups.setdefault((block, decay), group)["params"].append(parameter)
    return list(groups.values())


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise ValueError(f"{type(model).__name__} has no parameters that require gradients")
    return trained


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim != 1 and name.split(".")[-1] != "bias"


def _block(name: str, *, depth: int) -> int:
    """Index of the block that a parameter is in: -1 before all blocks, `depth` after them."""
    first, *rest = name.split(".")
    if first == "layers":
        return int(rest[0])
    return -1 if first in _EMBEDDINGS else depth
