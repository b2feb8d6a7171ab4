"""What every registry of names does: find an entry, import it when it is needed, and check its options."""

from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import import_module
from typing import Any, TypeVar

Entry = TypeVar("Entry")


def find(registry: Mapping[str, Entry], kind: str, name: str) -> Entry:
    """The entry of that name.

    Raises
    ------
    ValueError
        If there is none; the message lists the known names.
    """
    if name not in registry:
        raise ValueError(f"unknown {kind} {name!r}: expected one of {', '.join(registry)}")
    return registry[name]


def load(entry: str | Callable, package: str) -> Any:
    """What an entry "module:name" of a package's registry stands for. A callable stands for itself."""
    if callable(entry):
        return entry
    module, _, name = entry.partition(":")
    return getattr(import_module(f"{package}.{module}"), name)


def check_options(owner: str, given: Iterable[str], known: Collection[str], required: Iterable[str] = ()) -> None:
    """Raise ValueError if an option is unknown (the message lists the known ones) or a required one is missing."""
    given = list(given)
    if unknown := [option for option in given if option not in known]:
        expected = f"some of {', '.join(known)}" if known else "none"
        raise ValueError(f"{owner}: unknown option {unknown[0]!r}: expected {expected}")
    if missing := [option for option in required if option not in given]:
        raise ValueError(f"{owner}: expected the option {missing[0]!r}")
