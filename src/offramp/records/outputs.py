"""What one exit says of some samples, for policies that decide as the exits come in."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from offramp.records.confidence import MEASURES, confidences, found


@dataclass(frozen=True, eq=False)
class ExitOutputs:
    """Outputs of one exit for n samples.

    Parameters
    ----------
    prediction : ndarray of shape (n,), int64, or None
        Predicted classes, or answers by number. None if they are not known.
    confidence : mapping of str to ndarray of shape (n,)
        Confidence measures by name, as in `ExitRecord.from_outputs`: some of `max_softmax`, `margin`, `entropy` (in
        nats, not negated) and `mean_token_margin`.
    logits : ndarray of shape (n, C), optional
        Only policies with `needs_logits` read them.
    similarity : ndarray of shape (n,), optional
        Cosine similarity between the hidden state that the exit reads and the one before it.
    classes : int, optional
        Number of classes C.
    features : ndarray of shape (n, F), optional
        What is known of the samples before the first exit runs.
    """

    prediction: np.ndarray | None
    confidence: Mapping[str, np.ndarray]
    logits: np.ndarray | None = None
    similarity: np.ndarray | None = None
    classes: int | None = None
    features: np.ndarray | None = None

    @classmethod
    def of(cls, logits: np.ndarray, similarity: np.ndarray | None = None, *, temperature: float = 1.0) -> "ExitOutputs":
        """Compute the predictions and all confidence measures from logits.

        Parameters
        ----------
        logits : array-like of shape (n, C)
            float16, float32 or float64.
        similarity : array-like of shape (n,), optional
            As for the class.
        temperature : float
            Number by which the logits are divided for the confidence measures.

        Returns
        -------
        ExitOutputs

        Raises
        ------
        ValueError
            If the logits have another shape or type, or if one is not finite.
        """
        logits = np.asarray(logits)  # (n, C)
        if logits.ndim != 2 or logits.dtype not in (np.float16, np.float32, np.float64) or logits.shape[1] == 0:
            raise ValueError(
                f"logits: expected floats of shape (samples, classes), at least 1 class; "
                f"got {logits.dtype} {logits.shape}"
            )
        scale = None if temperature == 1 else np.array([temperature])  # (1,)
        try:
            prediction, *measured = (values[:, 0] for values in confidences(logits[:, None], scale))  # (n,) each
        except ValueError:
            n, c = np.argwhere(~np.isfinite(logits))[0]
            raise ValueError(f"logits[{n}, {c}] is {logits[n, c]}: logits must be finite") from None
        similarity = None if similarity is None else np.asarray(similarity)
        return cls(prediction, dict(zip(MEASURES, measured)), logits, similarity, logits.shape[1])

    def needed_prediction(self, what: str) -> np.ndarray:
        """Return the predictions (n,). If there are none, raise ValueError, which names `what` needs them."""
        return needed_prediction(self.prediction, what)

    def needed_logits(self, what: str) -> np.ndarray:
        """Return the logits (n, C). If there are none, raise ValueError, which names `what` needs them."""
        if self.logits is None:
            raise ValueError(f"{what} needs logits, but these outputs have none; expected logits")
        return self.logits

    def measure(self, measure: str) -> np.ndarray:
        """Return a confidence measure, (n,), as it is stored, like `ExitRecord.measure`.

        Raises
        ------
        ValueError
            If these outputs do not contain the measure.
        """
        return found(measure, self.confidence, self.prediction, "these outputs have")

    def score(self, measure: str = "max_softmax") -> np.ndarray:
        """Return a confidence measure, (n,), of which larger values mean higher confidence: entropy is negated.

        Raises
        ------
        ValueError
            If these outputs do not contain the measure.
        """
        values = self.measure(measure)
        return -values if measure == "entropy" else values


def needed_prediction(prediction: np.ndarray | None, what: str) -> np.ndarray:
    """Return the predictions. If they are None, raise ValueError, which names `what` needs them."""
    if prediction is None:
        raise ValueError(f"{what} needs predictions, but this record has none; make the record with prediction")
    return prediction
