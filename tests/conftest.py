"""Where there is no CUDA device, Triton kernels run in Triton's interpreter."""

import os

import torch

# Triton reads it when it is first imported, which timm and so fastvim do
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
