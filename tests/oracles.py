"""Slow reference implementations of what the package computes, as plain loops over samples and exits."""

import math
import sys
from decimal import Decimal, localcontext
from fractions import Fraction


def softmax_measures(logits):
    """Return max softmax, margin and entropy of one row, with far more exact digits than any float has."""
    with localcontext() as context:
        context.prec = 120
        top = max(Decimal(float(z)) for z in logits)
        # Classes below e^-230 (1e-100) have no effect on the digits that are compared
        powers = [(Decimal(float(z)) - top).exp() for z in logits if Decimal(float(z)) - top > -230]
        total = sum(powers)
        p = sorted((e / total for e in powers), reverse=True)
        second = p[1] if len(p) > 1 else Decimal(0)
        return float(p[0]), float(p[0] - second), float(-sum(x * x.ln() for x in p))


def leaves_at(signal, threshold):
    """Return the exit at which one sample leaves.

    `signal` is the row of S of the sample. `threshold` is one number, or one number per exit except the last.
    """
    for i in range(len(signal) - 1):
        delta = threshold[i] if hasattr(threshold, "__len__") else threshold
        if delta != math.inf and float(signal[i]) >= float(delta):
            return i
    return len(signal) - 1


def meets_nowhere(signal, threshold):
    return threshold == math.inf or all(float(s) < threshold for s in signal)


def route(signals, correct, threshold, fallback=None):
    """Return the exit of each sample, and whether the answer is right.

    If no exit meets the threshold, the exit in `fallback` answers.
    """
    exits, right = answers(signals, correct, threshold, fallback)
    return exits, [bool(r) for r in right]


def answers(signals, prediction, threshold, fallback=None):
    """Return the exit and the answer of each sample. With one threshold per exit, `fallback` is not used."""
    shared = not hasattr(threshold, "__len__")
    exits, answered = [], []
    for n, signal in enumerate(signals):
        i = leaves_at(signal, threshold)
        nowhere = fallback is not None and shared and meets_nowhere(signal, threshold)
        exits.append(i)
        answered.append(prediction[n][fallback[n] if nowhere else i])
    return exits, answered


def operating_point(signals, correct, threshold, fallback=None):
    """Return how many samples are right, and how many leave at each exit."""
    exits, right = route(signals, correct, threshold, fallback)
    return sum(right), tuple(exits.count(i) for i in range(len(signals[0])))


def all_points(signals, correct, fallback=None):
    """Return all possible operating points: at each signal value, just below and above it, and at ±∞."""
    thresholds = {-math.inf, math.inf}
    for row in signals:
        for s in map(float, row):
            thresholds |= {s, math.nextafter(s, -math.inf), math.nextafter(s, math.inf)}
    return {operating_point(signals, correct, t, fallback) for t in thresholds}


def mean_cost(counts, cost):
    return float(sum(Fraction(float(c)) * k for c, k in zip(cost, counts)) / sum(counts))


def cost_of(record, exits):
    """Return the cost of each sample as a Python number: that of its exit, or its own cost if it has one."""
    return [
        float(record.cost[i] if record.sample_cost is None else record.sample_cost[n, i]) for n, i in enumerate(exits)
    ]


def error_rate_thresholds(signals, correct, reference, min_support):
    """Apply the rule of BEEM exit by exit.

    Among all thresholds that differ, choose the lowest with which the samples that leave are wrong rarely enough.
    """
    alive, thresholds = list(range(len(signals))), []
    for i in range(len(signals[0]) - 1):
        chosen = math.inf
        for candidate in sorted({min(float(signals[n][i]), sys.float_info.max) for n in alive} - {-math.inf}):
            leave = [n for n in alive if float(signals[n][i]) >= candidate]
            judges = leave if reference == "same_samples" else range(len(signals))
            error = Fraction(sum(not correct[n][i] for n in leave), len(leave))
            if len(leave) >= min_support and error <= Fraction(sum(not correct[n][-1] for n in judges), len(judges)):
                chosen = candidate
                break
        thresholds.append(chosen)
        alive = [n for n in alive if chosen == math.inf or float(signals[n][i]) < chosen]
    return thresholds


def best_exit(signals):
    """Return the exit with the highest value for each sample; in a tie, the last one."""
    return [max(range(len(row)), key=lambda i: (row[i], i)) for row in signals]


def bin_of(edges, confidence):
    """Return the last bin whose lower edge is not above the confidence. Values outside belong to the end bins."""
    place = 0
    for m in range(len(edges) - 1):
        if edges[m] <= confidence:
            place = m
    return place


