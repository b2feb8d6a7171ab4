"""`offramp train`: the weights of a model."""

import click

from offramp.cli.options import (
    EXISTING,
    OUT,
    Spec,
    Verb,
)


@click.command(cls=Verb)
@click.option("--dataset", type=Spec(), required=True, help="For example digits, digits:shift=0 or reviews.")
@click.option("--splits", type=EXISTING, required=True, help="What `offramp data` wrote.")
@click.option(
    "--model",
    type=Spec(),
    required=True,
    help="For example msdnet:exits=4,channels=16 or encoder:backbone=minilm-l6,pretrained=true.",
)
@click.option("--system", required=True, help="What the study calls this model, for example msdnet-small.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--epochs",
    type=click.IntRange(0),
    help="Default: 300, as for MSDNet on CIFAR; so are the next. 0 keeps the weights as they come.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Default: 64.")
@click.option("--optimizer", type=click.Choice(["sgd", "adamw"]), help="Default: sgd.")
@click.option("--learning-rate", type=float, help="Of the first step. Default: 0.1.")
@click.option("--momentum", type=float, help="Of SGD. Default: 0.9.")
@click.option("--weight-decay", type=float, help="Default: 0.0001.")
@click.option("--schedule", type=click.Choice(["multistep", "cosine", "linear"]), help="Default: multistep.")
@click.option(
    "--milestone",
    "milestones",
    type=int,
    multiple=True,
    help="Of multistep: cut the rate after this epoch. Repeat. Default: 150 225.",
)
@click.option("--gamma", type=float, help="Of multistep: what a cut multiplies by. Default: 0.1.")
@click.option(
    "--exit-weights", type=click.Choice(["sum", "linear"]), help="Weight of exit i in the loss: 1 (the default), or i."
)
@click.option("--distillation", type=float, help="Weight of KL(final exit ‖ exit) in an exit's loss. Default: 0.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    help="Of the model in training. Default: auto, which is bfloat16 on CUDA, else float32.",
)
@click.option(
    "--portable",
    is_flag=True,
    default=None,
    help="Compute the same bytes on Intel and AMD processors. Matrix products become slower: for small models.",
)
@click.option("--compile", is_flag=True, default=None, help="Compile the training step.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads of torch.")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that prepare batches.")
@click.option("--out", type=OUT, required=True, help="Weights, .safetensors; a checkpoint lies beside it until done.")
@click.option("--history", type=OUT, required=True, help="CSV, a row an epoch.")
def train(dataset, splits, model, system, seed, threads, workers, out, history, **training) -> None:
    """Train a model, all exits jointly. Killed and started again, it goes on from the last epoch.

    \b
    On 4 GPUs of a machine, each batch cut over them:
      torchrun --standalone --nproc-per-node 4 -m offramp train …
    """
    from offramp.datasets import load_dataset
    from offramp.datasets.splits import load_splits
    from offramp.models import build_model
    from offramp.training.loop import train
    from offramp.training.options import TrainingOptions

    (data_name, data_options), (model_name, model_options) = dataset, model
    source = load_dataset(data_name, **data_options)
    train(
        lambda: build_model(model_name, classes=source.classes, **source.input_options, **model_options),
        source,
        load_splits(splits, source),
        TrainingOptions(**{key: value for key, value in training.items() if value not in (None, ())}),
        seed=seed,
        out=out,
        history=history,
        parameters={
            "system": system,
            "dataset_options": data_options,
            "model": model_name,
            "model_options": model_options,
        },
        label=f"{system} seed {seed}",
        threads=threads,
        workers=workers,
    )
