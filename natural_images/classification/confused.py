"""Which classes a classifier takes for which others, with pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from PIL import Image, ImageOps

from natural_images import figures
from natural_images.classification.images import ImageSource
from natural_images.classification.model_files import describe_class

PAIRS, WRONG_SHOWN, RIGHT_SHOWN = 6, 5, 2

TILE_IN = 1.25
DRAWN_PX = 256
STEP_IN = TILE_IN + 0.07
LABEL_IN = 0.26
ROW_IN = TILE_IN + LABEL_IN + 0.1
NAMES_IN, GAP_IN, EDGE_IN, TITLE_IN = 2.4, 0.3, 0.15, 0.65


@dataclass(frozen=True)
class ConfusedPair:
    """Images of one class that were taken for another.

    label, predicted
        The two classes.
    images
        How many images of `label` there are, of whatever prediction.
    wrong
        Places in the source of those predicted as `predicted`, the surest first, and `probability`
        of that prediction.
    typical
        Places of images of `predicted` that were recognised, the surest first: what the model
        expects of it.
    """

    label: str
    predicted: str
    images: int
    wrong: tuple[int, ...]
    probability: tuple[float, ...]
    typical: tuple[int, ...]


def confused_pairs(predictions: pd.DataFrame, most: int = PAIRS) -> list[ConfusedPair]:
    """The worst-confused pairs of classes, those with the most wrong predictions first.

    predictions : indexed by the place in the source, with ``label``, ``class_1`` and
    ``probability_1``, as `evaluate` makes them. Of pairs with as many wrong predictions, the one
    with the surer comes first. A pair has a direction: `a` taken for `b` is not `b` taken for `a`.
    """
    surest = predictions.sort_values("probability_1", ascending=False, kind="stable")
    is_right = surest["label"] == surest["class_1"]
    wrong = surest[~is_right].groupby(["label", "class_1"], sort=False)["probability_1"]
    ranked = wrong.agg(["size", "mean"]).sort_values(["size", "mean"], ascending=False)
    images = predictions["label"].value_counts()
    pairs = []
    for label, predicted in ranked.index[:most]:
        group = wrong.get_group((label, predicted))
        typical = surest[is_right & (surest["label"] == predicted)]
        pairs.append(
            ConfusedPair(
                label=label,
                predicted=predicted,
                images=int(images[label]),
                wrong=tuple(map(int, group.index)),
                probability=tuple(map(float, group)),
                typical=tuple(map(int, typical.index[:RIGHT_SHOWN])),
            )
        )
    return pairs


def draw_confused(
    pairs: Sequence[ConfusedPair], source: ImageSource, *, output: Path, title: str
) -> None:
    """Draw a row of pictures for each pair: the surest mistakes, then what it was mistaken for.

    Above each mistake stands the probability that the model gave to the wrong class. Without pairs
    the picture says that there are none.
    """
    width = NAMES_IN + STEP_IN * (WRONG_SHOWN + RIGHT_SHOWN) + GAP_IN + EDGE_IN
    height = TITLE_IN + ROW_IN * max(1, len(pairs)) + EDGE_IN
    with figures.figure(width, height, output) as figure:
        figure.set_layout_engine("none")  # every place is given, in inches

        def place(left: float, top: float) -> Axes:
            corner = (left / width, 1 - (top + TILE_IN) / height)
            axes = figure.add_axes((*corner, TILE_IN / width, TILE_IN / height))
            figures.bare(axes)
            return axes

        figure.text(EDGE_IN / width, 1 - 0.25 / height, title, size=13, va="center")
        if not pairs:
            figure.text(0.5, 0.4, "no image was taken for another class", ha="center", size=12)
            return
        explained = "above each mistake: the probability of the wrong class"
        explanation = figure.text(NAMES_IN / width, 1 - 0.55 / height, explained, va="center")
        explanation.set(size=10, color=figures.REFERENCE)
        for row, pair in enumerate(pairs):
            top = TITLE_IN + ROW_IN * row + LABEL_IN
            _name(place(EDGE_IN, top), pair)
            shown = zip(pair.wrong[:WRONG_SHOWN], pair.probability, strict=False)
            for column, (index, probability) in enumerate(shown):
                axes = place(NAMES_IN + STEP_IN * column, top)
                axes.imshow(_square(source.read(index)))
                axes.set_title(f"{probability:.0%}", size=10, pad=3, color=figures.WRONG)
            for column, index in enumerate(pair.typical):
                axes = place(NAMES_IN + GAP_IN + STEP_IN * (WRONG_SHOWN + column), top)
                axes.imshow(_square(source.read(index)))
                if column == 0:
                    recognised = figures.shortened(
                        f"recognised: {describe_class(pair.predicted)}", 28
                    )
                    axes.set_title(recognised, size=10, pad=3, color=figures.RIGHT)


def _name(axes: Axes, pair: ConfusedPair) -> None:
    label, predicted = (
        figures.shortened(describe_class(name), 20) for name in (pair.label, pair.predicted)
    )
    count = f"{len(pair.wrong):,} of {pair.images:,} images"
    for height, text, look in (
        (0.72, label, {"weight": "bold"}),
        (0.5, f"taken for {predicted}", {"color": figures.WRONG}),
        (0.28, count, {"color": figures.REFERENCE, "size": 10}),
    ):
        axes.text(0, height, text, va="center", transform=axes.transAxes, **look)


def _square(image: Image.Image) -> Image.Image:
    """The middle of a picture, not larger than it is drawn."""
    side = min(*image.size, DRAWN_PX)
    return ImageOps.fit(image, (side, side))


def accuracy_by_class(predictions: pd.DataFrame) -> pd.DataFrame:
    """A row for each class that occurs, and the class that it is most often taken for.

    predictions : as for `confused_pairs`. Returns ``class``, ``description``, ``images``, ``top1``
    (share of the images), ``most_taken_for`` (empty if always recognised) and ``times``.
    """
    rows = []
    for label, group in predictions.groupby("label", sort=True):
        wrong = group.loc[group["class_1"] != label, "class_1"].value_counts()
        rows.append(
            {
                "class": label,
                "description": describe_class(str(label)),
                "images": len(group),
                "top1": float((group["class_1"] == label).mean()),
                "most_taken_for": wrong.index[0] if len(wrong) else "",
                "times": int(wrong.iloc[0]) if len(wrong) else 0,
            }
        )
    return pd.DataFrame(rows)
