"""Detection of instances on COCO: boxes, classes and masks."""
