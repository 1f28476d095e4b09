"""Semantic segmentation: data, UPerNet, training and evaluation."""
