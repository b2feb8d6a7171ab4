"""Option types and functions that several commands share."""

import math
import os
import re
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from offramp._io.tables import TABLE_SUFFIXES, write_table
from offramp._io.writing import claim
from offramp._registry import parse_spec
from offramp.certification.losses import RISKS
from offramp.policies import Policy, load_policies, make_policy
from offramp.records import ExitRecord
from offramp.records.metrics import with_metric
from offramp.records.origin import differences, system_of
from offramp.records.splitting import Holdout

if TYPE_CHECKING:
    from offramp.cascades.settings import CascadeSettings
    from offramp.certification import Certificate

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
OUT = click.Path(dir_okay=False, path_type=Path)


class NamedPath(click.Path):
    """Path of a file to write. Its ending is checked before any work is done."""

    def __init__(self, *suffixes: str) -> None:
        super().__init__(dir_okay=False, path_type=Path)
        self.suffixes = suffixes

    def convert(self, value, param, ctx):
        path = super().convert(value, param, ctx)
        if path.suffix not in self.suffixes:
            self.fail(f"{path}: expected a name that ends in {' or '.join(self.suffixes)}", param, ctx)
        return path


TABLE = NamedPath(*TABLE_SUFFIXES)
SETTINGS = NamedPath(".json")  # of a cascade


class Verb(click.Command):
    """A command that locks its output files while it runs, so that no other process writes them."""

    def invoke(self, ctx):
        files = {ctx.params[param.name] for param in self.params if param.type in (OUT, TABLE, SETTINGS)} - {None}
        with ExitStack() as claims:
            if os.environ.get("RANK", "0") == "0":  # only the first process of torchrun writes
                for path in sorted(files):
                    claims.enter_context(claim(path))
            return super().invoke(ctx)


class Spec(click.ParamType):
    """NAME:option=value,… Values are JSON; anything that is not valid JSON is a string."""

    name = "NAME[:option=value,…]"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            return parse_spec(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class PolicySpec(Spec):
    """[LABEL=]NAME:option=value,… The label is the name of the policy in tables. Default: its registered name."""

    name = "[LABEL=]NAME[:option=value,…]"

    def convert(self, value, param, ctx):
        label, name, options = self.parts(value, param, ctx)
        return label, make_policy(name, **options)

    def parts(self, value, param, ctx):
        label, _, rest = value.partition("=") if re.match(r"[^:]*=", value) else ("", "", value)
        name, options = super().convert(rest, param, ctx)
        return label or name, name, options


# Options of variants that say which validation samples they use
SAMPLES_OF_VARIANTS = {
    "validation": click.IntRange(1),
    "fit_share": click.FloatRange(0, 1, min_open=True),
    "folds": click.IntRange(2),
}


class VariantSpec(PolicySpec):
    """FACTOR/SETTING= and a policy, whose options can include `validation`, `fit_share` and `folds` of `Setting`."""

    name = "FACTOR/SETTING=[LABEL=]NAME[:option=value,…]"

    def convert(self, value, param, ctx):
        from offramp.comparison.sensitivity import Setting

        place = re.fullmatch(r"([^/=]+)/([^=]+)=(.+)", value)
        if place is None:
            self.fail(f"{value!r}: expected {self.name}", param, ctx)
        factor, setting, rest = place.groups()
        label, name, options = self.parts(rest, param, ctx)
        own = {
            option: kind.convert(str(options.pop(option)), param, ctx)
            for option, kind in SAMPLES_OF_VARIANTS.items()
            if option in options
        }
        return Setting(factor, setting, label, make_policy(name, **options), **own)


def labelled(ctx, param, specs: list[tuple[str, Policy]]) -> dict[str, Policy]:
    """Callback of `--policy`: return the policies by label, and raise an error if a label is repeated."""
    labelled = dict(specs)
    if len(labelled) < len(specs):
        raise click.BadParameter("two policies of one name; expected a label for each, LABEL=NAME", ctx, param)
    return labelled


class LabelledGrid(click.ParamType):
    """[LABEL=]GRID: the grid of one policy, or of all policies without a grid of their own."""

    name = "[LABEL=]START:STOP:STEP"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        label, equals, rest = value.rpartition("=")
        return label if equals else None, Grid().convert(rest, param, ctx)


class Grid(click.ParamType):
    """START:STOP:STEP, including both ends, or numbers separated by commas."""

    name = "START:STOP:STEP or δ,δ,…"

    def convert(self, value, param, ctx):
        if isinstance(value, np.ndarray):
            return value
        try:
            if ":" not in value:
                return np.array([float(part) for part in value.split(",")])
            start, stop, step = map(float, value.split(":"))
            if not step > 0 or not -math.inf < start <= stop < math.inf:
                raise ValueError
            steps = math.floor((stop - start) / step + 1e-9)
            return np.round(start + step * np.arange(steps + 1), 12)  # rounded, so that 0.9 is the float 0.9
        except ValueError:
            self.fail(f"{value!r}: expected START:STOP:STEP (a rise) or numbers with commas", param, ctx)


class Threshold(click.ParamType):
    """δ, or δ,δ,…: one per exit except the last."""

    name = "δ or δ,δ,…"

    def convert(self, value, param, ctx):
        values = Grid().convert(value, param, ctx)
        return float(values[0]) if len(values) == 1 and isinstance(value, str) and "," not in value else values


TARGETS = click.option(
    "--target",
    "targets",
    type=float,
    multiple=True,
    required=True,
    help="Target accuracy. Repeat this option for several.",
)
FALSE_ALARMS = click.option(
    "--false-alarms",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Highest probability with which each alarm is ever raised without a shift.",
)
RESAMPLES = click.option(
    "--resamples", type=click.IntRange(100), default=2000, show_default=True, help="Number of bootstrap resamples."
)
BOOTSTRAP_SEED = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the random draws."
)
THREADS = click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Number of CPU threads of torch."
)
FIT_SHARE = click.option(
    "--fit-share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of the validation samples for fitting, drawn with the seed of the record. Thresholds are chosen "
    "on the others. 1: all samples are used for both.",
)
RISK = click.option(
    "--risk",
    type=click.Choice(list(RISKS)),
    default="error",
    show_default=True,
    help="What is at most --level, see `offramp certify --help`.",
)
CONFIDENCE = click.option(
    "--confidence",
    type=float,
    default=0.9,
    show_default=True,
    help="Probability with which the risk is at most --level.",
)


