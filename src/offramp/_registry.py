"""Functions that all registries use: find an entry by name, import it when it is needed, and check its options."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import import_module
from typing import Any, TypeVar

Entry = TypeVar("Entry")


def find(registry: Mapping[str, Entry], kind: str, name: str) -> Entry:
    """Return the entry of a registry. `kind` is used in the error message.

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the known names.
    """
    if name not in registry:
        raise ValueError(f"unknown {kind} {name!r}: expected one of {', '.join(registry)}")
    return registry[name]


def load(entry: str | Callable, package: str) -> Any:
    """Import the object of an entry "module:name", relative to a package. Callables are returned unchanged."""
    if callable(entry):
        return entry
    module, _, name = entry.partition(":")
    return getattr(import_module(f"{package}.{module}"), name)


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the options in "NAME:option=value,…". Values are JSON; anything else is a string.

    Raises
    ------
    ValueError
        If an option has no value.
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for item in re.split(r",(?![^\[]*\])", rest) if rest else []:  # commas, but not those inside [ ]
        option, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"{item!r} in {text!r}: expected option=value")
        try:
            options[option] = json.loads(value)
        except ValueError:
            options[option] = value
    return name, options


def check_options(owner: str, given: Iterable[str], known: Collection[str], required: Iterable[str] = ()) -> None:
    """Check the names of options.

    Raises
    ------
    ValueError
        If an option is unknown (the message lists the known ones), or if a required option is missing.
    """
    given = list(given)
    if unknown := [option for option in given if option not in known]:
        expected = f"some of {', '.join(known)}" if known else "none"
        raise ValueError(f"{owner}: unknown option {unknown[0]!r}: expected {expected}")
    if missing := [option for option in required if option not in given]:
        raise ValueError(f"{owner}: expected the option {missing[0]!r}")
