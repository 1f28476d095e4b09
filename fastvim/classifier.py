"""Image classifiers: FastVim and Vim."""

from collections.abc import Sequence
from typing import Any, Unpack

from torch import Tensor

from fastvim.encoder import EncoderOptions, State, make_norm
from fastvim.head import check_final_pool, new_head, pool_and_classify
from fastvim.positions import class_place
from fastvim.pretrained import given
from fastvim.timm_methods import TimmClassifier
from fastvim.traversal import Traversal, image_cycle
from fastvim.trunk import ImageTrunk

MAP_FORMATS = ("NCHW", "NHWC", "NLC")
"""timm's names for the axes of feature maps."""


class ImageClassifier(TimmClassifier, ImageTrunk):
    """A trunk, the final norm and a linear head, with timm's way of asking for features."""

    def __init__(
        self,
        traversals: Sequence[Traversal] | None,
        *,
        num_classes: int,
        final_pool_type: str,
        **trunk: Any,
    ) -> None:
        super().__init__(traversals, **trunk)
        self.num_classes, self.final_pool_type = num_classes, check_final_pool(final_pool_type)
        self.norm_f = make_norm(self.embed_dim, rms_norm=trunk.get("rms_norm", True))
        self.head = new_head(self.embed_dim, num_classes)
        self.feature_info = [
            {"num_chs": self.embed_dim, "reduction": self.patch_size, "module": f"layers.{block}"}
            for block in range(len(self.layers))
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (batch, class), from images (batch, channel, height, width)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens after the final norm, (batch, row, column, dim); (batch, token, dim) for Vim."""
        last = len(self.layers) - 1
        tokens, positions, _ = self.tokens(x)
        return self._finish(*self.layers.states(tokens, [last], positions=positions))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits, (batch, class), from tokens after the final norm.

        pre_logits : return what the head classifies; for "max" the maximum of each feature.
        """
        head = _as_it_is if pre_logits else self.head
        if self.class_token != "none" and self.final_pool_type != "all":
            # an index would fix the number of tokens of a compiled graph
            return head(x.narrow(1, class_place(self.class_token, x.shape[1] - 1), 1).squeeze(1))
        return pool_and_classify(x.flatten(1, -2), self.final_pool_type, head)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps after blocks: the residual stream with the block's output added.

        indices : blocks, negative ones from the end; a number takes the last ones, None all.
        norm : apply the final norm to every map.
        stop_early : run no block beyond the last index; the tokens are then those after that block.
        output_fmt : "NCHW", "NHWC" or "NLC"; a class token is left out of all of them.
        intermediates_only : only the maps.

        Returns the tokens after the final norm, as `forward_features` does, and the maps in the
        blocks' order. In training no path is dropped from a map itself.
        """
        if output_fmt not in MAP_FORMATS:
            raise ValueError(f"output_fmt: expected one of {[*MAP_FORMATS]}, got {output_fmt!r}")
        wanted = self._blocks(indices)
        last = max(wanted) if stop_early or intermediates_only else len(self.layers) - 1
        run = sorted({*wanted, last})
        tokens, positions, grid = self.tokens(x)
        states = dict(zip(run, self.layers.states(tokens, run, positions=positions), strict=True))
        maps = []
        for hidden, residual in map(states.__getitem__, wanted):
            taps = residual + hidden  # type: ignore[operator]
            if norm:
                taps = self.norm_f(taps.to(self.norm_f.weight.dtype))
            on_grid = self.on_grid(taps.to(hidden.dtype), grid)
            if output_fmt == "NCHW":
                on_grid = on_grid.permute(0, 3, 1, 2)
            maps.append(on_grid.flatten(1, 2) if output_fmt == "NLC" else on_grid)
        return maps if intermediates_only else (self._finish(states[last]), maps)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove the blocks beyond the last index, and the head; returns the blocks kept."""
        wanted = self._blocks(indices)
        del self.layers[max(wanted) + 1 :]
        if prune_norm:
            self.norm_f = None  # type: ignore[assignment]
        if prune_head:
            self.reset_classifier(0)
        return wanted

    def _finish(self, state: State) -> Tensor:
        """Tokens after the final norm, rows before columns if they are on the grid."""
        tokens = self.layers.finish(state, self.norm_f)
        return tokens.transpose(1, 2) if self.colwise and not self.sequential else tokens

    def _blocks(self, indices: int | Sequence[int] | None) -> list[int]:
        """Blocks that timm's `indices` mean, ascending."""
        depth = len(self.layers)
        if indices is None:
            indices = depth
        blocks = range(-indices, 0) if isinstance(indices, int) else indices
        if not blocks or any(not -depth <= block < depth for block in blocks):
            raise IndexError(
                f"indices: expected some of the blocks 0..{depth - 1}, negative ones from the end, "
                f"or a number of last blocks, got {indices}"
            )
        return sorted({block % depth for block in blocks})


def _as_it_is(tokens: Tensor) -> Tensor:
    return tokens


class FastVim(ImageClassifier):
    """Vision Mamba with pooling (FastVim): even blocks scan rows, odd blocks columns.

    num_classes : 0 returns pooled features.
    rotate_every_block : without, all blocks scan rows.
    final_pool_type : "mean" of the tokens; "none" takes the last one, "all" classifies each token,
        and "max" takes each class's maximum over the tokens.
    The other options are those of `ImageTrunk` and `EncoderOptions`.
    """

    def __init__(
        self,
        *,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 192,
        depth: int = 24,
        rotate_every_block: bool = True,
        scanpath_type: str = "rowwise",
        if_abs_pos_embed: bool = True,
        final_pool_type: str = "mean",
        **encoder: Unpack[EncoderOptions],
    ) -> None:
        options = given(locals())
        rotate = options.pop("rotate_every_block")
        super().__init__(image_cycle(rotate=rotate), **options)
        self.options = options | {"rotate_every_block": rotate}


class Vim(ImageClassifier):
    """Vision Mamba: every block scans all tokens, in both directions.

    class_token : the token that is classified, in the "middle" or at the "head" of the sequence;
        with "none" the tokens are pooled by `final_pool_type`. "all" classifies every token, this
        one too.
    The other options are those of `FastVim`.
    """

    def __init__(
        self,
        *,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 192,
        depth: int = 24,
        class_token: str = "middle",
        scanpath_type: str = "rowwise",
        if_abs_pos_embed: bool = True,
        final_pool_type: str = "mean",
        **encoder: Unpack[EncoderOptions],
    ) -> None:
        options = given(locals())
        super().__init__(None, **options)
        self.options = options
