"""Calls the micro-kernels for GELU and softmax through public kernels whose other steps are exact."""

import numpy as np
from plans import Recording

from mobilesam import kernels


def gelu(x: np.ndarray) -> np.ndarray:
    """GELU of each element of x, computed by a linear layer with weights 0 and bias x."""
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    zero = np.zeros((1, 1), np.float32)
    return kernels.linear(zero, np.zeros((flat.size, 1), np.float32), flat, activation="gelu").reshape(x.shape)


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax over the last axis of x (M, N), computed by attention with N heads of one channel.

    All queries are 1 and the keys are x, so the scores are x. The values are one-hot vectors, so each output of a head
    is one softmax weight plus zeros.
    """
    m, n = x.shape
    recording = Recording()
    queries, one_hot = np.ones((m, n, n), np.float32), np.tile(np.eye(n, dtype=np.float32), (m, 1, 1))
    arrays = recording.give(queries, np.repeat(np.float32(x)[..., None], n, axis=2), one_hot)
    (y,) = recording.run(recording.plan.attention(*arrays, heads=n))
    return np.ascontiguousarray(y[:, 0])
