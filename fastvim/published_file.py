"""What a published checkpoint holds, told from its names and shapes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from fastvim.checkpoint_file import read_tensors
from fastvim.patch_embed import grid_size
from fastvim.positions import class_place, split_class_row

Task = Literal["classifier", "dense", "channels", "pretraining"]
Family = Literal["fastvim", "vim"]

BACKBONE = "backbone."
PROBE_EPS = 1e-6


@dataclass(frozen=True)
class PublishedFile:
    """The backbone of a checkpoint.

    entry : which of the file's entries was taken; "" is the whole file.
    state : tensors by their bare published names.
    outside : names that do not belong to the backbone.
    """

    path: Path
    entry: str
    state: dict[str, Tensor]
    outside: list[str]

    @property
    def task(self) -> Task:
        """What the model is for."""
        if "decoder_embed.weight" in self.state:
            return "pretraining"
        if "patch_embed.channel_embed.weight" in self.state:
            return "channels"
        return "dense" if "outnorm_0.weight" in self.state else "classifier"

    @property
    def family(self) -> Family:
        """Vim if there is a class token, as only Vim has one; FastVim is then more likely."""
        return "vim" if "cls_token" in self.state else "fastvim"

    @property
    def patch(self) -> int:
        """Side of a patch in px."""
        return self.state["patch_embed.proj.weight"].shape[-1]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.count("layers")

    def count(self, stack: str) -> int:
        """Number of modules called `stack`.0, `stack`.1 …, or `stack`_0, `stack`_1 …."""
        numbered = (name.replace(f"{stack}_", f"{stack}.") for name in self.state)
        return len({name.split(".")[1] for name in numbered if name.startswith(f"{stack}.")})

    def shared_options(self) -> dict[str, Any]:
        """Options that every model from these weights has."""
        return {
            "patch_size": self.patch,
            "embed_dim": len(self.state["layers.0.norm.weight"]),
            "depth": self.depth,
            "rms_norm": "layers.0.norm.bias" not in self.state,
            "use_norm_after_ssm": "layers.0.mixer.layernorm.weight" in self.state,
            "init_layer_scale": 1.0 if "layers.0.mixer.gamma" in self.state else None,
        }

    def own_options(self) -> dict[str, Any]:
        """Options of the model that the file was saved from, beyond the shared ones."""
        state = self.state
        classes = len(state["head.weight"]) if "head.weight" in state else 0
        if self.task == "channels":
            channels = len(state["patch_embed.channel_embed.weight"])
            return {"in_chans": channels, "num_classes": classes}
        options: dict[str, Any] = {"in_chans": state["patch_embed.proj.weight"].shape[1]}
        if self.task == "classifier":
            options["num_classes"] = classes
        if self.task == "dense":
            # one map at the end of each equal part of the blocks, as published
            maps = self.count("outnorm")
            options["out_indices"] = [self.depth * (k + 1) // maps - 1 for k in range(maps)]
        if self.task == "pretraining":
            options["decoder_embed_dim"] = len(state["decoder_embed.weight"])
            options["decoder_depth"] = self.count("decoder_blocks")
            if self.family == "fastvim":
                options["mirrored_rows"] = True
        return options

    def positions(self, class_token: str) -> tuple[Tensor | None, Tensor | None]:
        """Positions of the class token (1, 1, dim) and of the patches (1, token, dim), if any.

        class_token : its place in the sequence, which the file does not tell.
        """
        stored = self.state.get("pos_embed")
        # the class token of channel models has no position
        if stored is None or self.family == "fastvim" or self.task == "channels":
            return None, stored
        place = "head" if self.task == "pretraining" else class_token
        return split_class_row(stored, class_place(place, stored.shape[1] - 1))

    def trained_grid(
        self, img_size: int | Sequence[int] | None, wanted: tuple[int, int] | None = None
    ) -> tuple[int, int]:
        """Rows and columns of the positions.

        img_size : what the file was trained at, in px; None takes a square grid, or the wanted one
            where that fits.
        """
        _, positions = self.positions("middle")
        assert positions is not None
        count = positions.shape[1]
        if img_size is not None:
            grid = grid_size(img_size, self.patch)
            if math.prod(grid) == count:
                return grid
            raise ValueError(
                f"{self.path}: {img_size} px are {grid[0]} × {grid[1]} patches of {self.patch} px, "
                f"but the file holds {count} positions. Correct trained_img_size"
            )
        side = math.isqrt(count)
        if side * side == count:
            return side, side
        if wanted is not None and math.prod(wanted) == count:
            return wanted
        raise ValueError(
            f"{self.path}: {count} positions are no square grid. "
            f"Give trained_img_size=(height, width) in px"
        )


def open_published(path: str | Path, *, ema: bool = True) -> PublishedFile:
    """Read a Lightning file, bare state dict, safetensors file or OpenMMLab checkpoint.

    ema : prefer the averaged weights where the file has them.

    Raises FileNotFoundError, and ValueError for a file that is none of the published models.
    """
    path = Path(path)
    entries = read_tensors(path)
    wanted = ["state_dict_ema", "state_dict", "model", ""][0 if ema else 1 :]
    entry = next((name for name in wanted if name in entries), None)
    if entry is None:
        raise ValueError(f"{path}: expected weights in one of {wanted}, found {list(entries)}")
    state, outside = entries[entry], []
    if any(name.startswith(BACKBONE) for name in state):
        outside = [name for name in state if not name.startswith(BACKBONE)]
        state = {k.removeprefix(BACKBONE): v for k, v in state.items() if k not in outside}
    needed = ["patch_embed.proj.weight", "layers.0.norm.weight", "layers.0.mixer.A_b_log"]
    if absent := [name for name in needed if name not in state]:
        raise ValueError(
            f"{path}: expected a FastVim or Vim model, but there is no {absent[0]} among "
            f"{list(state)[:4]} …"
        )
    return PublishedFile(path, entry, _fold_probe(state), outside)


def _fold_probe(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make one linear head of a linear probe's batch norm (without weights) and linear layer."""
    if "head.1.weight" not in state:
        return state
    rest = {name: value for name, value in state.items() if not name.startswith("head.")}
    scale = (state["head.0.running_var"].double() + PROBE_EPS).rsqrt()
    weight = state["head.1.weight"].double() * scale
    bias = state["head.1.bias"].double() - weight @ state["head.0.running_mean"].double()
    return rest | {"head.weight": weight.float(), "head.bias": bias.float()}
