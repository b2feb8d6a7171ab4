"""The command `offramp`: its subcommands and its error messages."""

import sys
import warnings

import click

from offramp import __version__
from offramp.cli import (
    accelerate,
    bundle,
    calibrate,
    captions,
    certify,
    data,
    evaluate,
    plan,
    record,
    reject,
    report,
    shift,
    stream,
    timing,
    train,
)

VERBS = (
    *(data.data, train.train, record.record, record.cascade, record.router, record.import_),
    *(calibrate.calibrate, calibrate.policies, certify.certify, reject.reject),
    *(evaluate.evaluate, evaluate.compare, evaluate.sensitivity, evaluate.points, evaluate.learning_curve),
    *(evaluate.search, evaluate.resplit),
    *(stream.stream, shift.shift, shift.drift),
    *(
        report.figure,
        report.table,
        report.summary,
        report.report,
        report.environment,
        report.compare_reports,
        report.judge,
    ),
    *(captions.train_captioner, captions.record_tokens, captions.sweep_captions),
    *(captions.compare_captions, captions.generate),
    *(timing.time, bundle.export, bundle.run, bundle.serve),
    *(accelerate.accelerate, accelerate.record_exits, accelerate.accelerations),
    plan.plan,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="offramp")
def cli() -> None:
    """Early-exit policies: decide for each input at which stage a model has computed enough.

    \b
    To compare policies on the outputs of your own model:
      offramp import outputs.npz validation.safetensors
      offramp import test_outputs.npz test.safetensors
      offramp judge --validation validation.safetensors --test test.safetensors --out judged/

    \b
    The commands of the pipeline, in order:
      data, train, record              create exit records
      cascade, router                  combine the records of several models
      calibrate, evaluate              fit policies on validation data, and evaluate them on test data
      certify                          choose thresholds with a guarantee
      reject                           choose thresholds for exits and for rejection together
      compare, sensitivity, search     compare runs, settings and cascades, with intervals
      resplit                          repeat the search on other random splits
      stream                           learn while the policy is used, and watch for a shift
      shift                            measure what becomes of promises if the inputs are corrupted
      drift                            run online policies over streams whose corruption grows
      points                           evaluate policies in detail, for the page of the report
      record-exits, accelerations      measure how often the promises of `offramp accelerate` are kept
      figure, table, summary, report   show the results

    \b
    To make a model of your own faster, with a certificate:
      offramp accelerate --model timm:backbone=resnet50.a1_in1k,pretrained=true --data images/ --agree 0.99 --out fast/

    \b
    To measure how much faster a trained model is if it stops, and to use it without torch:
      time                             measure the speed-up of each policy in seconds
      export, run, serve               write a bundle, run it on images or texts, and serve it over HTTP

    \b
    To write captions of images, where each word may leave the decoder early:
      train-captioner, record-tokens   train a captioner, and create exit records of its words
      sweep-captions                   measure the captions at many thresholds
      compare-captions                 compare the captions of all runs, with intervals
      generate                         write captions with a fitted policy

    `offramp policies` lists the policies, and `offramp plan` estimates the cost of a study. `offramp COMMAND --help`
    explains each command.
    """


for verb in VERBS:
    cli.add_command(verb)


def main() -> None:
    """Run the command. Errors in the input are printed as one line, without a traceback, and so is each warning."""
    warned = set()

    def warn(message, *_, **__) -> None:
        if str(message) not in warned:  # libraries that change the filters make Python forget what it has shown
            print(f"offramp: warning: {message}", file=sys.stderr)
        warned.add(str(message))

    warnings.showwarning = warn
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
    except ModuleNotFoundError as error:
        if not (extras := _extras_with(str(error.name))):
            raise
        needed = " or ".join(f"'offramp[{extra}]'" for extra in extras)
        sys.exit(f"offramp: error: {error.name} is not installed, which this command needs; pip install {needed}")
    except (ValueError, OSError) as error:
        sys.exit(f"offramp: error: {error}")


def _extras_with(module: str) -> list[str]:
    """Return the names of the extras of this package that install a module, without those for its development."""
    import re  # only needed here
    from importlib.metadata import requires

    package = module.partition(".")[0]
    others = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml", "vl_convert": "vl-convert-python"}
    project = others.get(package, package.replace("_", "-"))
    given = (re.match(r"([\w-]+).*extra == .(\w+).$", each) for each in requires("offramp") or ())
    return [own[2] for own in given if own and own[1] == project and own[2] not in ("docs", "test")]
