"""Exported models with early exits. They run with onnxruntime and NumPy, without torch."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from offramp.cascades.building import Combination, Combined
from offramp.datasets.preparing import TextPreparation, padded
from offramp.online import Online
from offramp.policies import Policy, load_policies
from offramp.runtime.loop import Stages
from offramp.runtime.manifest import POLICY, Manifest, Stage, read_manifest

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


@dataclass(frozen=True, eq=False)
class Prepared:
    """A batch as the models of a bundle read it.

    Attributes
    ----------
    arrays : tuple of ndarray of shape (B, …)
        The input of each model: images, float32 (B, C, H, W), or texts as padded token ids, int64 (B, T).
    """

    arrays: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, rows) -> "Prepared":
        return Prepared(tuple(array[rows] for array in self.arrays))


class Bundle(Stages):
    """An exported model that stops for each sample at the first exit at which its policy says so.

    `load` makes it from a folder. It is called like an `EarlyExit`, with arrays: images that are prepared already,
    float32 (B, C, H, W), texts as padded token ids, int64 (B, T), or what `prepare` returns.

    Parameters
    ----------
    manifest : Manifest
    policy : Policy or Online
    sessions : sequence of InferenceSession
        One for each exit.
    folder : path
    threshold, regroup
        As for `EarlyExit`.

    Attributes
    ----------
    manifest : Manifest
    """

    def __init__(
        self,
        manifest: Manifest,
        policy: Policy | Online,
        sessions: Sequence["InferenceSession"],
        folder: str | os.PathLike,
        threshold=None,
        regroup: str | int = "measured",
    ) -> None:
        exits = [len(model.stages) for model in manifest.models]
        combined = None
        if manifest.combined != Combined():
            combined = partial(Combination, exits=exits, **asdict(manifest.combined))
        below = {name: getattr(manifest, name) for name in ("reject_below", "abstain_below")}
        given = {name: value for name, value in below.items() if value is not None}
        super().__init__(sum(exits), policy, threshold, regroup, combined, **given)
        self.manifest, self.sessions, self.folder = manifest, sessions, Path(folder)
        self.preparations = [model.preparation for model in manifest.models]
        self.places = [(k, stage) for k, model in enumerate(manifest.models) for stage in model.stages]

    def prepare(self, samples) -> Prepared:
        """Prepare raw inputs as at evaluation.

        Parameters
        ----------
        samples : ndarray or sequence
            Images: stored pixels, integers (B, C, H, W), or paths of image files. Images as floats (B, C, H, W) are
            prepared already. Texts: strings, or pairs of strings.

        Returns
        -------
        Prepared

        Raises
        ------
        ValueError
            If an image is unreadable or has the wrong shape.
        """
        made = {each: self._prepared(each, samples) for each in dict.fromkeys(self.preparations)}
        return Prepared(tuple(made[each] for each in self.preparations))

    def _prepared(self, prepare, samples) -> np.ndarray:
        if isinstance(prepare, TextPreparation):
            rows = prepare.rows([(each,) if isinstance(each, str) else each for each in samples], self.folder)
            lengths = np.array([len(row) for row in rows])  # (B,)
            return padded(np.concatenate(rows), np.cumsum(lengths) - lengths, lengths, prepare.pad)
        if not isinstance(samples, np.ndarray):
            samples = np.stack([prepare.read(path) for path in samples])  # (B, C, H, W)
        elif samples.dtype.kind == "f":
            return samples.astype(np.float32)
        return prepare(samples)

    def checked(self, x) -> Prepared:
        """Return a batch as the models read it. Raises ValueError if its shape or type is another."""
        if not isinstance(x, Prepared):
            if len(set(self.preparations)) > 1:
                raise ValueError("the models of this bundle read different inputs; expected what `prepare` returns")
            x = Prepared((np.asarray(x),) * len(self.preparations))
        for prepare, array in zip(self.preparations, x.arrays):
            text = isinstance(prepare, TextPreparation)
            shape = ("T",) if isinstance(prepare, TextPreparation) else prepare.shape
            if (
                array.dtype != (np.int64 if text else np.float32)
                or array.ndim != 1 + len(shape)
                or (not text and array.shape[1:] != tuple(shape))
            ):
                raise ValueError(
                    f"inputs: {array.dtype} {array.shape}; expected {'int64' if text else 'float32'} "
                    f"({', '.join(map(str, ('B', *shape)))})"
                )
        return x

    def start(self, x) -> "_Run":
        """Start with a batch of inputs, as in `loop.Stages`."""
        return _Run(self, self.checked(x))

    def cost(self, x) -> np.ndarray:
        """Return the cumulative cost of each exit, (L,), or (B, L) for texts, which differ in length."""
        paid, costs = 0.0, []
        for k, (model, array) in enumerate(zip(self.manifest.models, self.checked(x).arrays)):
            lengths = self.lengths(k, array)
            powers = np.arange(len(model.cost[0]))
            tokens = np.ones(1) if lengths is None else lengths.astype(np.float64)  # (1,) or (B,)
            own = (tokens[:, None] ** powers) @ np.array(model.cost).T  # (1, Lₖ) or (B, Lₖ)
            costs.append(paid + own)
            paid = costs[-1][:, -1:]
        cost = np.concatenate(costs, axis=1)  # (1, L) or (B, L)
        return cost[0] if len(cost) == 1 and lengths is None else cost

    def lengths(self, k: int, array: np.ndarray) -> np.ndarray | None:
        """Return the number of tokens of each text (B,) in the inputs of model k, or None for images."""
        prepare = self.preparations[k]
        return (array != prepare.pad).sum(axis=1) if isinstance(prepare, TextPreparation) else None


class _Run:
    """A batch in a bundle, as in `loop.Run`."""

    def __init__(self, bundle: Bundle, x: Prepared) -> None:
        self.bundle, self.x, self.exit = bundle, x, 0
        self.state: list[np.ndarray] = []

    def step(self) -> tuple[np.ndarray, np.ndarray | None]:
        k, stage = self.bundle.places[self.exit]
        if not self.state:
            self.state = [self.x.arrays[k]]
        outputs = self.bundle.sessions[self.exit].run(stage.outputs, dict(zip(stage.inputs, self.state)))
        self.exit += 1
        logits, *state = outputs  # (b, C)
        similarity = state.pop(0) if stage.similarity else None  # (b,)
        self.state = state
        return logits, similarity

    def keep(self, rows: np.ndarray) -> None:
        k, stage = self.bundle.places[self.exit]
        self.state = self._selected(k, stage, rows)
        self.x = self.x[rows]

    def select(self, rows: np.ndarray) -> None:
        if self.exit < self.bundle.n_exits:
            self._selected(*self.bundle.places[self.exit], rows)

    def _selected(self, k: int, stage: Stage, rows: np.ndarray) -> list[np.ndarray]:
        lengths = self.bundle.lengths(k, self.x.arrays[k][rows]) if stage.lengths else None
        longest = None if lengths is None else int(lengths.max(initial=0))
        kept = []
        for name, array in zip(stage.inputs, self.state):
            axes = stage.lengths.get(name, [])
            cut = tuple(slice(longest) if axis in axes else slice(None) for axis in range(array.ndim))
            kept.append(array[cut][rows])
        return kept


def load(
    bundle: str | os.PathLike,
    *,
    threads: int = 1,
    threshold=None,
    regroup: str | int = "measured",
    online: Online | None = None,
) -> Bundle:
    """Load a bundle that `offramp export` or `export_bundle` wrote. All files are checked.

    Parameters
    ----------
    bundle : path
        The folder.
    threads : int
        Number of CPU threads of onnxruntime.
    threshold : float or array-like of shape (L − 1,), optional
        Threshold δ instead of that of the bundle.
    regroup : {"measured", "always", "never"} or int
        As for `EarlyExit`.
    online : Online, optional
        It decides instead of the policy and the threshold of the bundle.

    Returns
    -------
    Bundle

    Raises
    ------
    ValueError
        If the folder is not a bundle, if a file is missing or damaged, or if its version or a key is unknown.

    Examples
    --------
    >>> from offramp.runtime import load
    >>> model = load("bundle")  # doctest: +SKIP
    >>> model(model.prepare(["The film was long.", "The film was good."])).prediction  # doctest: +SKIP
    array([0, 1])
    """
    manifest = read_manifest(bundle)
    policy = load_policy(bundle, manifest) if online is None else online
    if threshold is None and online is None:
        threshold = manifest.threshold
    files = [Path(bundle, stage.file) for stage in manifest.stages]
    sessions = [open_session(file, threads) for file in files]
    return Bundle(manifest, policy, sessions, bundle, threshold, regroup)


def load_policy(bundle: str | os.PathLike, manifest: Manifest) -> Policy:
    """Load the policy of a bundle. Raises ValueError if its file is damaged or does not contain it."""
    policies, _ = load_policies(Path(bundle, POLICY))
    if manifest.policy not in policies:
        raise ValueError(f"{Path(bundle, POLICY)}: no policy {manifest.policy!r}; only {', '.join(policies)}")
    return policies[manifest.policy]


def open_session(file: Path, threads: int = 1) -> "InferenceSession":
    """Open an ONNX file with onnxruntime. Raises ValueError if it cannot run it."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise ValueError("onnxruntime is not installed; pip install offramp[run]") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors only
    # One stage runs at a time: the threads of the others must not wait actively
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many types of exceptions
        raise ValueError(f"{file}: onnxruntime {onnxruntime.__version__} cannot run it ({error})") from None
