"""How a model is trained."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to train; the defaults are MSDNet's on CIFAR.

    Parameters
    ----------
    epochs : int
        0 keeps the weights as they come: those of a pretrained classifier.
    batch_size : int
        The most samples in a batch; an epoch is cut into equal ones.
    optimizer : {"sgd", "adamw"}
    learning_rate : float
        Of the first step.
    momentum : float
        Of SGD; AdamW keeps torch's betas.
    weight_decay : float
        On all parameters.
    schedule : {"multistep", "cosine", "linear"}
        How the learning rate falls. "multistep": from epoch to epoch, times `gamma` after each of the
        `milestones`. "cosine": from epoch to epoch to 0, along half a cosine over all epochs. "linear": from step
        to step to 0, along a line over all steps, as BEEM fine-tunes.
    milestones : sequence of int
        After how many epochs.
    gamma : float
    exit_weights : {"sum", "linear"}
        How the exits' cross-entropies make one loss. "sum": their plain sum (MSDNet). "linear": their mean,
        exit i weighted by i (PABEE).
    distillation : float
        How much each exit is to follow the final one (BEEM): to its cross-entropy comes so many times
        KL(final ‖ exit). The paper leaves the direction and the weight open; that the final exit is not
        moved by it is our choice.
    precision : {"auto", "float32", "bfloat16"}
        What the model computes in while it trains; weights and losses are float32 always. "auto": bfloat16 on
        CUDA, else float32.
    compile : bool
        Compile the training step's forward and backward pass. On a CPU MSDNet needs minutes for that.

    Raises
    ------
    ValueError
        If a name is unknown or a number out of range.
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
        """The learning rate in an epoch, counted from 0, of which the share `done` is over."""
        if self.schedule == "linear":
            return self.learning_rate * (1 - (epoch + done) / self.epochs)
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.learning_rate * self.gamma ** sum(epoch >= milestone for milestone in self.milestones)

    def in_bfloat16(self, device: "torch.device") -> bool:
        """Whether the model computes in bfloat16 there."""
        return self.precision == "bfloat16" or (self.precision == "auto" and device.type == "cuda")

    def recorded(self) -> dict[str, Any]:
        """What is kept with the weights: of the later options only those in use, so that earlier runs stay the same."""
        unused = [("distillation", 0.0), ("precision", "auto"), ("compile", False)]
        return {name: value for name, value in asdict(self).items() if (name, value) not in unused}
