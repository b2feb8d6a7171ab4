"""Compiled kernel of rejection on resampled answers."""

import numpy as np

from offramp._kernels.compiling import compiled


@compiled()
def accuracies_and_area(counts, order, loss, ends, coverages):
    """Return the accuracies of the accepted answers at M coverages and the AURC, for B resamplings, (B, M + 1).

    As `accuracy_at` and `aurc` of `evaluation.rejection.RiskCoverage`, in one pass over the answers of each resampling.

    Parameters
    ----------
    counts : ndarray of shape (B, N)
        How often each answer occurs.
    order : ndarray of shape (N,)
        Answers in descending order of their estimates.
    loss : ndarray of shape (N,), float64
        In this order.
    ends : ndarray of shape (N,), bool
        Whether the next answer in this order has a lower estimate.
    coverages : ndarray of shape (M,)
        Above 0, ascending.
    """
    n_coverages = len(coverages)
    result = np.empty((len(counts), n_coverages + 1))
    for b in range(len(counts)):
        total = counts[b].sum()
        accepted, lost, area = 0.0, 0.0, 0.0
        before, lost_before, m = 0.0, 0.0, 0
        for i in range(len(order)):
            count = counts[b, order[i]]
            accepted += count
            lost += count * loss[i]
            if not ends[i] or accepted == before:
                continue
            area += (accepted - before) * lost / accepted
            while m < n_coverages and coverages[m] * total <= accepted:
                number = coverages[m] * total
                share = (number - before) / (accepted - before)
                result[b, m] = 1 - (lost_before + share * (lost - lost_before)) / number
                m += 1
            before, lost_before = accepted, lost
        while m < n_coverages:  # rounded to more than all answers
            result[b, m] = 1 - lost / (coverages[m] * total)
            m += 1
        result[b, n_coverages] = area / total
    return result
