"""The operations as Triton kernels; only these modules import Triton."""
