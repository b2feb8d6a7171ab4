"""The settings of a cascade that were fixed on validation data, as a small JSON file that `offramp search` writes."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from offramp._io.writing import write_text
from offramp.cascades.building import Combined, cascade, check_ensemble, stage_names, tuples
from offramp.policies import Policy, make_policy
from offramp.records import ExitRecord
from offramp.records.origin import differences, origin, warn_of_test

FORMAT = "offramp-cascade/1"


@dataclass(frozen=True, kw_only=True)
class CascadeSettings:
    """Everything about a cascade that is fixed on validation data.

    Attributes
    ----------
    stages : tuple of str
        Systems in the order in which they run.
    combined : Combined
        Ensemble, its weights and the temperatures.
    measure : {"max_softmax", "margin", "entropy"}
        Confidence measure that decides. Entropy is negated.
    thresholds : tuple of float, or None
        A sample leaves a stage if its confidence is at least the threshold. One for each exit except the last. None:
        not chosen yet.
    origin : dict
        Seed, dataset, classes and unit of the validation records, as far as they are known.
    validation : dict
        Accuracy and average cost on validation data.

    Raises
    ------
    ValueError
        If a value is of another kind.
    """

    stages: tuple[str, ...]
    combined: Combined = field(default_factory=Combined)
    measure: str = "max_softmax"
    thresholds: tuple[float, ...] | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.policy  # noqa: B018  raises an error if the measure is unknown
        check_ensemble(self.combined.ensemble, self.combined.confidence, self.combined.weights)
        if not isinstance(self.stages, tuple) or not self.stages:
            raise ValueError(f"stages are {self.stages!r}; expected names")
        thresholds = () if self.thresholds is None else self.thresholds
        if not isinstance(thresholds, tuple) or not all(isinstance(t, float) and not math.isnan(t) for t in thresholds):
            raise ValueError(f"thresholds are {thresholds!r}; expected numbers")

    @classmethod
    def of(cls, record: ExitRecord) -> "CascadeSettings":
        """Return the settings with which `cascade` made this record on validation data, without thresholds.

        Raises
        ------
        ValueError
            If the record is not one of a cascade.

        Warns
        -----
        UserWarning
            If the split of the record is test.
        """
        about = record.metadata
        if not {"stages", "ensemble"} <= about.keys():
            raise ValueError("expected the record of a cascade, which `offramp cascade` wrote")
        if not about.keys().isdisjoint(("weights", "temperatures")):
            warn_of_test(record, "taking weights or temperatures of a cascade")
        return cls(stages=tuples(about["stages"]), combined=Combined.of(record), origin=origin_of_cascade(about))

    def save(self, path: str | os.PathLike) -> None:
        """Write the settings to a JSON file."""
        write_text(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "CascadeSettings":
        """Read a file that `save` or `offramp search --cascade-out` wrote.

        Raises
        ------
        ValueError
            If the file is of another kind, or if a key or value is not valid.
        """
        expected = "expected what `offramp search --cascade-out` writes"
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            combined = Combined(**{name: tuples(value) for name, value in values.pop("combined").items()})
            return cls(combined=combined, **{name: tuples(value) for name, value in values.items()})
        except OSError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: {error}; {expected}") from None

    @property
    def policy(self) -> Policy:
        """The policy that decides."""
        return make_policy("confidence", score=self.measure)

    @property
    def options(self) -> dict[str, Any]:
        """Policy, threshold, ensemble, confidence, weights and temperatures, as for `EarlyExit.cascade`."""
        return {"policy": self.policy, "threshold": self.chosen_thresholds, **asdict(self.combined)}

    @property
    def chosen_thresholds(self) -> tuple[float, ...]:
        """The thresholds. Raises ValueError if none are chosen."""
        if self.thresholds is None:
            raise ValueError("the settings of this cascade have no thresholds; choose them on its validation record")
        return self.thresholds

    def build(self, records: Sequence[ExitRecord]) -> ExitRecord:
        """Build the record of this cascade on other samples, as `cascade` does. Nothing is fitted.

        Parameters
        ----------
        records : sequence of ExitRecord
            Records of the stages.

        Raises
        ------
        ValueError
            If the stages are others, or as for `cascade`.
        """
        found = stage_names(records)
        if found != list(self.stages):
            raise ValueError(f"cascade: the stages are {', '.join(found)}; expected {', '.join(self.stages)}")
        if others := differences(self.origin, records[0].metadata):
            raise ValueError(f"cascade: made on other records: {'; '.join(others)}; expected the same")
        return cascade(records, **asdict(self.combined))

    def check(self, record: ExitRecord) -> None:
        """Raise ValueError unless the record is one that `build` makes."""
        own = {"stages": self.stages, **asdict(self.combined)}
        found = {name: tuples(record.metadata.get(name)) for name in own} | {"confidence": self.combined.confidence}
        if wrong := [name for name in own if own[name] != found[name]]:
            raise ValueError(
                f"the record has {wrong[0]} {found[wrong[0]]}, the cascade {own[wrong[0]]}; expected a record that "
                "`offramp cascade --like` made with these settings"
            )


def origin_of_cascade(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the origin of the records of a cascade, which have different systems."""
    return {key: value for key, value in origin(metadata).items() if key != "system"}
