"""Image classification: data, augmentation, training and evaluation."""
