"""Requests to a served bundle and its responses, in JSON. Each request is checked before it joins a batch."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.datasets.preparing import ImagePreparation, TextPreparation
from offramp.policies.base import REJECTED
from offramp.runtime.bundle import Bundle, Prepared
from offramp.runtime.loop import Answers
from offramp.runtime.manifest import Manifest

if TYPE_CHECKING:
    from starlette.requests import Request

MEBIBYTE = 1 << 20
LARGEST = 1 << 53  # up to which JavaScript reads whole numbers exactly
NUMBER = 32  # bytes of a number in JSON at most, with separators
Sample = np.ndarray | tuple[str, ...]  # uint8 or float32 (C, H, W), or texts


class Refused(ValueError):
    """A request that is not answered, with the HTTP status that says why."""

    def __init__(self, detail: str, status: int = 422) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True)
class Feedback:
    """Labels of samples that were answered before.

    Attributes
    ----------
    ids, labels : list of k ints
    """

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Format:
    """What requests to a bundle look like.

    Attributes
    ----------
    preparations : tuple
        Those of the models of the bundle.
    max_bytes : int
        Maximum size of a request.
    """

    preparations: tuple[ImagePreparation | TextPreparation, ...]
    max_bytes: int

    @classmethod
    def of(cls, manifest: Manifest, max_bytes: int | None = None) -> "Format":
        """Return the format for a bundle. The default limit is 1 MiB, or what the input of the model needs."""
        made = tuple(dict.fromkeys(model.preparation for model in manifest.models))
        if max_bytes is None:
            max_bytes = max(MEBIBYTE, *(NUMBER * math.prod(getattr(each, "shape", ())) for each in made))
        return cls(made, max_bytes)

    async def receive(self, request: "Request") -> Sample:
        """Receive an HTTP request and read it. Requests that are too large are not received to their end."""
        return self.read(await self._body(request))

    async def receive_feedback(self, request: "Request") -> Feedback:
        """Receive feedback over HTTP and read it, as `receive`."""
        return self.read_feedback(await self._body(request))

    async def _body(self, request: "Request") -> bytes:
        if (length := request.headers.get("content-length", "")).isdigit():
            self._check_size(int(length))
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            self._check_size(len(body))
        return bytes(body)

    def read(self, body: bytes) -> Sample:
        """Read a request.

        Parameters
        ----------
        body : bytes
            A JSON object with one key. For images: `pixels`, integers from 0 to 255 (C, H, W) as the dataset stores
            them, or `input`, numbers (C, H, W) that are prepared already. For texts: `text`, a string, or a list with
            one string for each column of the dataset.

        Returns
        -------
        ndarray of shape (C, H, W) or tuple of str

        Raises
        ------
        Refused
            If the request is something else.
        """
        values = self._parsed(body)
        first = self.preparations[0]
        keys = ("text",) if isinstance(first, TextPreparation) else ("pixels", "input")
        if not isinstance(values, dict) or len(values) != 1 or not values.keys() <= set(keys):
            raise Refused(f"request: {_keys(values)}; expected an object with the key {' or '.join(keys)}")
        ((key, value),) = values.items()
        if isinstance(first, TextPreparation):
            return _texts(value, first.columns)
        return self._image(key, value, first.shape)

    def read_feedback(self, body: bytes) -> Feedback:
        """Read feedback: a JSON object with the lists `ids` and `labels` of whole numbers, one label for each id.

        Raises
        ------
        Refused
            If the request is something else.
        """
        values = self._parsed(body)
        if not isinstance(values, dict) or values.keys() != {"ids", "labels"}:
            raise Refused(f"request: {_keys(values)}; expected an object with the keys ids and labels")
        for name, numbers in values.items():
            if not isinstance(numbers, list) or any(type(each) is not int or abs(each) > LARGEST for each in numbers):
                raise Refused(f"{name}: expected a list of whole numbers up to 2^53")
        return Feedback(**values)

    def _parsed(self, body: bytes) -> Any:
        """Return the JSON value of a request."""
        self._check_size(len(body))
        try:
            return json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition("\n")[0]
            raise Refused(f"request: not JSON ({reason})", 400) from None

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise Refused(f"request: more than {self.max_bytes} bytes", 413)

    def _image(self, key: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
        if key == "input" and len(self.preparations) > 1:
            raise Refused("input: the models of this bundle have preparations of their own; expected pixels")
        try:
            array = np.array(value)
        except (ValueError, OverflowError):
            raise Refused(f"{key}: not a regular array; expected shape {shape}") from None
        if array.shape != shape:
            raise Refused(f"{key}: shape {array.shape}; expected {shape}")
        if array.dtype.kind not in ("iu" if key == "pixels" else "iuf"):
            wanted = "integers from 0 to 255" if key == "pixels" else "numbers"
            raise Refused(f"{key}: not all values are {wanted}")
        if key == "pixels":
            if array.min() < 0 or array.max() > 255:
                raise Refused(f"pixels: a value from {array.min()} to {array.max()}; expected integers from 0 to 255")
            return array.astype(np.uint8)
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise Refused("input: a value is not finite in float32; expected finite numbers")
        return array


def _keys(values: Any) -> str:
    return f"keys {list(values)}"[:100] if isinstance(values, dict) else type(values).__name__


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _texts(value: Any, columns: tuple[str, ...]) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or [type(text) for text in texts] != [str] * len(columns):
        wanted = "a string" if len(columns) == 1 else f"a list of {len(columns)} strings ({', '.join(columns)})"
        raise Refused(f"text: expected {wanted}")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise Refused("text: a surrogate without its pair; expected valid Unicode") from None
    return tuple(texts)


def prepared(bundle: Bundle, samples: Sequence[Sample]) -> Prepared:
    """Prepare what `Format.read` returned for several requests as one batch."""
    texts = [sample for sample in samples if isinstance(sample, tuple)]
    if texts:
        return bundle.prepare(texts)
    images = [sample for sample in samples if isinstance(sample, np.ndarray)]
    each = [bundle.prepare(image[None]).arrays for image in images]  # stored and prepared images can be mixed
    return Prepared(tuple(np.concatenate(arrays) for arrays in zip(*each)))


def responses(answers: Answers, names: Sequence[str], ids: Sequence[int] = ()) -> list[dict]:
    """Return the response to each request of a batch, as JSON values. The class of a rejected sample is None.

    Parameters
    ----------
    answers : Answers
    names : sequence of str
        Names of the classes. Empty: they are not known.
    ids : sequence of B ints
        Names of the samples, for feedback. Empty: there are none.
    """
    made = []
    columns = (answers.prediction, answers.exit, answers.signal, answers.confidence, answers.cost)
    for prediction, exit_, signal, confidence, cost in zip(*(column.tolist() for column in columns)):
        named = {"class": None if prediction == REJECTED else names[prediction]} if names else {}
        signal = signal if math.isfinite(signal) else None  # JSON has no infinity
        made.append(
            {"prediction": prediction, **named, "exit": exit_ + 1}
            | {"signal": signal, "confidence": confidence, "cost": cost}
        )
    return [{**response, "id": its} for response, its in zip(made, ids, strict=True)] if len(ids) else made
