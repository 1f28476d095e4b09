"""Microscopy plates to perturbation embeddings: ingest, segment, crop, embed, profile, evaluate."""
