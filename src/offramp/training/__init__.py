"""Training of multi-exit models: joint training of all exits, reproducible and resumable."""

from offramp.training.loop import train
from offramp.training.options import TrainingOptions

__all__ = ["TrainingOptions", "train"]
