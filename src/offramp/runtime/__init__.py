"""Models that stop: early exits in batches, of torch models (`EarlyExit`) and of exported bundles without torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from offramp.runtime.loop import Answers

if TYPE_CHECKING:
    from offramp.runtime.bundle import Bundle, load
    from offramp.runtime.exporting import export_bundle
    from offramp.runtime.modules import EarlyExit
    from offramp.runtime.single import write_single_file

__all__ = ["Answers", "Bundle", "EarlyExit", "export_bundle", "load", "write_single_file"]

# Imported when they are used: some need torch, and others onnxruntime
_MODULES = {"Bundle": "bundle", "load": "bundle", "EarlyExit": "modules", "export_bundle": "exporting"}
_MODULES |= {"write_single_file": "single"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"offramp.runtime.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
