"""Masked autoencoders: pre-training, fine-tuning and linear probes."""
