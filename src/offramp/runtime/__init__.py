"""Models that stop: early exits in batches, of torch models (`EarlyExit`) and of exported bundles without torch."""

from typing import TYPE_CHECKING, Any

from offramp.runtime.loop import Answers

if TYPE_CHECKING:
    from offramp.runtime.modules import EarlyExit

__all__ = ["Answers", "EarlyExit"]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is used."""
    if name == "EarlyExit":
        from offramp.runtime.modules import EarlyExit

        return EarlyExit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
