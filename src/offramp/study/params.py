"""Validation of params.yaml, and access to the settings of a study."""

import itertools
import math
import os
import reprlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from offramp.datasets import CAPTIONED, DATASETS, OUTPUTS, RECORDED
from offramp.datasets.corruptions import CORRUPTIONS
from offramp.models import CAPTIONING, MODELS, SINGLE_EXIT, STORED
from offramp.policies import Policy, make_policy
from offramp.records.splitting import Holdout

DEEPEST, MOST = 20, 100_000  # levels and values of settings
LONGEST = 1_000_000  # values of a grid of thresholds
SAMPLES = ("validation", "fit_share", "folds")  # which validation samples a variant of the sensitivity study uses


def read_params(path: str | os.PathLike) -> dict[str, Any]:
    """Read params.yaml. Raises ValueError, with the place, if it is not YAML or has no settings."""
    import yaml

    try:
        params = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # of dates, of keys, and of depth
        what = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"{path}: not YAML ({what})") from None
    if not isinstance(params, dict):
        raise ValueError(f"{path}: {_shown(params)}; expected settings, as `study: digits`")
    return params


def select_study(params: Mapping[str, Any], schema: str | os.PathLike) -> dict[str, Any]:
    """Validate params.yaml and return the settings of the selected study, with those that all studies share.

    The file is checked against the schema, and all names in it must be defined.

    Parameters
    ----------
    params : mapping
        Content of params.yaml, in which `study` may be replaced by a command-line option.
    schema : path
        JSON schema in YAML format.

    Raises
    ------
    ValueError
        If the file is invalid. The message is one line for the first error, with its place and what was expected.
    """
    from jsonschema.exceptions import best_match

    for problem in _strange(params, itertools.count()):
        raise ValueError(f"params.yaml: {problem}")
    error = best_match(_validator(schema).iter_errors(params))
    if error is not None:
        raise ValueError(f"params.yaml: {_one_line(error)}")
    for problem in _mistakes(params):
        raise ValueError(f"params.yaml: {problem}")
    if params["study"] not in params["studies"]:
        raise ValueError(f"params.yaml: no study {params['study']!r}; expected one of {', '.join(params['studies'])}")
    study = _with_shared(params["studies"][params["study"]], params)
    study["duels"] = [duel for duel in study["duels"] if used_policies(study).keys() >= set(duel)]
    return study


@cache
def _validator(schema: str | os.PathLike):
    import jsonschema
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where libyaml is there
    return jsonschema.Draft202012Validator(yaml.load(Path(schema).read_text(encoding="utf-8"), loader))


