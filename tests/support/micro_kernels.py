"""Micro-kernels that no kernel is alone: their answers by way of kernels that pass exact values on to them."""

import numpy as np
from plans import Recording

from mobilesam import kernels


def gelu(x: np.ndarray) -> np.ndarray:
    """GELU of each number of x: a linear layer of zeros, whose bias x is."""
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    zero = np.zeros((1, 1), np.float32)
    return kernels.linear(zero, np.zeros((flat.size, 1), np.float32), flat, activation="gelu").reshape(x.shape)


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax over the last axis of x (M, N): attention by N heads of one channel to keys x and one-hot values.

    A score is 1·x[m, n], a head's answer the sum of one weight and zeros.
    """
    m, n = x.shape
    made = Recording()
    queries, one_hot = np.ones((m, n, n), np.float32), np.tile(np.eye(n, dtype=np.float32), (m, 1, 1))
    arrays = made.give(queries, np.repeat(np.float32(x)[..., None], n, axis=2), one_hot)
    (y,) = made.run(made.plan.attention(*arrays, heads=n))
    return np.ascontiguousarray(y[:, 0])
