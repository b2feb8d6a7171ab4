"""Training of multi-exit models: all exits at once, the same bits every time, resumed where it was killed."""

from offramp.training.loop import train
from offramp.training.options import TrainingOptions

__all__ = ["TrainingOptions", "train"]