def diagram(edges, confidence, correct):
    """Return (count, mean confidence, accuracy) of each bin; None if the bin is empty."""
    rows = []
    for m in range(len(edges) - 1):
        inside = [n for n in range(len(confidence)) if bin_of(edges, confidence[n]) == m]
        k = len(inside)
        mean = math.fsum(float(confidence[n]) for n in inside) / k if k else None
        rows.append((k, mean, sum(bool(correct[n]) for n in inside) / k if k else None))
    return rows


def ece(rows):
    total = sum(count for count, _, _ in rows)
    return math.fsum(count / total * abs(right - mean) for count, mean, right in rows if count)


def histogram_accuracy(edges, rows, confidence):
    """Return the accuracy of a bin. An empty bin has that of the nearest filled bin below it, or 0."""
    for m in range(bin_of(edges, confidence), -1, -1):
        if rows[m][0]:
            return rows[m][2]
    return 0.0


def isotonic_accuracy(confidence, correct, query):
    """Exact isotonic regression at the level nearest to the query; in a tie, the more confident level.

    It uses the max–min formula: the maximum, over all levels to start from, of the minimum mean accuracy up to any
    level above.
    """
    confidence = [Fraction(float(c)) for c in confidence]
    levels = sorted(set(confidence))
    place = min(range(len(levels)), key=lambda j: (abs(levels[j] - Fraction(float(query))), -j))

    def mean(low, high):
        inside = [bool(r) for c, r in zip(confidence, correct) if levels[low] <= c <= levels[high]]
        return Fraction(sum(inside), len(inside))

    return max(min(mean(low, high) for high in range(place, len(levels))) for low in range(place + 1))


def budget_shares(p, exits):
    powers = [Fraction(p, 20) ** k for k in range(1, exits + 1)]
    return [power / sum(powers) for power in powers]


def budget_thresholds(confidence, p):
    """Compute the thresholds with the published procedure of MSDNet.

    At each exit except the last, it counts down the samples that are still there, starting with the most confident one.
    """
    samples, exits = range(len(confidence)), len(confidence[0])
    left, thresholds = set(), []
    for k, share in enumerate(budget_shares(p, exits)[:-1]):
        asked, count, threshold = math.floor(len(confidence) * share), 0, math.inf
        for n in sorted(samples, key=lambda n: -confidence[n][k]):
            if n not in left:
                count += 1
                if count == asked:
                    threshold = float(confidence[n][k])
                    break
        thresholds.append(threshold)
        left |= {n for n in samples if confidence[n][k] >= threshold}
    return thresholds


def window_accuracy(confidence, correct, window, query):
    """Exact mean accuracy of the `window` samples nearest to the query; in a tie, the more confident ones.

    Samples of equal confidence each count with their common accuracy.
    """
    confidence = [Fraction(float(c)) for c in confidence]
    query = Fraction(float(query))
    common = {}
    for level in set(confidence):
        right = [bool(r) for c, r in zip(confidence, correct) if c == level]
        common[level] = Fraction(sum(right), len(right))
    nearest = sorted(confidence, key=lambda c: (abs(c - query), -c))[:window]
    return sum(common[c] for c in nearest) / len(nearest)


def rejecting(estimates, signals, prediction, threshold, reject_below, abstain_below, fallback=None):
    """Return the exit and the answer of each sample, which is −1 if it is rejected. Thresholds are shared."""
    exits, answered = answers(signals, prediction, threshold, fallback)
    for n, row in enumerate(estimates):
        nowhere = fallback is not None and meets_nowhere(signals[n], threshold)
        if not (row[fallback[n] if nowhere else exits[n]] >= reject_below) or reject_below == math.inf:
            answered[n] = -1
        for i in range(exits[n]):
            if row[i] < abstain_below or abstain_below == math.inf:
                exits[n], answered[n] = i, -1
                break
    return exits, answered


def selective_points(estimates, losses):
    """Return (ρ, number accepted, sum of their losses) for every different estimate, from the highest on."""
    points = []
    for rho in sorted({min(float(e), sys.float_info.max) for e in estimates}, reverse=True):
        inside = [Fraction(loss) for e, loss in zip(estimates, losses) if e >= rho]
        points.append((rho, len(inside), sum(inside)))
    return points


def aurc(estimates, losses):
    """Return the mean over samples of the risk of all answers that are at least as sure (arXiv 1805.08206)."""
    total = Fraction(0)
    for own in estimates:
        inside = [Fraction(loss) for e, loss in zip(estimates, losses) if e >= own]
        total += sum(inside) / len(inside)
    return float(total / len(estimates))


def lowest_aurc(losses):
    """Return the AURC of the order in which the lowest losses come first, one after another."""
    ordered = sorted(map(Fraction, losses))
    return float(sum(sum(ordered[:k]) / k for k in range(1, len(ordered) + 1)) / len(ordered))
