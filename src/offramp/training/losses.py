"""The joint loss of all exits."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, pad


def exit_losses(logits: Tensor, labels: Tensor, distillation: float = 0.0) -> Tensor:
    """Return the loss of each sample at each exit, (B, L), from logits (B, L, C) and labels (B,).

    The loss is the cross-entropy plus `distillation` times KL(final exit ‖ this exit), in nats.
    """
    logits = logits.float()
    labels = labels[:, None].expand(logits.shape[:2])  # (B, L)
    losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)  # (B, L)
    if distillation:
        earlier, final = log_softmax(logits, 2).tensor_split([-1], 1)  # (B, L − 1, C), (B, 1, C)
        teacher = final.detach().expand_as(earlier)  # no gradient to the final exit
        divergence = kl_div(earlier, teacher, reduction="none", log_target=True).sum(2)  # (B, L − 1)
        losses = losses + distillation * pad(divergence, (0, 1))
    return losses


def joint_loss(losses: Tensor, exit_weights: Literal["sum", "linear"]) -> Tensor:
    """Combine the losses of samples and exits (B, L) into one number."""
    losses = losses.mean(0)  # (L,)
    if exit_weights == "sum":
        return losses.sum()
    weights = torch.arange(1, len(losses) + 1, dtype=losses.dtype, device=losses.device)  # (L,)
    return (weights * losses).sum() / weights.sum()
