"""Tables of a study by name, each written as numbers and as text."""

from collections.abc import Sequence
from pathlib import Path

from offramp.reports.loading import apply, look_up
from offramp.reports.tables.beem_claims import BEEM_CLAIMS
from offramp.reports.tables.calibration import CALIBRATION
from offramp.reports.tables.cascade_claims import CASCADE_CLAIMS
from offramp.reports.tables.claims import CLAIMS
from offramp.reports.tables.control import CONTROL
from offramp.reports.tables.duels import DUELS
from offramp.reports.tables.exits import EXITS
from offramp.reports.tables.models import MODELS
from offramp.reports.tables.pairs import EQUAL_ACCURACY, EQUAL_COST
from offramp.reports.tables.per_exit import PER_EXIT
from offramp.reports.tables.public_zoo import PUBLIC_ZOO
from offramp.reports.tables.reductions import CASCADE_VARIANTS, REDUCTIONS
from offramp.reports.tables.replacements import REPLACEMENTS
from offramp.reports.tables.seconds import SECONDS
from offramp.reports.tables.sensitivity import SENSITIVITY
from offramp.reports.tables.speedup import SPEEDUP
from offramp.reports.tables.targets import TARGETS
from offramp.reports.tables.writing import Table

TABLES: dict[str, Table] = {
    "claims": CLAIMS,
    "equal-cost": EQUAL_COST,
    "equal-accuracy": EQUAL_ACCURACY,
    "control": CONTROL,
    "calibration": CALIBRATION,
    "targets": TARGETS,
    "exits": EXITS,
    "sensitivity": SENSITIVITY,
    "beem-claims": BEEM_CLAIMS,
    "duels": DUELS,
    "speedup": SPEEDUP,
    "per-exit": PER_EXIT,
    "public-zoo": PUBLIC_ZOO,
    "cascade-claims": CASCADE_CLAIMS,
    "reductions": REDUCTIONS,
    "cascade-variants": CASCADE_VARIANTS,
    "replacements": REPLACEMENTS,
    "models": MODELS,
    "seconds": SECONDS,
}


def write(name: str, files: Sequence[Path], out: Path, **options) -> None:
    """Make the table of that name and write OUT.csv (numbers), OUT.md and OUT.tex (rounded, to be read).

    Raises
    ------
    ValueError
        If the name or an option is unknown (the known ones are listed), or an input is missing or another.
    """
    table = look_up(TABLES, "table", name)
    table.write(apply(table.numbers, f"table {name}", files, options), out)
