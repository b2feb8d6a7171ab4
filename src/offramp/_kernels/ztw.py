"""Loss and derivatives of the geometric ensembles of ZTW, compiled by Numba."""

import numpy as np

from offramp._kernels.compiling import FLOOR, LOG2E, RELAXED, compiled, exp2, larger

TILE = 128  # number of samples per tile, so that repeatedly used data stays in the caches


@compiled(fastmath={"contract"})
def _add(total, weight, values):  # (n,), scalar, (n,)
    for k in range(total.shape[0]):
        total[k] += weight * values[k]


def weighted_sum(weights, members):
    """Return Σ_j weights[j] · members[j] (n, C), for weights (L,) and a sequence of at most L arrays (n, C).

    The sum is computed in the order of the members, for each number alone. Therefore it does not depend on the number
    of samples, as that of a matrix product may.
    """
    total = np.zeros_like(members[0])
    for weight, member in zip(weights, members):
        _add(total.reshape(-1), weight, member.reshape(-1))
    return total


@compiled(fastmath=RELAXED)
def _dot(a, b):  # (n,), (n,)
    total = a.dtype.type(0)
    for k in range(a.shape[0]):
        total += a[k] * b[k]
    return total


@compiled(fastmath=RELAXED)
def _total(a):  # (n,)
    total = a.dtype.type(0)
    for k in range(a.shape[0]):
        total += a[k]
    return total


@compiled(fastmath=RELAXED, error_model="numpy")
def _softmax(x, labels, weights, bias, p, top, total):
    """Fill p (C, TILE) with the softmax of Σ_j weights[j] · x[j] + bias, and return Σ −ln p[label].

    If there are fewer labels (n,) than TILE, p is 0 for the remaining samples. top and total (TILE,) are work arrays.
    """
    n = labels.shape[0]
    top[:] = -np.inf
    for c in range(p.shape[0]):
        p_c = p[c]
        p_c[:] = bias[c]
        for j in range(weights.shape[0]):
            x_jc = x[j, c]
            for k in range(TILE):
                p_c[k] += weights[j] * x_jc[k]
        for k in range(TILE):
            top[k] = larger(p_c[k], top[k])
    loss = 0.0
    for k in range(n):
        loss += top[k] - p[labels[k], k]
    total[:] = 0
    for c in range(p.shape[0]):
        p_c = p[c]
        for k in range(TILE):
            p_c[k] = exp2(larger(p_c[k] - top[k], np.float32(FLOOR / LOG2E)), np.float32(LOG2E))
            total[k] += p_c[k]
    for k in range(n):
        loss += np.log(total[k])
        total[k] = 1 / total[k]
    total[n:] = 0
    for c in range(p.shape[0]):
        p_c = p[c]
        for k in range(TILE):
            p_c[k] *= total[k]
    return loss


@compiled(fastmath=RELAXED)
def geometric_derivatives(x, labels, weights, bias, gradient, hessian):
    """Return Σ −ln p[label] over the samples, for p = softmax(Σ_j weights[j] · x[j] + bias), and add its derivatives.

    x (T, L, C, TILE) contains the samples in tiles, with arbitrary values after the last sample. The first J of its L
    members are used. x, weights (J,) and bias (C,) are float32; labels has shape (N,). The derivatives with respect to
    the weights and then the bias are added to gradient (J + C,) and to the lower triangle of hessian (J + C, J + C),
    both float64.
    """
    n_members, n_classes = len(weights), len(bias)
    p = np.empty((n_classes, TILE), np.float32)
    weighted = np.empty((n_classes, TILE), np.float32)  # p · x[j]
    mean = np.empty((n_members, TILE), np.float32)  # mean of x[j] under p
    top, total = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    loss = 0.0
    for t in range(x.shape[0]):
        here = labels[t * TILE : (t + 1) * TILE]
        loss += _softmax(x[t], here, weights, bias, p, top, total)
        for j in range(n_members):
            mean_j = mean[j]
            mean_j[:] = 0
            for c in range(n_classes):
                p_c, x_jc, weighted_c = p[c], x[t, j, c], weighted[c]
                for k in range(TILE):
                    weighted_c[k] = p_c[k] * x_jc[k]
                    mean_j[k] += weighted_c[k]
                hessian[n_members + c, j] += _total(weighted_c)
            gradient[j] += _total(mean_j)
            for k in range(here.shape[0]):
                gradient[j] -= x[t, j, here[k], k]
            for i in range(j + 1):
                hessian[j, i] += _dot(weighted.reshape(-1), x[t, i].reshape(-1)) - _dot(mean_j, mean[i])
            for c in range(n_classes):
                hessian[n_members + c, j] -= _dot(p[c], mean_j)
        for c in range(n_classes):
            share = _total(p[c])
            gradient[n_members + c] += share
            hessian[n_members + c, n_members + c] += share
            for d in range(c + 1):
                hessian[n_members + c, n_members + d] -= _dot(p[c], p[d])
        for label in here:
            gradient[n_members + label] -= 1
    return loss
