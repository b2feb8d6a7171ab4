"""Reading the tables that `offramp calibrate`, `evaluate`, `compare` and other commands wrote, in any order."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from offramp._io.tables import TABLE_SUFFIXES, read_table
from offramp.records import ExitRecord
from offramp.records.metrics import METRICS, quality_name
from offramp.records.origin import shared_unit
from offramp.records.record import QUALITY
from offramp.reports.labels import in_order

if TYPE_CHECKING:
    import pandas as pd

# Columns by which a kind of table is recognised, and the option that writes it
KINDS = {
    "curve": ({"system", "seed", "policy", "threshold", "accuracy", "cost"}, "evaluate --out"),
    "exits": ({"system", "seed", "exit", "accuracy", "cost", "overconfidence"}, "evaluate --exits"),
    "reliability": ({"system", "seed", "exit", "lower", "upper", "count", "accuracy"}, "calibrate --reliability"),
    "targets": ({"system", "policy", "choice", "target", "accuracy", "cost", "saving"}, "compare --targets-out"),
    "pairs": ({"small", "large", "policy", "match", "gain", "cost_ratio"}, "compare --pairs-out"),
    "control": ({"system", "policy", "baseline", "error", "worst", "short", "excess"}, "compare --control-out"),
    "speedup": ({"system", "policy", "choice", "drop", "speedup", "cost", "loss", "worse"}, "compare --speedup-out"),
    "duels": ({"system", "policy", "rival", "match", "gain", "cost_difference"}, "compare --duels-out"),
    "rejection": ({"system", "policy", "by", "coverage", "accuracy", "gain", "aurc_gain"}, "compare --rejection-out"),
    "promises": ({"system", "policy", "choice", "target", "promised", "broken", "shortfall"}, "compare --promises-out"),
    "points": ({"system", "seed", "policy", "threshold", "bin_share_1", "validation_accuracy"}, "points --out"),
    "efficiency": ({"system", "policy", "seed", "of_seed", "ece", "auroc", "gap_closed"}, "compare --efficiency-out"),
    "sensitivity": ({"system", "factor", "setting", "policy", "reference", "cost_excess"}, "sensitivity --out"),
    "learning curve": ({"system", "policy", "rival", "samples", "gain", "cost_difference"}, "learning-curve --out"),
    "seconds": ({"system", "seed", "exit", "seconds", "device"}, "record --seconds"),
    "times": ({"system", "policy", "batch_size", "in_layers", "in_cost", "in_seconds"}, "time --out"),
    "shift": ({"system", "corruption", "severity", "policy", "choice", "gap", "speedup"}, "shift --out"),
    "drift": ({"system", "corruption", "order", "method", "sample", "cost", "alarm_risk"}, "drift --out"),
    "accelerations": (
        {"system", "seed", "draw", "kind", "level", "risk", "speedup"},
        "accelerations --out",
    ),
    "models": ({"seed", "model", "cost", "accuracy_validation", "front", "parameters"}, "search --models-out"),
    "relations": ({"seed", "small", "large", "exit_rate", "reduction", "best_accuracy"}, "search --relations-out"),
    "choices": ({"seed", "variant", "kind", "target", "stage_1", "threshold_1"}, "search --choices-out"),
    "reductions": ({"variant", "kind", "front", "low", "high", "mean", "scored_on"}, "search --reductions-out"),
    "replacements": ({"seed", "model", "goal", "kind", "cost_ratio"}, "search --replacements-out"),
    "measures": ({"quantity", "variant", "kind", "value"}, "search --measures-out"),
    "resplits": ({"cost", "split", "quantity", "variant", "kind", "front", "value"}, "resplit --out"),
    "caption points": ({"text", "fill", "policy", "split", "threshold", "CIDEr", "BLEU-4"}, "sweep-captions --points"),
    "captions": ({"text", "fill", "policy", "image", "caption", "exits", "macs"}, "sweep-captions --captions"),
    "caption seconds": ({"text", "fill", "policy", "seconds", "second_speedup"}, "sweep-captions --seconds"),
    "caption quality": ({"system", "seed", "split", "beams", "images", "CIDEr"}, "generate --quality"),
    "certified captions": ({"text", "policy", "risk", "level", "test_risk"}, "sweep-captions --certified"),
    "matched captions": ({"text", "fill", "policy", "at_most", "drop", "drop_low"}, "compare-captions --matched"),
    "caption pairs": ({"varied", "one", "other", "policy", "at_most"}, "compare-captions --pairs"),
    "words": ({"text", "fill", "policy", "at_most", "position", "kind", "layers"}, "compare-captions --words"),
    "pictures": ({"image", "png"}, "data --pictures"),
}
# Kinds with costs in the unit of the records
WITH_UNIT = ("curve", "exits", "targets", "pairs", "points", "models", "relations", "choices", "replacements")
OTHERS = {
    "record": "record --test",
    "frontier": "evaluate --frontier",  # read as a curve
    "public models": "data/timm",
}  # other kinds of files, and their origin


def read_tables(files: Sequence[Path], *kinds: str) -> "list[pd.DataFrame]":
    """Read tables, and combine the files of each kind into one table.

    Parameters
    ----------
    files : sequence of paths
        .parquet or .csv files, in any order.
    kinds : str
        Keys of `KINDS`.

    Returns
    -------
    list of DataFrame
        One table per kind.

    Raises
    ------
    ValueError
        If a file is not readable or of another kind, if it does not contain its system or seed, if a kind has no file,
        or if costs have different units.

    Warns
    -----
    UserWarning
        If only some files have a unit of their costs.
    """
    import pandas as pd

    found: dict[str, list[pd.DataFrame]] = {kind: [] for kind in kinds}
    units: dict[str, str | None] = {}
    for path in map(Path, files):
        table = read_table(path)
        fits = [kind for kind in kinds if KINDS[kind][0] <= set(table)]
        if not fits:
            wanted = " or ".join(f"`offramp {KINDS[kind][1]}`" for kind in kinds)
            raise ValueError(f"{path}: expected what {wanted} writes; its columns are {', '.join(table)}")
        for column in {"system", "seed"} & set(table):
            if table[column].isna().any():
                raise ValueError(f"{path}: {column} is empty; the record's metadata must say of which run it is")
        found[fits[0]].append(table)
        if fits[0] in WITH_UNIT:
            units[str(path)] = unit_of(table)
    shared_unit(units, "tables")
    for kind in kinds:
        if not found[kind]:
            raise ValueError(f"no file of what `offramp {KINDS[kind][1]}` writes among the {len(files)} given")
    return [pd.concat(tables, ignore_index=True) for tables in found.values()]


def unit_of(table: "pd.DataFrame") -> str | None:
    """Return the unit of the costs in a table, or None if it is not known."""
    units = table["unit"].dropna().unique() if "unit" in table else []
    return units[0] if len(units) else None


def quality_of(files: Sequence[Path]) -> str | None:
    """Return the name of the mean quality, if tables or records are about answers that are not classes.

    It is in the column or in the metadata `metric`. None if they are about classes.
    """
    names = set()
    for path in map(Path, files):
        is_table = path.suffix in TABLE_SUFFIXES
        names.add(quality_in(read_table(path)) if is_table else quality_name(ExitRecord.load(path)))
    return _only(names)


def quality_in(table: "pd.DataFrame") -> str | None:
    """As `quality_of`, for one table."""
    return _only(set(table["metric"].dropna()) if "metric" in table else set())


def _only(names: set[str | None]) -> str | None:
    names = names - {None, "accuracy", *METRICS}
    return None if not names else min(names) if len(names) == 1 else QUALITY


def describe(kind: str) -> str:
    """Describe a kind of file for help texts, with the option that writes it."""
    return f"{kind} ({OTHERS[kind] if kind in OTHERS else KINDS[kind][1]})"


def sort(table: "pd.DataFrame", by: Sequence[str]) -> "pd.DataFrame":
    """Sort the rows of a table by groups, in the order of their first rows, and by policy inside each group.

    Policies are in the order of `labels.in_order`.
    """
    import pandas as pd

    order = in_order(table["policy"])
    keys = {name: table[name].map({value: i for i, value in enumerate(table[name].unique())}) for name in by}
    place = pd.DataFrame(keys | {"policy": table["policy"].map(order.index)}).sort_values([*by, "policy"]).index
    return table.loc[place].reset_index(drop=True)


def of_base(table: "pd.DataFrame") -> "pd.DataFrame":
    """Select the rows of the first variant of a search, which is the reference for the others."""
    return table[table["variant"] == table["variant"].iloc[0]]


def of_bands(reductions: "pd.DataFrame") -> "pd.DataFrame":
    """Select the reductions that are means over a range of accuracy. The other rows are for a single accuracy."""
    return reductions[reductions["low"] < reductions["high"]]


def chosen_policies(asked: Sequence[str] | None, default: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the labels of the policies to show.

    Parameters
    ----------
    asked : sequence of str or None
        Labels that were requested.
    default : sequence of str
        Labels to use if none were requested, as far as they are known. If none is known, all known labels are used.
    known : sequence of str
        Labels in the files.

    Raises
    ------
    ValueError
        If a requested policy is not in the files.
    """
    if asked is None:
        return [label for label in default if label in known] or list(known)
    if wrong := [label for label in asked if label not in known]:
        raise ValueError(f"policy {wrong[0]!r} is not in the files; they have {', '.join(sorted(known))}")
    return list(asked)


def only_file(files: Sequence[Path], what: str) -> Path:
    """Return the only file.

    Raises
    ------
    ValueError
        If there are several files. The message begins with `what`.
    """
    if len(files) != 1:
        raise ValueError(f"{what} one test record, got {len(files)} files")
    return files[0]