def check_promise(level: float | None) -> None:
    """Raise an error if --risk or --confidence is given without --level, which would leave it without effect."""
    context = click.get_current_context()
    for name in ("risk", "confidence"):
        if level is None and context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} needs --level, the highest acceptable risk")
    if context.params["risk"] == "over_budget":
        raise click.UsageError("--risk over_budget needs a budget: expected `offramp certify --budget`")
    if context.params["risk"] == "error_among_accepted":
        raise click.UsageError(
            "--risk error_among_accepted certifies a threshold for rejection: expected `offramp certify`, and "
            "--reject-below here"
        )


def certified(label: str, policy: Policy, record: ExitRecord, risk, level, confidence, **options) -> "Certificate":
    """Certify a threshold. Errors name the policy."""
    from offramp.certification import certify

    try:
        return certify(policy, record, risk, level, confidence, **options)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None


ONLY = click.option(
    "--only",
    "only",
    multiple=True,
    help="Label of a policy of the file of --policies, which is used instead of all. Repeat this option.",
)


def those_of(fitted: dict[str, Policy], only: Sequence[str]) -> dict[str, Policy]:
    """Return the policies with these labels (--only), or all policies if none are given."""
    if unknown := [label for label in only if label not in fitted]:
        raise click.UsageError(f"--only for {unknown[0]!r}; expected one of {', '.join(fitted)}")
    return {label: fitted[label] for label in only} if only else fitted


def load_fitted(path: Path, record: ExitRecord) -> tuple[dict[str, Policy], ExitRecord]:
    """Load fitted policies, and return the samples of a validation record on which thresholds are certified."""
    fitted, run = load_policies(path)
    if any(policy.learns for policy in fitted.values()):
        warn_of_fit(path, run, record)
    return fitted, choosing_part(run, record)


def choosing_part(run: dict, record: ExitRecord) -> ExitRecord:
    """Return the samples of a validation record on which thresholds of fitted policies are chosen.

    If the policies were fitted on a part of this record, these are the other samples. Otherwise, these are all samples.

    Parameters
    ----------
    run : dict
        Metadata of the file of policies.
    record : ExitRecord
    """
    origin = {key: value for key, value in run.items() if key != "holdout"}
    return record if differences(origin, record.metadata) else Holdout.of_policies(run).parts(record)[1]


def warn_of_fit(path: Path, run: dict, record: ExitRecord) -> None:
    """Warn if policies may have been fitted on all samples of a record, as both have the same origin."""
    if run and run == record.metadata:
        warnings.warn(
            f"{path}: fitted on a record with the same origin as this one; the guarantee needs other samples than "
            "those of the fit",
            stacklevel=2,
        )


def write_all(tables: dict) -> None:
    """Write tables by path. All of them are computed before, so that an error leaves no incomplete output."""
    for path, table in tables.items():
        write_table(table, path)


def load_named(path: Path) -> ExitRecord:
    """Load a record. If it has no system in its metadata, it is named after its file (see `system_of`)."""
    record = ExitRecord.load(path)
    record.metadata["system"] = system_of(record.metadata, path)
    return record


def load_settings(path: Path) -> "CascadeSettings":
    """Load the settings of a cascade, from the record of the cascade on validation data or from a .json file."""
    from offramp.cascades.settings import CascadeSettings

    if path.suffix in SETTINGS.suffixes:
        return CascadeSettings.load(path)
    try:
        return CascadeSettings.of(ExitRecord.load(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None


def about(record: ExitRecord, path: Path, table):
    """Insert the columns dataset, system and seed at the beginning of a table, and the unit of its costs at the end.

    If the record has no system in its metadata, the name of its file is used. If it has no seed, 0 is used. Figures can
    therefore be drawn from imported outputs without metadata.
    """
    known = {"dataset": None, "seed": 0} | record.metadata | {"system": system_of(record.metadata, path)}
    if "cost" in table and "unit" in known:
        table["unit"] = known["unit"]
    for place, key in enumerate(["dataset", "system", "seed"]):
        table.insert(place, key, known[key])
    if "policy" in table:
        table.insert(3, "policy", table.pop("policy"))
    return with_metric(table, record)
