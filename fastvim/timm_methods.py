"""The methods that timm's tools expect of a model."""

from typing import Any

from torch import nn

from fastvim.encoder import Encoder
from fastvim.head import check_final_pool, new_head
from fastvim.pretrained import Pretrained

GLOBAL_POOLS = {"avg": "mean", "max": "max", "token": "none", "": "all"}
"""timm's names of final pooling, and the published ones."""


class TimmModel(Pretrained):
    """Gradient checkpointing and parameter groups, by timm's names."""

    embed_dim: int

    @property
    def num_features(self) -> int:
        """Width of the tokens."""
        return self.embed_dim

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of keeping its activations."""
        for module in self.modules():
            if isinstance(module, Encoder):
                module.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters of two or more dimensions that decay should leave alone."""
        names = {name for name, _ in self.named_parameters()}
        return names & {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order the parameters from input to output, for layer decay.

        The final norm goes with the last block, and what matches nothing after it. `coarse` makes
        no difference, as there is nothing between a block and the model.
        """
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed",
            "blocks": [(r"^layers\.(\d+)", None), (r"^norm_f", (99999,))],
        }


class TimmClassifier(TimmModel):
    """A classifier head that can be replaced, by timm's names."""

    layers: Encoder
    head: nn.Module
    num_classes: int
    final_pool_type: str
    class_token: str = "none"

    @property
    def head_hidden_size(self) -> int:
        """Width of what the head classifies."""
        return self.embed_dim

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new head of `num_classes`; 0 makes the model return pooled features.

        global_pool : as in `set_global_pool`; None keeps it.
        """
        if global_pool is not None:
            self.set_global_pool(global_pool)
        weight = next(self.layers.parameters())
        self.head = new_head(self.embed_dim, num_classes).to(weight.device, weight.dtype)
        self.num_classes = num_classes
        self.options["num_classes"] = num_classes

    def set_global_pool(self, global_pool: str) -> None:
        """Choose what is classified, by timm's name or the published one.

        "avg" ("mean"), "max", "token" ("none": the last token) or "" ("all": every token). With a
        class token "token" is that one, and nothing is pooled: "avg" and "max" raise ValueError,
        and so does "" where the model always takes the class token (ChannelVim).
        """
        pool = check_final_pool(GLOBAL_POOLS.get(global_pool, global_pool))
        choosable = "final_pool_type" in self.options
        if self.class_token != "none" and pool != "none" and not (pool == "all" and choosable):
            raise ValueError(
                f"global_pool: {type(self).__name__} with a class token classifies that one and "
                f"pools nothing, got {global_pool!r}. Leave it out"
            )
        if choosable:
            self.final_pool_type = self.options["final_pool_type"] = pool
