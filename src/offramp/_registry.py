"""Functions that all registries use: find an entry by name, import it when it is needed, and check its options."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from importlib import import_module
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

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


def check_fields(entry: Any) -> None:
    """Check the values of the options of an entry, which are its dataclass fields, and make them plain Python values.

    Valid values follow from the annotation of a field: those of a Literal, integers from `least` on (int), finite
    numbers above `above` (float), and None if the annotation includes it. `least` (1 by default) and `above` are in the
    metadata of the field.

    Raises
    ------
    ValueError
        If a value is not valid. The message says what was expected.
    """
    hints = get_type_hints(type(entry))
    for field in fields(entry):
        what, value = f"{entry.name}: option {field.name}", getattr(entry, field.name)
        setattr(entry, field.name, _checked(what, value, hints[field.name], **field.metadata))


def _checked(what: str, value: Any, hint: Any, least: int = 1, above: float = -inf) -> Any:
    """Return a value as a plain Python value, if it fits the annotation."""
    alternatives = [hint] if get_origin(hint) is Literal or not get_args(hint) else list(get_args(hint))
    allowed = [v for a in alternatives for v in (get_args(a) if get_origin(a) is Literal else [])]
    if type(None) in alternatives:
        allowed.append(None)
    for a in allowed:
        if value is a or (isinstance(value, str) and value == a):
            return a  # not the value itself, so that a NumPy string becomes a plain string
    number = isinstance(value, Real) and not isinstance(value, bool)
    if int in alternatives and number and isinstance(value, Integral) and int(value) >= least:
        return int(value)
    if float in alternatives and number and isfinite(value) and value > above:
        return float(value)
    numbers = {
        int: f"a whole number from {least}",
        float: "a number" if above == -inf else f"a number above {above}",
    }
    kinds = [numbers[a] for a in alternatives if a in numbers]
    raise ValueError(f"{what} is {value!r}: expected {' or '.join([*map(repr, allowed), *kinds])}")
