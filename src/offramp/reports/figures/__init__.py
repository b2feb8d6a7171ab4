"""Figures of a study by name, each written as .pdf and .png."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from offramp._io.writing import whole_file
from offramp.reports.figures import (
    agreement,
    cascade_reduction,
    cascade_relation,
    cascade_variants,
    cascades_front,
    control,
    error_cost,
    exit_histogram,
    oracle_heatmap,
    overconfidence,
    public_zoo,
    reliability,
    sensitivity,
    speedup,
    style,
)
from offramp.reports.loading import apply, look_up

FIGURES: dict[str, Callable[..., Figure]] = {
    "error-cost": error_cost.draw,
    "control": control.draw,
    "reliability": reliability.draw,
    "overconfidence": overconfidence.draw,
    "oracle-heatmap": oracle_heatmap.draw,
    "sensitivity": sensitivity.draw,
    "speedup": speedup.draw,
    "exit-histogram": exit_histogram.draw,
    "agreement": agreement.draw,
    "public-zoo": public_zoo.draw,
    "cascades-front": cascades_front.draw,
    "cascade-relation": cascade_relation.draw,
    "cascade-reduction": cascade_reduction.draw,
    "cascade-variants": cascade_variants.draw,
}


def draw(name: str, files: Sequence[Path], out: Path, **options) -> None:
    """Draw the figure of that name and write OUT.pdf and OUT.png, the same bytes for the same inputs.

    Raises
    ------
    ValueError
        If the name or an option is unknown (the known ones are listed), or an input is missing or another.
    """
    function = look_up(FIGURES, "figure", name)
    with style.settings():
        figure = apply(function, f"figure {name}", files, options)
        pictures = {}
        for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, metadata=metadata)
            pictures[kind] = buffer.getvalue()
    for kind, picture in pictures.items():
        with whole_file(f"{out}.{kind}") as partial:
            partial.write_bytes(picture)
