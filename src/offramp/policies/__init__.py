"""Exit policies by name. To add one, write a class in a module of this package and list it in `POLICIES`."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from offramp._io.arrays import StoredArray, open_arrays, reading, save_arrays
from offramp._registry import find
from offramp.policies.base import NotFittedError, Policy
from offramp.policies.beem import BEEMA, BEEMC
from offramp.policies.budget import Budget
from offramp.policies.confidence import Confidence, HiddenSimilarity, NormalizedEntropy
from offramp.policies.deferral import Agreement, LearnedDeferral, Router
from offramp.policies.patience import FPABEE, Patience, PatientConfident
from offramp.policies.pcee import PCEE, PCEEWS, Isotonic
from offramp.policies.reference import Oracle, Random
from offramp.policies.stopping import Stopping
from offramp.policies.ztw import ZTW
from offramp.records.origin import origin

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (
        *(Oracle, Confidence, Random, PCEE, PCEEWS, Isotonic, Budget),
        *(BEEMC, BEEMA, Patience, PatientConfident, FPABEE, NormalizedEntropy, ZTW, HiddenSimilarity),
        *(Agreement, LearnedDeferral, Router, Stopping),
    )
}
FORMAT = "offramp-policies/1"


def make_policy(name: str, /, **options: Any) -> Policy:
    """Create the policy called `name`, not fitted. Options that are not given have their default values.

    Raises
    ------
    ValueError
        If the name or an option is unknown (the message lists the known ones), or if a value is out of range.
    """
    return find(POLICIES, "policy", name)._made_with(options)


def spec(name: str, options: Mapping[str, Any]) -> str:
    """Return a policy, model or dataset and its options in the syntax of the command line, `NAME:option=value,…`."""
    values = ",".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for key, value in options.items()
    )
    return f"{name}:{values}" if values else name


def save_policies(
    policies: Mapping[str, Policy], path: str | os.PathLike, run: Mapping[str, Any] | None = None
) -> None:
    """Write fitted policies to one .safetensors file, atomically.

    Parameters
    ----------
    policies : mapping of str to Policy
        Policies by label. Policies that do not learn from data need not be fitted.
    path : path
    run : mapping, optional
        Metadata of the validation record on which the policies were fitted. JSON values.

    Raises
    ------
    NotFittedError
        If a policy that learns from data is not fitted.
    """
    arrays, about = stored(policies)
    save_arrays(path, FORMAT, arrays, {"policies": about, "run": dict(run or {})})


def stored(policies: Mapping[str, Policy]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the description of fitted policies, as files contain them."""
    arrays: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {}
    for label, policy in policies.items():
        if policy.learns and policy.state is None:
            raise NotFittedError(f"{label}: {policy.name} is not fitted; call fit(validation_record) before saving it")
        arrays |= {f"{label}/{name}": values for name, values in (policy.state or {}).items()}
        about[label] = {
            "policy": policy.name,
            "options": policy.options,
            "exits": policy.fitted_exits,
            "classes": policy.fitted_classes,
            "fitted_on": dict(policy.fitted_on),
        }
    return arrays, about


def load_policies(path: str | os.PathLike) -> tuple[dict[str, Policy], dict[str, Any]]:
    """Read policies from a file written by `save_policies`.

    Returns
    -------
    policies : dict of str to Policy
        Policies by label.
    run : dict
        Metadata of the validation record on which they were fitted.

    Raises
    ------
    ValueError
        If the file is damaged or is of another kind.
    """
    _, arrays, metadata = open_arrays(path, FORMAT)
    with reading(path, FORMAT):
        return restored(arrays, metadata["policies"], metadata["run"]), metadata["run"]


def restored(
    arrays: Mapping[str, StoredArray], described: Mapping[str, Any], run: Mapping[str, Any]
) -> dict[str, Policy]:
    """Return the policies, by label, of which `stored` gave the arrays and the description."""
    policies = {}
    for label, about in described.items():
        policy = make_policy(about["policy"], **about["options"])
        policies[label] = policy
        if about["exits"] is None:
            continue
        policy.fitted_exits, policy.fitted_classes = about["exits"], about["classes"]
        policy.fitted_on = about.get("fitted_on", origin(run))
        policy.state = {
            name.removeprefix(f"{label}/"): array.read()
            for name, array in arrays.items()
            if name.startswith(f"{label}/")
        }
    return policies
