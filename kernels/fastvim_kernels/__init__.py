"""Operations of the FastVim mixer on tokens that lie on a grid, channels last."""

from fastvim_kernels.add_norm import add_norm, norm_project
from fastvim_kernels.conv_pool import conv_pool
from fastvim_kernels.expand_norm_gate import expand_norm_gate
from fastvim_kernels.mix import mix
from fastvim_kernels.selective_scan import selective_scan

__all__ = ["add_norm", "conv_pool", "expand_norm_gate", "mix", "norm_project", "selective_scan"]
