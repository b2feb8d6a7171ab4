"""Training options."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Training options. The defaults are those of MSDNet on CIFAR.

    Parameters
    ----------
    epochs : int
        Number of epochs. 0 keeps the weights of a pretrained classifier unchanged.
    batch_size : int
        Maximum number of samples per batch. An epoch is split into batches of equal size.
    optimizer : {"sgd", "adamw"}
    learning_rate : float
        Learning rate of the first step.
    momentum : float
        Momentum of SGD. AdamW uses the default betas of torch.
    weight_decay : float
        Weight decay, applied to all parameters.
    schedule : {"multistep", "cosine", "linear"}
        Schedule of the learning rate. "multistep": multiplied by `gamma` after each of the `milestones`. "cosine":
        decreased to 0 along half a cosine, once per epoch. "linear": decreased linearly to 0, at every step, as in
        BEEM.
    milestones : sequence of int
        Numbers of epochs after which the learning rate changes.
    gamma : float
    exit_weights : {"sum", "linear"}
        How the cross-entropies of the exits are combined. "sum": unweighted sum (MSDNet). "linear": weighted mean, with
        weight i for exit i (PABEE).
    distillation : float
        Weight of the distillation loss KL(final ‖ exit), which is added to the cross-entropy of each exit (BEEM). The
        paper does not state the direction and the weight. No gradient flows to the final exit (our choice).
    precision : {"auto", "float32", "bfloat16"}
        Precision of the forward and backward pass in training. Weights and losses are always float32. "auto": bfloat16
        on CUDA, otherwise float32.
    portable : bool
        Compute on a CPU with kernels that every x86-64 processor with AVX2 has, so that the same training gives the
        same bytes on Intel and AMD. Matrix products become slower, so this is meant for small models. It has an effect
        only if torch has not computed anything before in the process.
    compile : bool
        Compile the forward and backward pass of the training step. For MSDNet on a CPU this takes minutes.

    Raises
    ------
    ValueError
        If a name is unknown or a number is out of range.
    """

    epochs: int = 300
    batch_size: int = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["multistep", "cosine", "linear"] = "multistep"
    milestones: tuple[int, ...] = (150, 225)
    gamma: float = 0.1
    exit_weights: Literal["sum", "linear"] = "sum"
    distillation: float = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    portable: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        for name in "optimizer", "schedule", "exit_weights", "precision":
            known = get_args(get_type_hints(type(self))[name])
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"unknown {name} {value!r}: expected one of {', '.join(known)}")
        for name in "batch_size", "learning_rate":
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name}={value}, expected more than 0")
        for name in "epochs", "distillation":
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"{name}={value}, expected 0 or more")

    def learning_rate_of(self, epoch: int, done: float = 0.0) -> float:
        """Return the learning rate in an epoch, counted from 0, after the fraction `done` of the epoch."""
        if self.schedule == "linear":
            return self.learning_rate * (1 - (epoch + done) / self.epochs)
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.learning_rate * self.gamma ** sum(epoch >= milestone for milestone in self.milestones)

    def in_bfloat16(self, device: "torch.device") -> bool:
        """Whether the model is trained in bfloat16 on this device."""
        return self.precision == "bfloat16" or (self.precision == "auto" and device.type == "cuda")

    def stored_options(self) -> dict[str, Any]:
        """Return the options that are stored with the weights.

        Newer options are included only if they are used, so that the parameters of earlier runs do not change.
        """
        unused = [("distillation", 0.0), ("precision", "auto"), ("portable", False), ("compile", False)]
        return {name: value for name, value in asdict(self).items() if (name, value) not in unused}