def _with_shared(study: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a study with those that all studies share, which its own policies and duels extend."""
    return {
        **study,
        "policies": {**params["policies"], **study["own_policies"]},
        "deltas": params["deltas"],
        "duels": [*params["duels"], *study["comparison"].get("duels", [])],
    }


def training_of(study: Mapping[str, Any], system: str) -> dict[str, Any]:
    """Return the training settings of the study, overridden by those of the model."""
    return {**study["training"], **study["models"][system].get("training", {})}


def dataset_of(study: Mapping[str, Any], system: str) -> dict[str, Any]:
    """Return the dataset options of the study, overridden by those of the model."""
    return {**study["dataset"], **study["models"][system].get("dataset", {})}


def systems_of(study: Mapping[str, Any]) -> list[str]:
    """Return the systems on which policies are evaluated: multi-exit models, cascades and routers."""
    staged = [name for name, options in study["models"].items() if options["model"] not in SINGLE_EXIT]
    return [*staged, *composed_of(study)]


def composed_of(study: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the models of each cascade and router."""
    return {**study["cascades"], **study["routers"]}


def trained_of(study: Mapping[str, Any]) -> list[str]:
    """Return the models that are trained or loaded, and run. The others are stored outputs."""
    return [name for name, options in study["models"].items() if options["model"] != STORED]


def policies_of(study: Mapping[str, Any], system: str) -> dict[str, dict[str, Any]]:
    """Return the policies for a system, by label: those for its kind (cascades and routers are kinds) that need nothing
    which records of its dataset lack. On routers, these are the policies that do not read the outputs of exits."""
    routes = system in study["routers"]
    kind = "router" if routes else "cascade" if system in study["cascades"] else study["models"][system]["model"]
    there = set(contents_of(study))

    def fits(options: Mapping[str, Any]) -> bool:
        policy = _made(options)
        return (
            kind in options.get("models", [kind]) and set(policy.needs) <= there and not (routes and policy.reads_exits)
        )

    return {label: options for label, options in study["policies"].items() if fits(options)}


def used_policies(study: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the policies that apply to at least one system of the study, by label."""
    used = {label for system in systems_of(study) for label in policies_of(study, system)}
    return {label: options for label, options in study["policies"].items() if label in used}


def contents_of(study: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the records of the study contain, as `Policy.needs` names it."""
    name, contents = study["dataset"]["name"], RECORDED
    if name in CAPTIONED and "tokenizer" in study["dataset"]:  # logits of a large vocabulary are not recorded
        contents = tuple(each for each in RECORDED if each != "logits")
    return OUTPUTS.get(name, contents)


def _made(options: Mapping[str, Any]) -> Policy:
    """Make the policy of an entry of `policies`."""
    options = {key: value for key, value in options.items() if key != "models"}
    return make_policy(options.pop("policy"), **options)


def _one_line(error) -> str:
    where = ".".join(map(str, error.absolute_path)) or "top level"
    match error.validator:
        case "enum":
            return f"{where} is {_shown(error.instance)}: expected one of {', '.join(map(str, error.validator_value))}"
        case "type":
            return f"{where} is {_shown(error.instance)}: expected {error.validator_value}"
        case "additionalProperties":
            known = error.schema.get("properties", {})
            unknown = sorted(set(error.instance) - set(known))
            return f"{where} has an unknown key {unknown[0]!r}: expected some of {', '.join(known)}"
        case _:
            return f"{where}: {error.message.replace(repr(error.instance), _shown(error.instance))}"


def _shown(value: Any) -> str:
    """Show a value in at most some dozen characters per level, on one line."""
    return reprlib.repr(value)


def _strange(value: Any, count: Iterator[int], where: str = "", depth: int = 0) -> Iterator[str]:
    """Yield what YAML allows but settings are not: keys that are not text, infinite numbers, and endless nesting.

    YAML can repeat a value by its name, also within itself, so that few lines stand for any number of values.
    """
    place = where or "top level"
    if depth > DEEPEST or next(count) > MOST:
        yield f"{place} is in more than {DEEPEST} levels, or after {MOST:,} other values: expected fewer"
        return
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{place} is {value}: expected a finite number"
    if not isinstance(value, dict | list):
        return
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict) and not isinstance(key, str):
            yield f"{place} has the key {_shown(key)}: expected text"
        yield from _strange(each, count, f"{where}.{key}" if where else str(key), depth + 1)


def _mistakes(params: Mapping[str, Any]) -> Iterator[str]:
    """Yield errors that the schema cannot detect: undefined names and invalid options of policies."""
    policies = {}
    places = {"policies": params["policies"]}
    places |= {f"studies.{name}.own_policies": study["own_policies"] for name, study in params["studies"].items()}
    for where, labelled in places.items():
        for label, options in labelled.items():
            try:
                made = _made(options)
            except ValueError as error:
                yield f"{where}.{label}: {error}"
            else:
                if where == "policies":
                    policies[label] = made
    if unknown := [label for label in params["deltas"] if label not in policies]:
        yield f"deltas names {unknown[0]!r}: expected one of the policies {', '.join(policies)}"
    for duel in params["duels"]:
        if unknown := [label for label in duel if label not in policies]:
            yield f"duels names {unknown[0]!r}: expected one of the policies {', '.join(policies)}"
        if duel[0] == duel[1]:
            yield f"duels sets {duel[0]!r} beside itself: expected two policies"
    grids = {f"deltas.{label}": delta for label, delta in params["deltas"].items()}
    grids |= {f"studies.{name}.delta": study["delta"] for name, study in params["studies"].items()}
    for where, delta in grids.items():
        if delta["start"] > delta["stop"]:
            yield f"{where} starts at {delta['start']} and stops at {delta['stop']}: expected a rise"
        if (delta["stop"] - delta["start"]) / delta["step"] >= LONGEST:
            yield f"{where} has the step {delta['step']}: expected at most {LONGEST:,} thresholds"
    for name, study in params["studies"].items():
        whole = _with_shared(study, params)
        for duel in study["comparison"].get("duels", []):
            if unknown := [label for label in duel if label not in whole["policies"]]:
                known = ", ".join(whole["policies"])
                yield f"studies.{name}.comparison.duels names {unknown[0]!r}: expected one of the policies {known}"
        present = {label: _made(options) for label, options in used_policies(whole).items()}
        yield from (f"studies.{name}.{problem}" for problem in _mistakes_of_study(study, present))


def _mistakes_of_study(study: Mapping[str, Any], policies: Mapping[str, Policy]) -> Iterator[str]:
    models, systems = study["models"], systems_of(study)
    registered = [("dataset.name", study["dataset"]["name"], [*DATASETS, *CAPTIONED])]
    known = [*MODELS, STORED, *CAPTIONING]
    registered += [(f"models.{name}.model", options["model"], known) for name, options in models.items()]
    for where, name, registry in registered:
        if name not in registry:
            yield f"{where} is {name!r}: expected one of {', '.join(registry)}"
    stored = study["dataset"]["name"] in OUTPUTS
    for name, options in models.items():
        if (options["model"] == STORED) != stored:
            of = f"the dataset {study['dataset']['name']} {'has stored outputs' if stored else 'has none'}"
            yield f"models.{name}.model is {options['model']!r}, but {of}: expected both or neither"
    yield from _mistakes_of_captions(study, policies)
    if stored and study["seeds"] != [0]:
        yield f"seeds are {study['seeds']}: stored outputs are of one run, expected [0]"
    if not systems:
        yield "models answer once, all of them: expected a model of several exits, or cascades or routers of these"
    for factor, variants in study["sensitivity"].get("factors", {}).items():
        places = [(str(variant["setting"]), variant["policy"]) for variant in variants]
        if twice := [place for place in places if places.count(place) > 1]:
            yield f"sensitivity.factors.{factor} has {twice[0][0]!r} of {twice[0][1]} twice: expected it once"
        for variant in variants:
            where = f"sensitivity.factors.{factor}, setting {variant['setting']}"
            options = {key: value for key, value in variant.items() if key not in ("setting", *SAMPLES)}
            try:
                policy = make_policy(options.pop("policy"), **options)
            except ValueError as error:
                yield f"{where}: {error}"
                continue
            if {"fit_share", "folds"} <= variant.keys():
                yield f"{where}: fit_share and folds: expected one of them"
            if not policy.claims_accuracy and not {"fit_share", "folds"} & variant.keys():
                yield f"{where}: the signal of {policy.name} is no accuracy; expected a policy whose δ is one"
            if variant.get("validation", 0) > study["splits"].get("validation", 0):
                yield f"{where}: validation is {variant['validation']}, expected at most splits.validation"
    try:
        Holdout(study["calibration"]["fit_share"]).sizes(study["splits"].get("validation", 2))
    except ValueError as error:
        yield f"calibration.fit_share: {error}"
    baseline = study["comparison"].get("baseline")
    claiming = [label for label, policy in policies.items() if policy.claims_accuracy]
    if baseline not in (claiming or [None]):
        expected = f"one of {', '.join(claiming)}" if claiming else "none, since no policy of the study claims accuracy"
        yield f"comparison.baseline is {baseline!r}: expected {expected}"
    if study["report"] and "max_softmax" not in contents_of(study):
        yield f"report: the records of {study['dataset']['name']} have no max softmax: expected {{}}"
    for small, large in study["comparison"]["pairs"]:
        if small == large:
            yield f"comparison.pairs sets {small!r} beside itself: expected two models"
    for kind in ("cascades", "routers"):
        for name, stages in study[kind].items():
            if name in models:
                yield f"{kind}.{name} is a model's name too: expected another"
            if unknown := [stage for stage in stages if stage not in models]:
                yield f"{kind}.{name} names {unknown[0]!r}: expected some of the models {', '.join(models)}"
    for name, stages in study["routers"].items():
        if name in study["cascades"]:
            yield f"routers.{name} is a cascade's name too: expected another"
        if several := [stage for stage in stages if stage in systems]:
            yield f"routers.{name} names {several[0]!r}, which has several exits: expected models that answer once"
    if study["search"] and len(singles := [m for m in models if m not in systems]) < 2:
        yield f"search: expected two models of one exit at least, not {len(singles)}"
    named = [("comparison.pairs", system) for pair in study["comparison"]["pairs"] for system in pair]
    named += [("times.systems", system) for system in study["times"].get("systems", [])]
    named += [(f"report.{key}", study["report"][key]) for key in ("oracle", "reliability") if study["report"]]
    for system in study["shifts"].get("systems", []):
        if stored or system not in models or system not in systems:
            runs = ", ".join(name for name in models if name in systems and not stored) or "none, as no such model runs"
            yield f"shifts.systems names {system!r}: expected models of several exits that run: {runs}"
    kinds = study["shifts"].get("kinds", [])
    if unknown := [kind for kind in kinds if kind not in CORRUPTIONS]:
        yield f"shifts.kinds names {unknown[0]!r}: expected some of {', '.join(CORRUPTIONS)}"
    if others := [kind for kind in kinds if not unknown and CORRUPTIONS[kind].inputs != CORRUPTIONS[kinds[0]].inputs]:
        inputs = CORRUPTIONS[kinds[0]].inputs
        yield f"shifts.kinds has {kinds[0]!r} for {inputs} and {others[0]!r} for others: expected kinds for one of them"
    accelerated = study["accelerate"].get("models", {})
    once = [model for model in models if model not in systems and models[model]["model"] != STORED]
    for name, smaller in accelerated.items():
        if unknown := [model for model in (name, *smaller) if model not in once]:
            answer = ", ".join(once) or "none, as no such model runs"
            yield f"accelerate.models names {unknown[0]!r}: expected models that answer once and run: {answer}"
        if name in smaller:
            yield f"accelerate.models.{name} names {name!r} itself: expected smaller models"
    named += [("accelerate.joint", system) for system in study["accelerate"].get("joint", [])]
    for where, system in named:
        if system not in systems:
            yield f"{where} names {system!r}: expected one of {', '.join(systems)}"


def _mistakes_of_captions(study: Mapping[str, Any], policies: Mapping[str, Policy]) -> Iterator[str]:
    """Yield errors of studies of captions, and settings of captions in other studies."""
    captions, name = study["captions"], study["dataset"]["name"]
    if bool(captions) != (name in CAPTIONED):
        expected = "policies, thresholds, at_most and beams" if name in CAPTIONED else "{}"
        yield f"captions is {captions}: expected {expected}, as the dataset is {name}"
        return
    for model, options in study["models"].items():
        if (options["model"] in CAPTIONING) != (name in CAPTIONED):
            of = f"the dataset {name} has {'captions' if name in CAPTIONED else 'none'}"
            yield f"models.{model}.model is {options['model']!r}, but {of}: expected both or neither"
    if captions and study["splits"]:
        yield f"splits is {study['splits']}: expected {{}}, as {name} has splits of its own"
    if not captions and not study["splits"]:
        yield "splits is {}: expected validation and seed"
    for key in ("times", "shifts", "search", "cascades", "routers"):
        if captions and study[key]:
            yield f"{key} is set: expected {{}} in a study of captions"
    if unknown := [label for label in captions.get("policies", []) if label not in policies]:
        yield f"captions.policies names {unknown[0]!r}: expected some of {', '.join(policies)}"
