"""The manifest of a bundle: what an exported model is made of, as data, checked when it is read."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from offramp._io.writing import AGAIN
from offramp.cascades.building import Combined
from offramp.datasets.preparing import ImagePreparation, TextPreparation

FORMAT = "offramp-bundle/1"
MANIFEST, POLICY = "manifest.json", "policy.safetensors"
KINDS = {"image": ImagePreparation, "text": TextPreparation}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One ONNX file: the part of a model between two exits.

    Attributes
    ----------
    file : str
    inputs, outputs : tuple of str
        Names of the tensors. The inputs are the state. The outputs are the logits (B, C), the similarity (B,) if there
        is one, and the next state. The last stage has no next state.
    similarity : bool
        Whether the second output is a similarity.
    lengths : dict
        For texts: the axes of each input whose size is the number of tokens, by its name.
    """

    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    similarity: bool = False
    lengths: dict = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model of a bundle. A cascade has several.

    Attributes
    ----------
    preparation : ImagePreparation or TextPreparation
        The inputs of the model, and how they are made.
    cost : tuple of tuple of float
        For each exit, the coefficients of its cumulative cost as a polynomial in the number of tokens T: (a, b, c) for
        a + b·T + c·T²; (a,) for images.
    stages : tuple of Stage
    source : dict
        Where the model came from: system, seed, dataset, options.
    """

    preparation: ImagePreparation | TextPreparation
    cost: tuple[tuple[float, ...], ...]
    stages: tuple[Stage, ...]
    source: dict = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is in a bundle.

    Attributes
    ----------
    offramp : str
        Version of Offramp that wrote it.
    opset : int
        Version of the ONNX operators.
    classes : int
    names : tuple of str
        Names of the classes. Empty: they are not known.
    unit : str
        Unit of the costs.
    policy : str
        Label of the policy in its file.
    threshold : float or tuple of float
        Threshold δ, shared by all exits or one per exit except the last.
    reject_below : float or None
        Threshold ρ, below which answers are rejected. None: all answers are accepted.
    abstain_below : float or tuple of float, or None
        Threshold for early abstention, shared by all exits or one per exit except the last. None: there is none.
    models : tuple of Model
    files : dict
        sha256 of every other file.
    combined : Combined
        Ensemble and temperatures of a cascade.
    format : str
    """

    offramp: str
    opset: int
    classes: int
    names: tuple[str, ...]
    unit: str
    policy: str
    threshold: float | tuple[float, ...]
    models: tuple[Model, ...]
    files: dict
    combined: Combined = field(default_factory=Combined)
    reject_below: float | None = None
    abstain_below: float | tuple[float, ...] | None = None
    format: str = FORMAT

    @property
    def stages(self) -> list[Stage]:
        """The stages of all models, one for each exit."""
        return [stage for model in self.models for stage in model.stages]

    def write(self, folder: Path) -> None:
        """Write the manifest, with a checksum of its own content."""
        values = asdict(self)
        for model, written in zip(self.models, values["models"]):
            kind = next(kind for kind, made in KINDS.items() if isinstance(model.preparation, made))
            written["preparation"] = {"kind": kind, **written["preparation"]}
        values = json.loads(json.dumps({"format": values.pop("format"), **values}))
        text = json.dumps({**values, "checksum": _checksum(values)}, indent=2, ensure_ascii=False)
        Path(folder, MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: str | os.PathLike) -> Manifest:
    """Read the manifest of a bundle, and check it and all files.

    Raises
    ------
    ValueError
        If the folder is not a bundle, if its version or a key is unknown, or if a file is missing or damaged.
    """
    path = Path(folder, MANIFEST)
    again = f"{AGAIN} `offramp export`"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values.get("format")
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder}: no {MANIFEST}; expected a folder that `offramp export` wrote") from None
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not readable ({error}); {again}") from None
    if found != FORMAT:
        raise ValueError(f"{path}: format is {found!r}; expected {FORMAT!r}: export again with this version of Offramp")
    checksum = values.pop("checksum", None)
    manifest = _parsed(Manifest, values, f"{path}: ")
    if checksum != _checksum(values):
        raise ValueError(f"{path}: damaged or edited (checksum differs); {again}")
    for name, digest in manifest.files.items():
        if Path(name).name != name:
            raise ValueError(f"{path}: files: {name!r} is not the name of a file in the folder")
        file = Path(folder, name)
        if not file.is_file():
            raise ValueError(f"{file}: missing; {again}")
        if sha256(file) != digest:
            raise ValueError(f"{file}: damaged (checksum differs); {again}")
    named = [POLICY, *(stage.file for stage in manifest.stages)]
    named += [model.preparation.tokenizer for model in manifest.models if hasattr(model.preparation, "tokenizer")]
    if strange := [name for name in named if name not in manifest.files]:
        raise ValueError(f"{path}: files: no {strange[0]!r}; {again}")
    return manifest


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _parsed(hint: Any, value: Any, where: str) -> Any:
    """Return a JSON value as an object of this type. Raises ValueError with the place if it is not one."""
    if get_origin(hint) is UnionType:
        hint = _alternative(get_args(hint), value, where)
        if hint in KINDS.values():
            value = {key: each for key, each in value.items() if key != "kind"}
    if isinstance(hint, type) and is_dataclass(hint):
        known = {each.name for each in fields(hint)}
        if not isinstance(value, dict) or value.keys() != known:
            strange = sorted(known ^ value.keys()) if isinstance(value, dict) else [value]
            raise ValueError(f"{where}unknown or missing key {strange[0]!r}; expected {', '.join(sorted(known))}")
        hints = get_type_hints(hint)
        return hint(**{key: _parsed(hints[key], each, f"{where}{key}: ") for key, each in value.items()})
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_parsed(get_args(hint)[0], each, f"{where}{i}: ") for i, each in enumerate(value))
    if hint is float and type(value) is int:
        return float(value)
    if get_origin(hint) is not None or type(value) is not hint:
        raise ValueError(f"{where}{value!r}; expected a value of type {getattr(hint, '__name__', hint)}")
    return value


def _alternative(hints: tuple, value: Any, where: str) -> Any:
    if ImagePreparation in hints:
        kind = value.get("kind") if isinstance(value, dict) else None
        if kind not in KINDS:
            raise ValueError(f"{where}kind is {kind!r}; expected one of {', '.join(KINDS)}")
        return KINDS[kind]
    if value is None and NoneType in hints:
        return NoneType
    wanted = [each for each in hints if each is not NoneType]
    return next((each for each in wanted if (get_origin(each) is tuple) == isinstance(value, list)), wanted[0])
