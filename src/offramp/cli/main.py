"""The command `offramp`: its verbs, and how it reports errors."""

import sys
import warnings

import click

from offramp import __version__
from offramp.cli import calibrate, data, evaluate, plan, record, report, train

VERBS = (
    *(data.data, train.train, record.record, record.cascade, record.import_),
    *(calibrate.calibrate, calibrate.policies),
    *(evaluate.evaluate, evaluate.compare, evaluate.sensitivity, evaluate.search),
    *(report.figure, report.table, report.summary, report.report, report.environment, report.verify, report.judge),
    plan.plan,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="offramp")
def cli() -> None:
    """Decide, input by input, when a model that answers in stages has computed enough.

    \b
    With your own model's outputs:
      offramp import outputs.npz validation.safetensors
      offramp judge --validation validation.safetensors --test test.safetensors --out judged/
    The verbs in the order of the pipeline: data, train, record, cascade, calibrate, evaluate, compare, sensitivity,
    search, figure, table, summary, environment, report, verify. `offramp policies` lists the rules, `offramp plan`
    estimates what a study costs.
    """


for verb in VERBS:
    cli.add_command(verb)


def main() -> None:
    warnings.formatwarning = lambda message, *_: f"offramp: warning: {message}\n"
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "offramp"
        print(f"offramp: error: {error.format_message()} (see {command} --help)", file=sys.stderr)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit("offramp: interrupted")
    except (ValueError, OSError) as error:
        sys.exit(f"offramp: error: {error}")
