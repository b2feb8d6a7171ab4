"""Tables of a study by name, each written as numbers and as text."""

from collections.abc import Sequence
from pathlib import Path

from offramp.inputs import apply, look_up
from offramp.tables.beem_claims import BEEM_CLAIMS
from offramp.tables.calibration import CALIBRATION
from offramp.tables.cascade_claims import CASCADE_CLAIMS
from offramp.tables.claims import CLAIMS
from offramp.tables.control import CONTROL
from offramp.tables.duels import DUELS
from offramp.tables.exits import EXITS
from offramp.tables.models import MODELS
from offramp.tables.pairs import EQUAL_ACCURACY, EQUAL_COST
from offramp.tables.per_exit import PER_EXIT
from offramp.tables.public_zoo import PUBLIC_ZOO
from offramp.tables.reductions import CASCADE_VARIANTS, REDUCTIONS
from offramp.tables.replacements import REPLACEMENTS
from offramp.tables.seconds import SECONDS
from offramp.tables.sensitivity import SENSITIVITY
from offramp.tables.speedup import SPEEDUP
from offramp.tables.targets import TARGETS
from offramp.tables.writing import Table

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
