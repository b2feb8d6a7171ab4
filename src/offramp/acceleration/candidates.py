"""Smaller models that can run before the model: loaded, with their own inputs, and checked."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from offramp.acceleration.data import Images, Inputs, read_data
from offramp.acceleration.exits import Member
from offramp.acceleration.loading import Loaded, load_model
from offramp.cascades.public_models import front, read_zoo
from offramp.datasets.preparing import TextPreparation

FRONT = "front:"
MEMBERS, CHEAPER = 4, 0.5  # of a public front: how many at most, and share of the MACs of the model; our choice


def open_candidates(
    candidates: Sequence, model: Member, data, *, max_tokens: int, skip_unreadable: bool, progress: bool
) -> list[Member]:
    """Load candidates and their inputs.

    Parameters
    ----------
    candidates : sequence of Module or str
        As for `load_model`. front:FILE is a table of public models of timm (`read_zoo`), of whose front of accuracy and
        MACs some members are taken.
    model : Member
        The model itself.
    data : path or ndarray
        From which candidates read their inputs, if they prepare them otherwise than the model.
    max_tokens, skip_unreadable, progress
        As for `accelerate`.

    Returns
    -------
    list of Member
        In ascending order of cost.

    Raises
    ------
    ValueError
        If a candidate cannot be loaded, has other classes, cannot read the data, is not cheaper than the model, or is
        the same as another one.
    """
    found: list[Member] = []
    seen = {model.key: "the model"}
    for each in _expanded(candidates, model):
        loaded = load_model(each, max_tokens)
        name = _unused(loaded.name, [model.loaded.name, *(other.loaded.name for other in found)])
        inputs = _inputs_of(loaded, model, data, skip_unreadable, progress)
        member = Member.of(replace(loaded, name=name), inputs, uncut=True)
        _check_classes(member, model)
        if member.key in seen:
            raise ValueError(f"--candidates: {name} is the same as {seen[member.key]}; expected different models")
        if member.cost >= model.cost:
            raise ValueError(
                f"--candidates: {name} needs {member.cost:,.0f} MACs, the model {model.cost:,.0f}; "
                "expected cheaper models"
            )
        seen[member.key] = name
        named = replace(member.loaded, names=model.names)
        found.append(replace(member, loaded=named, inputs=replace(inputs, labels=model.inputs.labels)))
    return sorted(found, key=lambda member: member.cost)


def _expanded(candidates: Sequence, model: Member) -> list:
    """Return the candidates with the members of public fronts in place of the names of tables."""
    made: list = []
    for each in candidates:
        if not (isinstance(each, str) and each.startswith(FRONT)):
            made.append(each)
            continue
        members = front(read_zoo(Path(each.removeprefix(FRONT))), "gmacs")
        members = members[members["gmacs"] < CHEAPER * model.cost / 1e9]
        if members.empty:
            raise ValueError(f"--candidates: {each}: no model needs less than {CHEAPER:g} of the MACs of the model")
        cost = np.log(members["gmacs"].to_numpy())  # (M,)
        wanted = np.linspace(cost[0], cost[-1], MEMBERS)
        places = np.unique(np.abs(cost[:, None] - wanted).argmin(axis=0))
        made += [("timm", {"backbone": name, "pretrained": True}) for name in members["model"].iloc[places]]
    return made


def _unused(name: str, others: Sequence[str]) -> str:
    """Return a name that no other model has, with a number at its end if need be."""
    made, number = name, 1
    while made in others:
        number += 1
        made = f"{name}-{number}"
    return made


def _inputs_of(loaded: Loaded, model: Member, data, skip_unreadable: bool, progress: bool) -> Inputs:
    """Return the inputs of the model as a candidate reads them."""
    own, inputs = loaded.preparation, model.inputs
    if own is None or own == inputs.preparation:
        return inputs
    kinds = ["texts" if isinstance(each, TextPreparation) else "images" for each in (own, inputs.preparation)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"--candidates: {loaded.name} reads {kinds[0]}, the model {kinds[1]}; expected the same")
    if isinstance(inputs, Images) and inputs.are_prepared:
        raise ValueError(
            f"--candidates: {loaded.name} prepares images otherwise than the model, but the data are prepared already; "
            "give a folder of images or stored pixels"
        )
    made, _ = read_data(data, own, skip_unreadable=skip_unreadable, progress=progress)
    if isinstance(made, Images) and isinstance(made.pixels, np.ndarray):
        shape, given = tuple(made.preparation.shape), made.pixels.shape[1:]
        if given != shape:
            raise ValueError(
                f"--candidates: {loaded.name} reads images {shape}, the data have {given}; "
                "give a folder of images, which are resized"
            )
    if made.names != inputs.names:
        raise ValueError(
            f"--candidates: {loaded.name} reads {len(made)} of the samples, the model {len(inputs)}; expected the same"
        )
    return made


def _check_classes(member: Member, model: Member) -> None:
    """Raise ValueError if the classes of a candidate differ from those of the model in number or name."""
    name = member.loaded.name
    if member.classes != model.classes:
        raise ValueError(
            f"--candidates: {name} has {member.classes} classes, the model {model.classes}; expected the same classes"
        )
    own, names = (_known(each.loaded.names) for each in (member, model))
    if own and names and own != names:
        one, other = next((a, b) for a, b in zip(own, names) if a != b)
        raise ValueError(
            f"--candidates: {name} has the class {one!r} where the model has {other!r}; expected the same classes in "
            "the same order"
        )


def _known(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of classes, without those that transformers gives to classes without names."""
    return () if all(name.startswith("LABEL_") for name in names) else tuple(names)
