"""Natural images: FastVim's experiments on ImageNet, from image folders to ledgers of results."""
