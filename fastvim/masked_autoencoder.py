"""Masked autoencoders: pre-training of FastVim and Vim by filling in removed patches (MAE)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn

from fastvim.encoder import Encoder, EncoderOptions, make_norm
from fastvim.patch_embed import PatchEmbed, cut_patches, grid_size
from fastvim.positions import (
    insert_token,
    resize_positions,
    sincos_positions,
    split_class_row,
)
from fastvim.pretrained import given
from fastvim.timm_methods import TimmModel
from fastvim.traversal import SEQUENCE, KeptTokens, Traversal, image_cycle


@dataclass(frozen=True)
class Masking:
    """Which tokens of each image were kept.

    kept : their places, ascending, (batch, kept). mask : 1 for removed tokens, (batch, token).
    restore : where each token lies in kept tokens followed by removed ones, (batch, token).
    """

    kept: Tensor
    mask: Tensor
    restore: Tensor


def random_masking(noise: Tensor, mask_ratio: float) -> Masking:
    """Keep the tokens with the least noise, (batch, token), in their original order."""
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"mask_ratio: expected at least 0 and below 1, got {mask_ratio}")
    keep = max(1, int(noise.shape[1] * (1 - mask_ratio)))
    shuffled = noise.argsort(dim=1)
    kept = shuffled[:, :keep].sort(dim=1).values
    restore = torch.cat([kept, shuffled[:, keep:]], dim=1).argsort(dim=1)
    return Masking(kept, (restore >= keep).to(noise.dtype), restore)


class MaskedAutoencoder(TimmModel):
    """Encoder of the kept patches, light decoder of all patches.

    decoder_embed_dim, decoder_depth : width and number of the decoder's Vim blocks.
    norm_pix_loss : reconstruct each patch's pixels normalised by its own mean and deviation.
    The other options are those of `ImageTrunk` and `EncoderOptions`. Positions are fixed sin-cos.
    """

    class_token: bool
    """Whether encoder and decoder carry a class token, and kept tokens are a sequence around it."""
    mirrored_rows: bool = False
    """See `FastMaskVim`."""

    def __init__(
        self,
        traversals: Sequence[Traversal],
        *,
        img_size: int | Sequence[int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        depth: int,
        decoder_embed_dim: int,
        decoder_depth: int,
        norm_pix_loss: bool,
        **encoder: Unpack[EncoderOptions],
    ) -> None:
        super().__init__()
        self.patch_size, self.in_chans, self.embed_dim = patch_size, in_chans, embed_dim
        self.norm_pix_loss = norm_pix_loss
        self.grid = grid_size(img_size, patch_size)
        rms_norm = encoder.get("rms_norm", True)

        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.pos_embed = sincos_positions(self.grid, embed_dim, class_token=self.class_token)
        if self.class_token:
            self.cls_token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, embed_dim), std=0.02))
        self.layers = Encoder(embed_dim, depth, traversals, **encoder)
        self.norm_f = make_norm(embed_dim, rms_norm=rms_norm)

        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = sincos_positions(
            self.grid, decoder_embed_dim, class_token=self.class_token
        )
        self.decoder_blocks = Encoder(decoder_embed_dim, decoder_depth, SEQUENCE, rms_norm=rms_norm)
        self.decoder_norm = make_norm(decoder_embed_dim, rms_norm=rms_norm)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size**2 * in_chans)
        nn.init.normal_(self.mask_token, std=0.02)
        # the patch convolution starts like a linear layer (MAE)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(embed_dim, -1))
        for linear in (self.decoder_embed, self.decoder_pred):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, x: Tensor, mask_ratio: float = 0.75, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct removed patches of images (batch, channel, height, width).

        noise : (batch, token) decides which tokens are kept; None draws it uniformly.

        Returns the loss (the mean squared error of the removed patches), the reconstruction
        (batch, token, patch * patch * channel) and the mask (batch, token), 1 for removed.
        """
        latent, masking = self.forward_encoder(x, mask_ratio, noise)
        pred = self.forward_decoder(latent, masking, grid_size(x.shape[-2:], self.patch_size))
        return self.loss(x, pred, masking.mask), pred, masking.mask

    def forward_encoder(
        self, x: Tensor, mask_ratio: float = 0.75, noise: Tensor | None = None
    ) -> tuple[Tensor, Masking]:
        """Kept tokens after the final norm, (batch, kept, dim), a class token in their middle."""
        tokens = self.patch_embed(x)
        grid = tokens.shape[1:3]
        tokens = tokens.flatten(1, 2)
        class_position, positions = self._positions(self.pos_embed, grid)
        if noise is None:
            noise = torch.rand(tokens.shape[:2], device=x.device)
        masking = random_masking(noise, mask_ratio)
        tokens = (tokens + positions).take_along_dim(masking.kept.unsqueeze(-1), 1)
        if class_position is None:
            kept = KeptTokens(masking.kept, tuple(grid), self.mirrored_rows)
            return self.layers(tokens, self.norm_f, kept), masking
        tokens = insert_token(tokens, self.cls_token + class_position, tokens.shape[1] // 2)
        return self.layers(tokens, self.norm_f), masking

    def forward_decoder(self, latent: Tensor, masking: Masking, grid: tuple[int, int]) -> Tensor:
        """Pixels of all patches, (batch, token, patch * patch * channel)."""
        tokens = self.decoder_embed(latent)
        class_position, positions = self._positions(self.decoder_pos_embed, grid)
        if class_position is not None:
            class_token, tokens = split_class_row(tokens, masking.kept.shape[1] // 2)
        count = masking.restore.shape[1]
        masked = self.mask_token.to(tokens.dtype).expand(
            tokens.shape[0], count - tokens.shape[1], -1
        )
        tokens = torch.cat([tokens, masked], dim=1)
        tokens = tokens.take_along_dim(masking.restore.unsqueeze(-1), 1) + positions
        if class_position is not None:
            tokens = torch.cat([tokens, class_token + class_position], dim=1)
        return self.decoder_pred(self.decoder_blocks(tokens, self.decoder_norm)[:, :count])

    def loss(self, x: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error of the removed patches, over the whole batch; 0 if there are none."""
        error = (pred - self.target(x)).square().mean(-1)
        return (error * mask).sum() / mask.sum().clamp(min=1)

    def target(self, x: Tensor) -> Tensor:
        """Pixels to reconstruct, (batch, token, patch * patch * channel), channel fastest."""
        patches = cut_patches(x, self.patch_size).mT.flatten(1, 2).flatten(2)
        if not self.norm_pix_loss:
            return patches
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def _positions(self, stored: Tensor, grid: tuple[int, int]) -> tuple[Tensor | None, Tensor]:
        """Positions of the class token, if any, and of the patches, (1, token, dim)."""
        class_position = None
        if self.class_token:
            class_position, stored = split_class_row(stored, 0)
        return class_position, resize_positions(stored, self.grid, grid).flatten(1, 2)


class FastMaskVim(MaskedAutoencoder):
    """FastVim's masked autoencoder: kept tokens are pooled by their rows and columns.

    mirrored_rows : pool and read the backward direction as the published pre-training does, by the
        rows of the forward sequence; its checkpoints were trained so.
    """

    class_token = False

    def __init__(
        self,
        *,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 24,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 2,
        norm_pix_loss: bool = True,
        rotate_every_block: bool = True,
        mirrored_rows: bool = False,
        **encoder: Unpack[EncoderOptions],
    ) -> None:
        options = given(locals())
        if options.get("collapse_method", "mean") != "mean":
            raise ValueError("collapse_method: kept tokens are pooled by their mean; leave it out")
        own = {name: options.pop(name) for name in ("rotate_every_block", "mirrored_rows")}
        super().__init__(image_cycle(rotate=rotate_every_block), **options)
        self.options = options | own
        self.mirrored_rows = mirrored_rows


class MaskVim(MaskedAutoencoder):
    """Vim's masked autoencoder: kept tokens are a sequence around a class token."""

    class_token = True

    def __init__(
        self,
        *,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 24,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 2,
        norm_pix_loss: bool = True,
        **encoder: Unpack[EncoderOptions],
    ) -> None:
        options = given(locals())
        super().__init__(SEQUENCE, **options)
        self.options = options
