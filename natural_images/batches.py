"""The published batch on any number of processes: how an optimiser step is dealt out."""

import logging
import os
from dataclasses import replace

from fastvim.training import Recipe
from natural_images.errors import NaturalImagesValueError

log = logging.getLogger(__name__)


def launched_processes() -> int:
    """Processes that ``torchrun`` or ``accelerate launch`` started; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def share_batch(
    recipe: Recipe, images_at_once: int | None, processes: int, *, in_pairs: bool = False
) -> Recipe:
    """Split the batch over processes and, where a share is too large for memory, over parts.

    Parameters
    ----------
    recipe
        Its `batch_size` is kept whatever the number of processes, and with it the learning rate.
    images_at_once
        The most images that a process holds; accumulation becomes as small as that allows. None
        leaves it at the recipe's.
    processes
        How many train together.
    in_pairs
        Whether images are mixed, for which every part must have an even number of them.

    Returns
    -------
    The recipe with its accumulation.

    Raises
    ------
    NaturalImagesValueError
        The batch cannot be dealt out evenly, or not in pairs.
    """
    batch = recipe.batch_size
    share, rest = divmod(batch, processes)
    if rest:
        raise NaturalImagesValueError(
            f"recipe.batch_size: expected a multiple of the {processes} processes, got {batch}. "
            f"Start {_divisor_below(batch, processes)} or {_divisor_above(batch, processes)}"
        )
    # What is dealt out to parts: images, or pairs of them.
    unit, units = (2, "pairs of images") if in_pairs else (1, "images")
    if share % unit:
        raise NaturalImagesValueError(
            "recipe.batch_size: expected an even number of images for each process, since "
            f"augment.mixup and augment.cutmix mix pairs, got {share} ({batch} over {processes} "
            f"{'process' if processes == 1 else 'processes'}). Take {batch + processes}, or set "
            "both to 0"
        )
    if images_at_once is not None and images_at_once < unit:
        raise NaturalImagesValueError(
            "data.images_at_once: expected at least 2, since augment.mixup and augment.cutmix mix "
            f"pairs, got {images_at_once}. Raise it, or set both to 0"
        )
    dealt = share // unit
    parts = recipe.accumulation
    if images_at_once is not None:
        least = max(parts, -(-share // images_at_once))
        parts = next(n for n in range(min(least, dealt), dealt + 1) if dealt % n == 0)
    if dealt % parts:
        raise NaturalImagesValueError(
            f"recipe.accumulation: expected a divisor of the {dealt} {units} of each process "
            f"({batch} images over {processes} processes), got {parts}. Take "
            f"{_divisor_below(dealt, parts)}"
        )
    log.info(
        "A step sees %d images: %d %s × %d accumulated %s × %d images",
        batch,
        processes,
        "process" if processes == 1 else "processes",
        parts,
        "part" if parts == 1 else "parts",
        share // parts,
    )
    return replace(recipe, accumulation=parts)


def _divisor_below(number: int, limit: int) -> int:
    return next(n for n in range(limit, 0, -1) if number % n == 0)


def _divisor_above(number: int, limit: int) -> int:
    return next(n for n in range(min(limit, number), number + 1) if number % n == 0)
