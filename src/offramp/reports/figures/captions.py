"""Captions with each word coloured by the layer at which it left the decoder."""

from collections.abc import Sequence
from textwrap import wrap

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from offramp.reports.figures.style import TWO_COLUMNS

COLUMNS, WIDE = 4, 26  # images in a row, characters in a line below an image
LINE, CHARACTER = 0.13, 0.0605  # inches


def draw_captions(images: np.ndarray, words: Sequence[Sequence[str]], layers: Sequence[np.ndarray], n: int) -> Figure:
    """Draw images with their captions below them, each word on a background that shows its layer.

    Parameters
    ----------
    images : ndarray of shape (B, H, W, C)
        uint8 pixels, with 1 or 3 channels.
    words : sequence of B sequences of str
        Words of each caption.
    layers : sequence of B ndarrays of shape (T,)
        Layer of each word, counted from 1. Further ones, such as that of the token that ends a caption, are not shown.
    n : int
        Number of layers.

    Returns
    -------
    Figure
    """
    lines = [_lines(caption) for caption in words]
    width = TWO_COLUMNS / COLUMNS
    rows, below = -(-len(images) // COLUMNS), LINE * (max(map(len, lines)) + 1)
    height, bar = rows * (width + below), 0.6
    colors = mpl.colormaps["viridis_r"].resampled(n)
    with mpl.rc_context({"axes.grid": False}):
        figure = Figure((TWO_COLUMNS, height + bar), layout="none")
        for i, (image, caption) in enumerate(zip(images, lines)):
            left, top = i % COLUMNS * width, height + bar - i // COLUMNS * (width + below)
            place = (left + 0.05, top - width + 0.05, width - 0.1, width - 0.1)
            ax = figure.add_axes([number / whole for number, whole in zip(place, (*figure.get_size_inches(),) * 2)])
            ax.imshow(image if image.shape[2] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
            ax.axis("off")
            of_words = iter(layers[i])
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


def _lines(words: Sequence[str]) -> list[list[str]]:
    return [line.split() for line in wrap(" ".join(words), WIDE, break_long_words=False, break_on_hyphens=False)]
