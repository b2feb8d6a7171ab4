"""How many samples are for the heads, for the choice of the structure, for the certificate, and for checking it."""

from dataclasses import dataclass

import numpy as np

from offramp.certification.pvalues import P_VALUES, needed_samples

# Shares of the samples, and the least numbers; our choice
ENOUGH = 8  # times the fewest samples that can certify the level: enough if the true risk is about half of it
CERTIFICATE, STRUCTURE, CHECK = 0.35, 0.2, 0.15  # largest shares
LEAST_HEADS, LEAST_STRUCTURE, LEAST_CHECK = 100, 50, 50
RISKS = ("disagreement", "gap", "error")


@dataclass(frozen=True)
class Parts:
    """Positions of the samples of each part, ascending. There may be no samples to check the promise."""

    heads: np.ndarray
    structure: np.ndarray
    certificate: np.ndarray
    check: np.ndarray


def least_samples(risk: str, level: float, confidence: float) -> int:
    """Return the fewest samples with which a level can be certified: those that are enough if no answer is wrong."""
    if risk == "gap":  # from −1 to 1, on the scale from 0 to 1
        return needed_samples(P_VALUES["wsr"], 0.5, (level + 1) / 2, confidence)
    return needed_samples(P_VALUES["binomial"], 0.0, level, confidence)


def certifiable(risk: str, level: float, confidence: float, n: int) -> float:
    """Return the highest risk on n samples that certifies a level, about: the structure is chosen for it.

    For a gap, as if the answers that change for the worse and for the better were few: losses of 0 and 1.
    """
    from scipy.special import bdtr

    wrong = np.arange(int(np.ceil(level * n)) + 1)
    enough = wrong[bdtr(wrong, n, level) <= 1 - confidence]
    return float(enough.max(initial=0)) / n


def choosing_sizes(n: int, risk: str, level: float, confidence: float) -> tuple[int, int]:
    """Return how many of n samples choose the structure, and how many certify the threshold."""
    least = least_samples(risk, level, confidence)
    certificate = max(least, min(ENOUGH * least, int(CERTIFICATE * n)))
    return max(LEAST_STRUCTURE, min(ENOUGH * least, int(STRUCTURE * n))), certificate


def draw_parts(n: int, risk: str, level: float, confidence: float, seed: int) -> Parts:
    """Draw the parts at random.

    Raises
    ------
    ValueError
        If there are too few samples. The message says how many are needed.
    """
    least = least_samples(risk, level, confidence)
    needed = max(int(np.ceil(least / CERTIFICATE)), least + LEAST_HEADS + LEAST_STRUCTURE)
    if n < needed:
        raise ValueError(
            f"{n} samples are too few for {risk} of at most {level:g} with confidence {confidence:g}; at least "
            f"{needed} are needed, of which {least} are for the certificate, or a higher level"
        )
    structure, certificate = choosing_sizes(n, risk, level, confidence)
    check = min(certificate, int(CHECK * n))
    if check < LEAST_CHECK or n - certificate - structure - check < LEAST_HEADS:
        check = 0
    order = np.random.default_rng(seed).permutation(n)  # not stratified: p-values are for independent draws
    ends = np.cumsum([certificate, structure, check])
    parts = [np.sort(part) for part in np.split(order, ends)]
    return Parts(heads=parts[3], structure=parts[1], certificate=parts[0], check=parts[2])
