"""Which columns of a file are the labels, predictions, confidences and costs: named by the user, or guessed."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from offramp.records.record import KNOWN

# A column, or columns side by side: one for each exit or class, or for each exit one for each class
Place = str | list["Place"]
Given = str | Sequence[str]  # names of columns, or patterns with {} for a number


@dataclass(frozen=True)
class Role:
    """What columns can be: the description, usual names (the first ones are our own), and whether each exit has one."""

    about: str
    own: tuple[str, ...]
    usual: tuple[str, ...] = ()
    by_exit: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.own, *self.usual)


_TRUE = (
    "true_label",
    "true_labels",
    "ground_truth",
    "target",
    "targets",
    "y_true",
    "gold",
    "gold_label",
    "gt",
    "truth",
)
_IDS = ("id", "idx", "sample_id", "sample_index", "image_id", "example_id")
_PREDICTED = ("predictions", "pred", "preds", "pred_label", "predicted", "predicted_label", "predicted_class", "y_pred")
_SURE = ("confidence", "confidences", "conf", "max_prob", "max_probability", "msp")
_PROBABILITIES = ("probability", "probs", "prob", "proba", "softmax", "y_prob", "y_proba")

# To import something else, add a line here. `offramp import` has an option for each of them.
ROLES = {
    "label": Role("labels", ("label", "labels"), _TRUE, by_exit=False),
    "prediction": Role("predictions", ("prediction",), _PREDICTED),
    **{name: Role(name.replace("_", " "), (name,)) for name in KNOWN},
    "max_softmax": Role("confidences: probability of the predicted class", ("max_softmax",), _SURE),
    "margin": Role("largest minus second largest probability", ("margin",)),
    "entropy": Role("entropies of the probabilities, in nats", ("entropy",)),
    "similarity": Role("cosine similarity of the hidden state with that of the exit before", ("similarity",)),
    "logits": Role("logits of all classes", ("logits", "logit")),
    "probabilities": Role("probabilities of all classes, or of class 1 of two", ("probabilities",), _PROBABILITIES),
    "quality": Role("quality of the answers, from 0 to 1, in place of labels", ("quality",)),
    "index": Role("identity of the samples: whole numbers or text", ("index",), _IDS, by_exit=False),
    "features": Role(
        "what is known before the first exit, for the policy router: one column per feature", ("features",)
    ),
    "cost": Role("cumulative costs", ("cost",), ("costs",)),
}
ANSWERS = ("quality", "logits", "probabilities")  # one of them can take the place of label and prediction


def find_roles(
    columns: Collection[str], given: Mapping[str, Given], wide: Collection[str] = ()
) -> tuple[dict[str, Place], dict[str, str]]:
    """Find the columns of each role.

    Parameters
    ----------
    columns : collection of str
        Names of all columns.
    given : mapping of str to str or sequence of str
        Columns by role, as named by the user. If there is one of quality, logits, probabilities, prediction and the
        confidences among them, the others of the first three are not looked for.
    wide : collection of str
        Columns with several values per sample.

    Returns
    -------
    found : dict of str to str or nested lists of str
        The columns of each role.
    guessed : dict of str to str
        Usual names, or patterns of such, by which columns were found that are not named as in the documentation.

    Raises
    ------
    ValueError
        If a column is missing, or if several may be meant.
    """
    if unknown := given.keys() - ROLES.keys():
        raise ValueError(f"columns: {unknown.pop()!r} is not known; expected some of {', '.join(ROLES)}")
    found = {role: _named(role, names, columns) for role, names in given.items()}
    guessed = {}

    def guess(role: str, needed: bool = False) -> None:
        if role in found:
            return
        taken = {name for place in found.values() for name in flat(place)}
        pattern, place = _guess(role, [column for column in columns if column not in taken])
        if place is not None and not (role == "probabilities" and isinstance(place, str) and place not in wide):
            found[role] = place
            if not any(_fits(own, name) for name in flat(place)[:1] for own in ROLES[role].own):
                guessed[role] = pattern
        elif needed:
            others = {"label": " (or --quality)", "prediction": " (or --logits, --probabilities)"}.get(role, "")
            raise ValueError(
                f"no {role}; expected a column {ROLES[role].names[0]}, or its name by {option(role)}{others}, "
                f"columns={{{role!r}: …}}; there are {some(columns)}"
            )

    scores = [role for role in ANSWERS if role in given]
    if len(scores) > 1:
        raise ValueError(f"both {option(scores[0])} and {option(scores[1])}; expected one of them")
    if not scores and not given.keys() & ({"prediction", *KNOWN} - {"similarity"}):
        for role in ANSWERS:
            if not scores:
                guess(role)
                scores = [role] if role in found else []
    if scores != ["quality"]:
        guess("label", needed=True)
    if scores in ([], ["quality"]):
        guess("prediction", needed=not scores)
        for role in KNOWN:
            guess(role)
    for role in ("similarity", "index", "cost"):
        guess(role)
    return found, guessed


def option(role: str) -> str:
    """The option of `offramp import` that names the columns of a role."""
    return f"--{role.replace('_', '-')}"


def flat(place: Place) -> list[str]:
    """All columns of a role, in order."""
    return [place] if isinstance(place, str) else [name for part in place for name in flat(part)]


def some(names: Collection[str], most: int = 8) -> str:
    """The first few of many names, for messages."""
    names = [f"{name[:40]}…" if len(name) > 40 else name for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _named(role: str, given: Given, columns: Collection[str]) -> Place:
    patterns = [given] if isinstance(given, str) else list(given)
    places = []
    for pattern in patterns:
        if (place := _expand(pattern, columns)) is None:
            raise ValueError(f"no column {pattern!r} for {option(role)}; there are {some(columns)}")
        places.append(place)
    if not places or (len(places) > 1 and not ROLES[role].by_exit):
        raise ValueError(f"{option(role)}: {len(places)} columns; expected one")
    return places[0] if len(places) == 1 else places


def _expand(pattern: str, columns: Collection[str]) -> Place | None:
    """Replace the first {} by 0, 1, … or 1, 2, …, as far as there are columns, and then the second. None if none fit.

    Raises ValueError if a number is left out.
    """
    if pattern in columns:
        return pattern
    before, braces, after = pattern.partition("{}")
    fits = re.compile(f"{re.escape(before)}({_NUMBER}){re.escape(after).replace(re.escape('{}'), _NUMBER)}")
    numbers = sorted({int(fit[1]) for column in columns if (fit := fits.fullmatch(column))} if braces else ())
    for place, number in enumerate(numbers, start=min(numbers[:1], default=0) and 1):
        if number != place:
            raise ValueError(f"no column {before}{place}{after}; expected it, as there is {before}{numbers[-1]}{after}")
    parts = (_expand(f"{before}{number}{after}", columns) for number in numbers)
    return [part for part in parts if part is not None] or None


_NUMBER = "(?:0|[1-9][0-9]*)"


def _guess(role: str, columns: Sequence[str]) -> tuple[str, Place | None]:
    """Find the columns of usual names. Capitals, blanks and hyphens make no difference."""
    plain = {re.sub(r"[ -]", "_", column.strip().lower()): column for column in columns}
    forms = ("{}", "{}_{{}}", "{}{{}}", "exit_{{}}_{}", "exit{{}}_{}") if ROLES[role].by_exit else ("{}",)
    for names in (ROLES[role].own, ROLES[role].usual):
        patterns = [form.format(name) for name in names for form in forms]
        fits = {pattern: place for pattern in patterns if (place := _expand(pattern, plain)) is not None}
        if len(fits) > 1:
            one, other = list(fits)[:2]
            raise ValueError(f"{one} or {other} may be the {role}; name the right one by {option(role)}")
        for pattern, place in fits.items():
            return pattern, _renamed(place, plain)
    return "", None


def _renamed(place: Place, names: Mapping[str, str]) -> Place:
    return names[place] if isinstance(place, str) else [_renamed(part, names) for part in place]


def _fits(own: str, name: str) -> bool:
    return re.fullmatch(rf"{own}(_{_NUMBER})?", name) is not None
