"""Captions with each word coloured by the layer at which it left the decoder."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from textwrap import wrap

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine

from offramp.comparison.captions import FULL, RECOMPUTE
from offramp.evaluation.captions import read_layers
from offramp.reports.figures.style import TWO_COLUMNS
from offramp.reports.loading import chosen_policies, read_tables

COLUMNS, WIDE = 4, 26  # images in a row, characters in a line below an image
LINE, CHARACTER = 0.13, 0.0605  # inches


def draw(files: Sequence[Path], policies: Sequence[str] | None = None) -> Figure:
    """Captions with exits.

    The first test images, with their captions. The colour of a word is the layer of the decoder at which it left (the
    deepest one of its tokens, if it has several). The policy is BEEM-A, if the study has it, with the model of the
    first seed and its cheapest threshold that loses an acceptable share of CIDEr on validation captions.

    Parameters
    ----------
    files : sequence of paths
        What `offramp data --pictures` and `sweep-captions --captions` wrote.
    policies : sequence of str
        Labels of the policies of which the first is shown. By default beem-a.
    """
    from PIL import Image

    pictures, captions = read_tables(files, "pictures", "captions")
    captions = captions[(captions["text"] == "reference") & (captions["fill"] == RECOMPUTE)]
    captions = captions[(captions["seed"] == captions["seed"].min()) & captions["image"].isin(pictures["image"])]
    (depth,) = {read_layers(exits)[0][0] for exits in captions.loc[captions["policy"] == FULL, "exits"]}
    label = chosen_policies(policies, ("beem-a",), [*captions["policy"].unique()])[0]
    its = captions[captions["policy"] == label]
    its = its[its["threshold"] == its["threshold"].min()].drop_duplicates("image").sort_values("image")
    images = [np.asarray(Image.open(BytesIO(png))) for png in pictures.sort_values("image")["png"]]
    shown = np.stack([image if image.ndim == 3 else image[..., None] for image in images])  # (B, H, W, C)
    return draw_captions(shown, list(its["caption"]), list(its["exits"]), depth)


def draw_captions(images: np.ndarray, captions: Sequence[str], layers: Sequence[str], n: int) -> Figure:
    """Draw images with their captions below them, each word on a background that shows its layer.

    Parameters
    ----------
    images : ndarray of shape (B, H, W, C)
        uint8 pixels, with 1 or 3 channels.
    captions : sequence of B str
    layers : sequence of B str
        Layers of the tokens of each caption, as `evaluation.captions.spelled_layers` writes them. The deepest one of a
        word is shown. Further ones, such as that of the token that ends a caption, are not.
    n : int
        Number of layers.

    Returns
    -------
    Figure
    """
    lines = [_lines(caption) for caption in captions]
    width = TWO_COLUMNS / COLUMNS
    rows, below = -(-len(images) // COLUMNS), LINE * (max(map(len, lines)) + 1)
    height, bar = rows * (width + below), 0.6
    colors = mpl.colormaps["viridis_r"].resampled(n)
    with mpl.rc_context({"axes.grid": False}):
        # Without an engine, saving takes that of the style, which cannot place axes that have no grid
        figure = Figure((TWO_COLUMNS, height + bar), layout=PlaceHolderLayoutEngine(True, True))
        for i, (image, caption) in enumerate(zip(images, lines)):
            left, top = i % COLUMNS * width, height + bar - i // COLUMNS * (width + below)
            place = (left + 0.05, top - width + 0.05, width - 0.1, width - 0.1)
            ax = figure.add_axes([number / whole for number, whole in zip(place, (*figure.get_size_inches(),) * 2)])
            ax.imshow(image if image.shape[2] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
            ax.axis("off")
            of_words = map(max, read_layers(layers[i]))
            for row, line in enumerate(caption):
                x, y = left + 0.05, top - width - LINE * (row + 0.6)
                for word in line:
                    layer = next(of_words)
                    figure.text(
                        x / TWO_COLUMNS,
                        y / (height + bar),
                        word,
                        family="DejaVu Sans Mono",
                        fontsize=6,
                        va="center",
                        color="white" if layer > n / 2 else "black",
                        bbox={"boxstyle": "square,pad=0.12", "color": colors(layer - 1), "linewidth": 0},
                    )
                    x += CHARACTER * (len(word) + 0.9)
        ax = figure.add_axes((0.3, 0.42 / (height + bar), 0.4, 0.07 / (height + bar)))
        scale = mpl.cm.ScalarMappable(mpl.colors.BoundaryNorm(np.arange(n + 1) + 0.5, n), colors)
        figure.colorbar(scale, cax=ax, orientation="horizontal", ticks=np.arange(n) + 1, label="Layer of the decoder")
    return figure


def _lines(caption: str) -> list[list[str]]:
    return [line.split() for line in wrap(caption, WIDE, break_long_words=False, break_on_hyphens=False)]
