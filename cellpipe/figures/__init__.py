"""Figures of the report, one kind a file: data paths in, one PNG or SVG out."""

from cellpipe.figures.accuracy import draw_accuracy
from cellpipe.figures.confusion import draw_confusion
from cellpipe.figures.dose import draw_dose
from cellpipe.figures.montage import draw_montage
from cellpipe.figures.plate_map import draw_plate_map
from cellpipe.figures.replicates import draw_replicates
from cellpipe.figures.throughput import draw_throughput
from cellpipe.figures.training import draw_training
from cellpipe.figures.umap import draw_umap

__all__ = [
    "draw_accuracy",
    "draw_confusion",
    "draw_dose",
    "draw_montage",
    "draw_plate_map",
    "draw_replicates",
    "draw_throughput",
    "draw_training",
    "draw_umap",
]
