"""Policies that follow a shift: they decide on samples as these come, and learn from labels that come later."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from offramp._io.arrays import StoredArray, open_arrays, reading, save_arrays
from offramp.online.alarms import ALARMS, Alarm, ConfidenceAlarm, RiskAlarm
from offramp.online.methods import Feedback, Method, make_method
from offramp.policies import Policy, deciding, restored, stored
from offramp.records import ExitOutputs, ExitRecord

FORMAT = "offramp-online/1"
Source = Literal["labels", "audited", "last_exit"]


@dataclass(frozen=True, eq=False)
class OnlineAnswers:
    """What an online policy answers for n samples, in their order.

    Attributes
    ----------
    prediction : ndarray of shape (n,), int64
        Predicted classes.
    exit : ndarray of shape (n,), int64
        Exit at which each sample left, counted from 0.
    signal : ndarray of shape (n,), float64
        Signal of the policy at this exit.
    cost : ndarray of shape (n,), float64
        What was paid: the cost of this exit, or that of the last exit for audited samples.
    audited : ndarray of shape (n,), bool
        Whether the sample ran to the last exit in any case.
    """

    prediction: np.ndarray
    exit: np.ndarray
    signal: np.ndarray
    cost: np.ndarray
    audited: np.ndarray


class Online:
    """A policy that learns while it is used.

    `decide` answers samples of a record. For a running model, `begin` decides exit by exit. `feedback` takes labels
    when they are known. See docs/shift.md.

    Parameters
    ----------
    policy : Policy
        Fitted. It is not changed.
    threshold : float or array-like of shape (L − 1,)
        Threshold δ, shared by all exits or one per exit.
    validation : ExitRecord
        Record with labels, on which methods start as if its samples had been the first feedback.
    method : str
        A name in `METHODS`: "static", "window", "discount", "platt" or "aci".
    source : {"labels", "audited", "last_exit"}
        What methods learn from. labels: labels of any samples, chosen regardless of the sample. audited: labels of
        audited samples only. last_exit: the prediction of the last exit in place of labels, wherever it ran; `feedback`
        is not called.
    audit : float
        Share of samples, chosen at random, that run to the last exit whatever the policy says. Their answer is that of
        the policy.
    alarms : mapping of str to Alarm
        Alarms by name. `ConfidenceAlarm` takes the confidences of all samples at the first exit, and of audited ones at
        all exits. `RiskAlarm` takes the error of the answers, as far as it becomes known (of audited samples only for
        "last_exit", where it is the disagreement with the last exit).
    seed : int
        Seed of the choice of audited samples.
    memory : int
        Number of latest samples that are remembered until their labels come.
    **options
        Options of the method.

    Attributes
    ----------
    policy, threshold
        The policy that decides now, and its threshold.
    waiting : ndarray of shape (w,), int64
        Ids of remembered samples without feedback, from the oldest to the latest.

    Raises
    ------
    NotFittedError
        If the policy learns from data and was not fitted.
    ValueError
        If a name or an option is unknown or out of range, if the policy does not suit the method or the record, or if
        the record has no labels.

    Examples
    --------
    >>> import numpy as np
    >>> from offramp import ExitRecord, make_policy
    >>> from offramp.online import Online
    >>> rng = np.random.default_rng(0)
    >>> record = ExitRecord(rng.normal(size=(50, 3, 4)), rng.integers(0, 4, 50), cost=[1, 2, 3])
    >>> online = Online(make_policy("pcee").fit(record), 0.5, record, "window", size=20)
    >>> online.decide(record[:4], [10, 11, 12, 13]).exit.shape
    (4,)
    >>> online.feedback([12, 10], [1, 3])
    >>> online.waiting
    array([11, 13])
    """

    def __init__(
        self,
        policy: Policy,
        threshold,
        validation: ExitRecord,
        method: str = "window",
        *,
        source: Source = "labels",
        audit: float = 0.0,
        alarms: Mapping[str, Alarm] | None = None,
        seed: int = 0,
        memory: int = 100_000,
        **options: Any,
    ):
        if source not in get_args(Source):
            raise ValueError(f"online: source is {source!r}; expected one of {', '.join(get_args(Source))}")
        if not 0 <= audit <= 1:
            raise ValueError(f"online: audit is {audit!r}; expected a share from 0 to 1")
        if source != "labels" and audit == 0:
            raise ValueError(f"online: source={source} needs audited samples; expected an audit above 0")
        if not isinstance(memory, int) or memory < 1:
            raise ValueError(f"online: memory is {memory!r}; expected a whole number from 1")
        validation.needed_labels("an online policy")
        self.source, self.audit, self.alarms = source, float(audit), dict(alarms or {})
        self.exits, self.classes = validation.n_exits, validation.n_classes
        self.method: Method = make_method(method, **options)
        policy.start(0, self.exits)
        self._base = policy, np.array(threshold, np.float64)
        self.method.begin(policy, threshold, validation)
        self._random = np.random.default_rng(seed)
        self._memory = _Memory(memory, self.exits)

    @property
    def policy(self) -> Policy:
        return self.method.policy

    @property
    def threshold(self) -> np.ndarray:
        return self.method.threshold

    @property
    def waiting(self) -> np.ndarray:
        return self._memory.waiting()

    def decide(self, record: ExitRecord, ids=None, rows=None) -> OnlineAnswers:
        """Answer samples of a record. Only the exits at which they run are read.

        Parameters
        ----------
        record : ExitRecord
            Labels are not used, and may be missing.
        ids : array-like of shape (n,) of int, optional
            Names of the samples, for `feedback`. By default their positions in `record.index`.
        rows : slice or array-like of shape (n,), optional
            Samples of the record. All by default. This is faster than `record[rows]`.

        Returns
        -------
        OnlineAnswers

        Raises
        ------
        ValueError
            If the record has other exits or classes than the validation record, if it lacks what the policy needs, or
            if an id is not new.
        """
        if record.n_exits != self.exits or self._differs(record.n_classes):
            raise ValueError(
                f"online: the record has {record.n_exits} exits and {record.n_classes} classes; expected {self.exits} "
                f"and {self.classes}, as in the validation record"
            )
        rows = np.arange(len(record))[slice(None) if rows is None else rows]  # (n,)
        its = self.begin(record.index[rows] if ids is None else ids)
        if len(its.ids) != len(rows):
            raise ValueError(f"online: {len(its.ids)} ids for {len(rows)} samples; expected one for each")
        logits = self.policy.needs_logits
        for i in range(self.exits):
            if not len(rows_there := rows[its.there]):
                break
            its.step(record.outputs(i, rows_there, logits=logits))
        return its.finish(record.cost if record.sample_cost is None else record.sample_cost[rows])

    def _differs(self, classes: int | None) -> bool:
        return None not in (classes, self.classes) and classes != self.classes

    def begin(self, ids) -> "Deciding":
        """Start to decide on samples whose exits come in one after another.

        Parameters
        ----------
        ids : array-like of shape (n,) of int
            Names of the samples, for `feedback`.

        Returns
        -------
        Deciding
            Call `step` with the outputs of each exit, and then `finish`.

        Raises
        ------
        ValueError
            If an id is not new.
        """
        return Deciding(self, self._memory.new(ids))

    def feedback(self, ids, labels) -> None:
        """Learn from labels. If anything is wrong with one of them, none is learned from.

        Parameters
        ----------
        ids : array-like of shape (k,) of int
            Samples that were decided, in the order in which their labels became known.
        labels : array-like of shape (k,) of int
            Their classes.

        Raises
        ------
        ValueError
            If a sample is unknown, was not audited (source="audited"), or has had feedback, or if a label is out of
            range.
        """
        if self.source == "last_exit":
            raise ValueError("feedback: this policy learns from the last exit (source=last_exit); expected no labels")
        ids, labels = _whole_numbers("feedback: ids", ids), _whole_numbers("feedback: labels", labels)  # (k,) each
        if len(ids) != len(labels):
            raise ValueError(f"feedback: {len(ids)} ids and {len(labels)} labels; expected one label for each")
        end = np.inf if self.classes is None else self.classes
        if len(wrong := np.flatnonzero((labels < 0) | (labels >= end))):
            known = "" if self.classes is None else f" to {self.classes - 1}"
            raise ValueError(
                f"feedback: the label of sample {ids[wrong[0]]} is {labels[wrong[0]]}; expected a class from 0{known}"
            )
        slots = self._memory.find(ids)
        if self.source == "audited" and len(wrong := np.flatnonzero(~self._memory["audited"][slots])):
            raise ValueError(
                f"feedback: sample {ids[wrong[0]]} was not audited; expected labels of audited samples (source=audited)"
            )
        self._learn(slots, labels)

    def _learn(self, slots: np.ndarray, targets: np.ndarray) -> None:
        """Learn the correct classes (k,) of remembered samples."""
        memory, last = self._memory, self.exits - 1
        if not len(slots):
            return
        exits, audited = memory["exit"][slots], memory["audited"][slots]  # (k,) each
        reached = np.arange(self.exits) <= exits[:, None]  # (k, L)
        ran = reached | audited[:, None]
        surely = {"labels": reached, "audited": ran, "last_exit": (exits == last)[:, None]}[self.source]
        weight = np.where(ran, np.where(surely, 1.0, 1 / max(self.audit, 1e-300)), 0.0)  # (k, L)
        correct = memory["prediction"][slots] == targets[:, None]  # (k, L)
        self.method.learn(Feedback(memory["read"][slots], correct, weight, exits))
        wrong = memory["answer"][slots] != targets  # (k,)
        for alarm in self.alarms.values():
            if isinstance(alarm, RiskAlarm):
                alarm.update(wrong if self.source != "last_exit" else wrong[audited])
        memory["done"][slots] = True

    def save(self, path: str | os.PathLike) -> None:
        """Write all that was learned, the alarms and the samples that wait for feedback to one .safetensors file.

        The file is written whole or not at all, so a process that is killed loses what came after the last `save`.
        """
        policy, threshold = self._base
        arrays, about = stored({"policy": policy})
        arrays |= {f"method/{name}": values for name, values in self.method.state.items()}
        arrays |= {f"memory/{name}": values for name, values in self._memory.stored().items()}
        alarms = {}
        for name, alarm in self.alarms.items():
            its, settings = alarm.stored()
            arrays |= {f"alarm/{name}/{key}": values for key, values in its.items()}
            alarms[name] = {"kind": alarm.kind} | settings
        settings = {name: getattr(self, name) for name in ("source", "audit", "exits", "classes")}
        settings |= {"memory": self._memory.size, "chance": self._random.bit_generator.state}
        settings |= {"method": self.method.name, "options": self.method.options}
        save_arrays(
            path, FORMAT, arrays | {"threshold": threshold}, {"policies": about, "alarms": alarms, "online": settings}
        )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Online":
        """Read what `save` wrote, and go on from there.

        Raises
        ------
        ValueError
            If the file is damaged or is of another kind.
        """
        _, files, metadata = open_arrays(path, FORMAT)
        with reading(path, FORMAT):
            return cls._restored(files, metadata)

    @classmethod
    def _restored(cls, files: Mapping[str, StoredArray], metadata: Mapping[str, Any]) -> "Online":
        settings, online = metadata["online"], cls.__new__(cls)

        def part(prefix: str) -> dict[str, np.ndarray]:
            return {
                name.removeprefix(prefix): np.array(array.read())
                for name, array in files.items()
                if name.startswith(prefix)
            }

        for name in ("source", "audit", "exits", "classes"):
            setattr(online, name, settings[name])
        online.alarms = {
            name: ALARMS[about["kind"]].restored(
                part(f"alarm/{name}/"), {key: value for key, value in about.items() if key != "kind"}
            )
            for name, about in metadata["alarms"].items()
        }
        policy = restored(files, metadata["policies"], {})["policy"]
        if policy.state is not None:  # not in the file, which the next `save` replaces
            policy.state = {name: np.array(values) for name, values in policy.state.items()}
        online._base = policy, np.array(files["threshold"].read())
        online._memory = _Memory.restored(settings["memory"], online.exits, part("memory/"))
        online.method = make_method(settings["method"], **settings["options"])
        online.method.restore(*online._base, part("method/"), online.exits)
        online._random = np.random.default_rng()
        online._random.bit_generator.state = settings["chance"]
        return online


class Deciding(deciding.Deciding):
    """The decisions on n samples, exit by exit, as `Online.begin` returns it.

    Attributes
    ----------
    ids : ndarray of shape (n,), int64
    there : ndarray of shape (m,), int64
        Positions of the samples that the next exit must run on: those that have not left, and audited ones.
    """

    def __init__(self, online: Online, ids: np.ndarray):
        n, exits = len(ids), online.exits
        audited = online._random.random(n) < online.audit  # (n,)
        super().__init__(online.policy, online.threshold, n, exits, first=online._memory.total, audited=audited)
        self.online, self.ids = online, ids
        self.read, self.prediction = np.full((n, exits), np.nan), np.full((n, exits), -1)  # (n, L) each
        self.watching = {name: its for name, its in online.alarms.items() if isinstance(its, ConfidenceAlarm)}
        self.confidence = {name: np.full((n, exits), np.nan) for name in self.watching}  # (n, L) each

    def step(self, outputs: ExitOutputs) -> np.ndarray:
        """Take the outputs of the next exit for the samples in `there`.

        Returns
        -------
        ndarray of shape (k,)
            Positions, among these samples, of those that the next exit must run on.

        Raises
        ------
        ValueError
            If the outputs lack predictions or what the policy needs, or if they have another number of classes.
        """
        if outputs.prediction is None:
            raise ValueError("an online policy needs predictions, which are compared with labels")
        if self.online._differs(outputs.classes):
            raise ValueError(f"online: the outputs have {outputs.classes} classes; expected {self.online.classes}")
        return super().step(outputs)

    def _read(self, outputs: ExitOutputs) -> None:
        online, stream, there, i = self.online, self.stream, self.there, self.stream.exit
        self.read[there, i], self.prediction[there, i] = online.method.read(outputs, stream), stream.prediction
        for name, values in self.confidence.items():
            seen = self.audited[there] | (i == 0)  # (m,)
            values[there[seen], i] = outputs.score(self.watching[name].score)[seen]

    def finish(self, cost) -> OnlineAnswers:
        """Return the answers, and remember the samples until their labels come.

        Parameters
        ----------
        cost : ndarray of shape (L,) or (n, L)
            Cumulative cost of each exit.

        Raises
        ------
        ValueError
            If exits are missing: samples are still there.
        """
        if len(self.there):
            raise ValueError(f"online: {len(self.there)} samples are still there after exit {self.stream.exit + 1}")
        online, n = self.online, len(self.ids)
        for name, values in self.confidence.items():
            self.watching[name].update(values)
        slots = online._memory.add(
            id=self.ids,
            done=np.zeros(n, bool),
            read=self.read,
            prediction=self.prediction,
            exit=self.exit,
            answer=self.answer,
            audited=self.audited,
        )
        if online.source == "last_exit":
            whole = self.audited | (self.exit == online.exits - 1)  # (n,)
            online._learn(slots[whole], self.prediction[whole, -1])
        return OnlineAnswers(self.answer, self.exit, self.signal, self.paid(np.asarray(cost)), self.audited)


class _Memory:
    """The latest samples, until their labels come: arrays in which the oldest sample is overwritten by a new one.

    Attributes
    ----------
    size : int
        Highest number of samples.
    total : int
        Number of samples so far.
    rows : dict of str to ndarray of shape (slots,) or (slots, L)
        What is known of the sample in each slot.
    slot : dict of int to int
        Slot of each id.
    """

    def __init__(self, size: int, exits: int):
        self.size, self.total = size, 0
        self.slot: dict[int, int] = {}
        self.rows: dict[str, np.ndarray] = {name: np.zeros(0, np.int64) for name in ("id", "exit", "answer")}
        self.rows |= {name: np.zeros(0, bool) for name in ("audited", "done")}
        self.rows |= {"read": np.zeros((0, exits)), "prediction": np.zeros((0, exits), np.int64)}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.rows[name]

    def new(self, ids) -> np.ndarray:
        """Return ids (n,) as an array. Raises ValueError if one of them is not new, or if they are too many."""
        ids = _whole_numbers("online: ids", ids)
        values, count = np.unique(ids, return_counts=True)
        again = [*values[count > 1].tolist(), *(i for i in ids.tolist() if i in self.slot)]
        if again:
            raise ValueError(f"online: sample {again[0]} is decided twice; expected a new id for each sample")
        if len(ids) > self.size:
            raise ValueError(f"online: {len(ids)} samples at once; expected at most {self.size} (memory)")
        return ids

    def add(self, **values: np.ndarray) -> np.ndarray:
        """Remember samples, given by all their rows. Return their slots (n,)."""
        place = self.total + np.arange(len(values["id"]))  # (n,)
        slots = place % self.size
        there, needed = len(self.rows["id"]), min(self.total + len(slots), self.size)
        if needed > there:
            room = min(self.size, max(1024, 2 * needed)) - there
            for name, rows in self.rows.items():
                self.rows[name] = np.concatenate([rows, np.zeros((room, *rows.shape[1:]), rows.dtype)])
        for slot, old in zip(slots.tolist(), self.rows["id"][slots].tolist()):
            if self.slot.get(old) == slot:  # it is overwritten
                del self.slot[old]
        for name, rows in values.items():
            self.rows[name][slots] = rows
        self.slot.update(zip(values["id"].tolist(), slots.tolist()))
        self.total += len(slots)
        return slots

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Return the slots (k,) of samples without feedback. Raises ValueError if one is unknown, or has had it."""
        slots = np.array([self.slot.get(i, -1) for i in ids.tolist()], np.int64)
        if len(wrong := np.flatnonzero(slots < 0)):
            raise ValueError(
                f"feedback: sample {ids[wrong[0]]} is unknown; expected one of the latest {self.size} samples that "
                "were decided (memory)"
            )
        again = self.rows["done"][slots] | (np.bincount(slots)[slots] > 1 if len(slots) else False)
        if len(wrong := np.flatnonzero(again)):
            raise ValueError(f"feedback: sample {ids[wrong[0]]} has feedback twice; expected it once for each sample")
        return slots

    def _order(self) -> np.ndarray:
        """Return the slots from the oldest sample to the latest."""
        return np.arange(max(0, self.total - self.size), self.total) % self.size

    def waiting(self) -> np.ndarray:
        slots = self._order()
        return self.rows["id"][slots[~self.rows["done"][slots]]]

    def stored(self) -> dict[str, np.ndarray]:
        order = self._order()
        return {name: rows[order] for name, rows in self.rows.items()} | {"total": np.asarray(self.total)}

    @classmethod
    def restored(cls, size: int, exits: int, arrays: dict[str, np.ndarray]) -> "_Memory":
        total, n = int(arrays.pop("total")), len(arrays["id"])
        if n != min(total, size) or arrays["read"].shape != (n, exits):
            raise ValueError(f"{n} of {total} samples are remembered, at {exits} exits; expected the latest {size}")
        memory = cls(size, exits)
        memory.total = total - n
        memory.add(**arrays)
        return memory


def _whole_numbers(what: str, values) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or (values.dtype.kind not in "iu" and values.size):
        raise ValueError(f"{what}: expected a list of whole numbers, got {values.dtype} {values.shape}")
    return values.astype(np.int64)
