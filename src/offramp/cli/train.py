"""The command `offramp train`."""

import click

from offramp.cli.options import EXISTING, OUT, THREADS, Spec, Verb


@click.command(cls=Verb)
@click.option("--dataset", type=Spec(), required=True, help="Dataset, for example digits, digits:shift=0 or reviews.")
@click.option("--splits", type=EXISTING, required=True, help="Splits from `offramp data`.")
@click.option(
    "--model",
    type=Spec(),
    required=True,
    help="Model, for example msdnet:exits=4,channels=16 or encoder:backbone=minilm-l6,pretrained=true.",
)
@click.option("--system", required=True, help="Name of the model in the study, for example msdnet-small.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the weights and of the batches."
)
@click.option(
    "--epochs",
    type=click.IntRange(0),
    help="Number of epochs. 0 keeps pretrained weights unchanged. Default: 300. The defaults of this and the following "
    "options are those of MSDNet on CIFAR.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Number of samples per batch. Default: 64.")
@click.option("--optimizer", type=click.Choice(["sgd", "adamw"]), help="Optimizer. Default: sgd.")
@click.option("--learning-rate", type=float, help="Initial learning rate. Default: 0.1.")
@click.option("--momentum", type=float, help="Momentum of sgd. Default: 0.9.")
@click.option("--weight-decay", type=float, help="Weight decay. Default: 0.0001.")
@click.option(
    "--schedule",
    type=click.Choice(["multistep", "cosine", "linear"]),
    help="Learning-rate schedule. Default: multistep.",
)
@click.option(
    "--milestone",
    "milestones",
    type=int,
    multiple=True,
    help="For multistep: epoch after which the learning rate is reduced. Repeat this option. Default: 150 225.",
)
@click.option("--gamma", type=float, help="For multistep: factor of each reduction. Default: 0.1.")
@click.option(
    "--exit-weights",
    type=click.Choice(["sum", "linear"]),
    help="Weight of exit i in the loss: 1 (sum) or i (linear). Default: sum.",
)
@click.option(
    "--distillation", type=float, help="Weight of KL(final exit ‖ exit) in the loss of each exit. Default: 0."
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    help="Precision of training. Default: auto, which is bfloat16 on CUDA and float32 otherwise.",
)
@click.option(
    "--portable",
    is_flag=True,
    default=None,
    help="Compute the same bytes on Intel and AMD processors. For small models, because it slows down matrix products.",
)
@click.option("--compile", is_flag=True, default=None, help="Compile the training step.")
@THREADS
@click.option(
    "--workers", type=click.IntRange(0), default=0, show_default=True, help="Number of processes that prepare batches."
)
@click.option("--out", type=OUT, required=True, help="Output: weights, .safetensors.")
@click.option("--history", type=OUT, required=True, help="Output: CSV file with one row per epoch.")
def train(dataset, splits, model, system, seed, threads, workers, out, history, **training) -> None:
    """Train a model on the training samples of a dataset. All exits are trained jointly.

    A checkpoint is saved after every epoch, next to the weights. If training is interrupted, the same command continues
    from the last epoch. The checkpoint is deleted at the end. The output is read by `offramp record`.

    \b
    For example:
      offramp train --dataset digits --splits splits.csv --system vit --epochs 2 \\
          --model vit:backbone=vit_tiny_patch16_224,patch_size=4,depth=4 --out weights.safetensors \\
          --history history.csv

    \b
    On 4 GPUs of a machine, with each batch divided between them:
      torchrun --standalone --nproc-per-node 4 -m offramp train …
    """
    from offramp.datasets import load_dataset
    from offramp.datasets.splits import load_splits
    from offramp.models import build_model
    from offramp.training.device import portable_kernels
    from offramp.training.loop import train
    from offramp.training.options import TrainingOptions

    (data_name, data_options), (model_name, model_options) = dataset, model
    options = TrainingOptions(**{key: value for key, value in training.items() if value not in (None, ())})
    with portable_kernels(options.portable):  # before anything is computed: loading a dataset does
        source = load_dataset(data_name, **data_options)
        train(
            lambda: build_model(model_name, classes=source.classes, **source.input_options, **model_options),
            source,
            load_splits(splits, source),
            options,
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
