"""Written captions: thresholds chosen at a quality, comparisons over images and seeds, and the layers of words."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from offramp.comparison.bootstrap import Bootstrap
from offramp.evaluation.captions import DROPS, read_layers

FULL = "full"  # name of the full model in tables
RECOMPUTE = "recompute"  # the fill of the full model, which has nothing to fill in
RUN = ["dataset", "system", "text", "fill", "policy", "at_most"]  # of which results over seeds are shown
# Words of closed classes: articles, prepositions, conjunctions, pronouns, auxiliary verbs. All others are content words
_CLOSED = """
a an the this that these those some any each both all no its his her their my your our it he she they them him who which
what and or but as if while than then there here not very of to in on at by for from with without into onto over under
above below beneath behind beside between near next along across around through against off out up down is are was were
be been being has have had do does did can could will would may
"""
FUNCTION_WORDS = frozenset(_CLOSED.split())


def chosen_points(points: pd.DataFrame, drop: float, *, metric: str = "CIDEr", by: str = "macs") -> pd.DataFrame:
    """Return the cheapest point of each policy whose quality on these captions is at most `drop` below the full model.

    Parameters
    ----------
    points : DataFrame
        From `captioning.sweep`, on validation images.
    drop : float
        Acceptable share of the quality of the full model that is lost.
    metric : str
        Column of the quality.
    by : str
        Column of the cost.

    Returns
    -------
    DataFrame
        Rows of `points`, one per policy. If no threshold of a policy is good enough, this is the full model.
    """
    full = points[points["policy"] == FULL].iloc[0]
    rows = []
    for label, of_policy in points[points["policy"] != FULL].groupby("policy", sort=False):
        good = of_policy[of_policy[metric] >= (1 - drop) * full[metric]]
        best = full if good.empty else good.loc[good[by].idxmin()]
        rows.append({**(full if best[by] > full[by] else best), "policy": label})
    return pd.DataFrame(rows).reset_index(drop=True)


class Sweeps:
    """The sweeps of a study over written captions, with what their chosen thresholds do on test images.

    Parameters
    ----------
    points : DataFrame
        What `offramp sweep-captions --points` wrote, of all runs.
    captions : DataFrame
        What `--captions` wrote.
    drops : sequence of float
        Acceptable shares of the CIDEr of the full model that are lost, on validation images.
    resamples : int
        Number of bootstrap resamples of images and seeds.

    Raises
    ------
    ValueError
        If the seeds have different test images, or if the full model has CIDEr 0 on a resampling of them.
    """

    def __init__(
        self, points: pd.DataFrame, captions: pd.DataFrame, drops: Sequence[float] = DROPS, resamples: int = 2000
    ) -> None:
        self.points = points
        keys = ["system", "seed", "text", "fill", "policy", "threshold"]
        captions = captions.drop_duplicates([*keys, "image"]).sort_values("image", kind="stable")  # one full model
        counts = captions.groupby(keys)["image"].size()
        if counts.nunique() != 1:
            raise ValueError(f"captions of {counts.min()} and of {counts.max()} test images; expected the same ones")
        self.bootstrap = Bootstrap.draw(int(counts.iloc[0]), resamples, 0)
        self._captions = dict(list(captions.groupby(keys)))
        self.chosen = self._chosen(drops)

    def _chosen(self, drops: Sequence[float]) -> pd.DataFrame:
        """Return the chosen threshold of each run and fill: RUN, seed, threshold."""
        validation = self.points[self.points["split"] == "validation"]
        test = self.points[(self.points["split"] == "test") & (self.points["policy"] != FULL)]
        fills = test[["text", "fill"]].drop_duplicates()
        rows = []
        for (dataset, system, seed, text), its in validation.groupby(["dataset", "system", "seed", "text"], sort=False):
            for drop in drops:
                for policy, threshold in chosen_points(its, drop)[["policy", "threshold"]].to_numpy():
                    rows += [
                        (dataset, system, text, fill, policy, drop, seed, float(threshold))
                        for fill in fills.loc[fills["text"] == text, "fill"]
                    ]
        return pd.DataFrame(rows, columns=[*RUN, "seed", "threshold"])

    def captions(self, run) -> pd.DataFrame:
        """Return the test captions of a row of `chosen`, in the order of the images."""
        if np.isinf(run.threshold):
            return self.full(run)
        return self._captions[run.system, run.seed, run.text, run.fill, run.policy, run.threshold]

    def full(self, run) -> pd.DataFrame:
        """Return the test captions of the full model of this row."""
        return self._captions[run.system, run.seed, run.text, RECOMPUTE, FULL, np.inf]

    def matched(self) -> pd.DataFrame:
        """Compare each chosen threshold with the full model.

        Returns
        -------
        DataFrame
            One row per system, text (on which policies were fitted), fill, policy and acceptable drop (at_most):
            threshold, CIDEr, ROUGE-L, drop (share of the CIDEr of the full model that is lost; negative if it is
            better), layer_speedup (of the tokens that were written: L · N / Σ i · n_i) and mac_speedup. Each is a mean
            over seeds, with the standard deviation over seeds (_sd) and a 95 % bootstrap interval over images and seeds
            (_low, _high). Of the threshold, there is none.
        """
        rows = []
        for keys, group in self.chosen.groupby(RUN, sort=False):
            row = dict(zip(RUN, keys)) | {"threshold": group["threshold"].mean()}
            own, full = ([of(run) for run in group.itertuples()] for of in (self.captions, self.full))
            for metric in ("CIDEr", "ROUGE-L"):
                row |= self._summary(metric, self._means(own, metric))
            row |= self._summary("drop", 1 - self._means(own, "CIDEr") / self._positive(full, "CIDEr"))
            speedup = self._layers(full) / self._layers(own)
            row |= self._summary("layer_speedup", speedup)
            row |= self._summary("mac_speedup", self._means(full, "macs") / self._means(own, "macs"))
            rows.append(row)
        return pd.DataFrame(rows)

    def pairs(self) -> pd.DataFrame:
        """Compare copied with recomputed keys and values, and policies fitted on written with those on given captions.

        Returns
        -------
        DataFrame
            One row per comparison, system, policy and acceptable drop. varied ("fill" or "text"), one, other (its
            values); difference (CIDEr of `one` minus that of `other`, as a share of the full model's), layer_ratio and
            mac_ratio (speed-up of `one` by that of `other`), each with _sd, _low and _high as in `matched`. Copied and
            recomputed captions have the same thresholds.
        """
        rows = []
        for varied, one, other in (("fill", "copy", "recompute"), ("text", "generated", "reference")):
            rest = [key for key in RUN if key != varied]
            both = self.chosen[self.chosen[varied] == one].merge(
                self.chosen[self.chosen[varied] == other], on=[*rest, "seed"], suffixes=("", "_other")
            )
            for keys, group in both.groupby(rest, sort=False):
                runs = list(group.itertuples())
                others = [run._replace(**{varied: other, "threshold": run.threshold_other}) for run in runs]
                (first, second) = ([self.captions(run) for run in part] for part in (runs, others))
                full = self._positive([self.full(run) for run in runs], "CIDEr")
                row = {"varied": varied, "one": one, "other": other} | dict(zip(rest, keys))
                difference = (self._means(first, "CIDEr") - self._means(second, "CIDEr")) / full
                row |= self._summary("difference", difference)
                row |= self._summary("layer_ratio", self._layers(second) / self._layers(first))
                row |= self._summary("mac_ratio", self._means(second, "macs") / self._means(first, "macs"))
                rows.append(row)
        names = ["varied", "one", "other", *(key for key in RUN if key not in ("fill", "text"))]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=names)

    def words(self) -> pd.DataFrame:
        """Count the layers of the tokens of test captions, by their position and kind.

        Returns
        -------
        DataFrame
            One row per chosen threshold, seed, position (from 1) and kind of token ("function" words, "content" words,
            and the "end" of a caption): tokens (their number) and layers (their mean).
        """
        rows = []
        for run in self.chosen.itertuples():
            its = self.captions(run)
            by_word = [read_layers(text) for text in its["exits"]]
            layers = [layer for words in by_word for word in words for layer in word]  # (tokens,)
            kinds = [
                kind
                for caption, words in zip(its["caption"], by_word)
                for kind, word in zip([*map(_kind, caption.split()), "end"], words)
                for _ in word
            ]
            position = np.concatenate([np.arange(1, n + 1) for n in its["tokens"]])  # (tokens,)
            table = pd.DataFrame({"position": position, "kind": kinds, "layers": layers})
            table = table.groupby(["position", "kind"])["layers"].agg(["size", "mean"]).reset_index()
            table = table.rename(columns={"size": "tokens", "mean": "layers"})
            about = {key: getattr(run, key) for key in (*RUN, "seed")}
            rows.append(pd.DataFrame({**about, "depth": self._depth(run)}, index=table.index).join(table))
        return pd.concat(rows, ignore_index=True)

    def _depth(self, run) -> int:
        """Number of layers L."""
        return read_layers(str(self.full(run)["exits"].iloc[0]))[0][0]

    def _means(self, tables: Sequence[pd.DataFrame], column: str) -> np.ndarray:
        """Return the means over images of each seed, followed by the resampled ones, (S, 1 + B)."""
        return self.bootstrap.with_means(np.stack([table[column].to_numpy(np.float64) for table in tables]))

    def _layers(self, tables: Sequence[pd.DataFrame]) -> np.ndarray:
        """Return the mean layers of a token, as `_means`."""
        return self._means(tables, "layers") / self._means(tables, "tokens")

    def _positive(self, tables: Sequence[pd.DataFrame], column: str) -> np.ndarray:
        means = self._means(tables, column)
        if not means.min() > 0:
            raise ValueError(
                f"the full model has {column} {means[:, 0].min():.3g} on {len(tables[0])} test images, and 0 on a "
                "resampling of them, so a share of it means nothing; train the model longer, or take more images"
            )
        return means

    def _summary(self, name: str, values: np.ndarray) -> dict[str, float]:
        return self.bootstrap.summary(name, values[:, 0], values[:, 1:])


def _kind(word: str) -> str:
    return "function" if word in FUNCTION_WORDS else "content"
