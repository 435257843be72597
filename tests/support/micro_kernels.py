"""Micro-kernels that no kernel is alone: their answers by way of kernels that pass exact values on to them."""

import numpy as np

from mobilesam import kernels


def gelu(x: np.ndarray) -> np.ndarray:
    """GELU of each number of x: a linear layer of zeros, whose bias x is."""
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    zero = np.zeros((1, 1), np.float32)
    return kernels.linear(zero, np.zeros((flat.size, 1), np.float32), flat, activation="gelu").reshape(x.shape)


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax over the last axis of x (M, N): attention by heads of one channel to keys x and one-hot values.

    A score is 1·x[m, n], a head's answer the sum of one weight and zeros.
    """
    one_hot = np.eye(x.shape[-1], dtype=np.float32)
    queries = np.ones((1, x.shape[-1]), np.float32)
    return np.concatenate(
        [
            kernels.cross_attention(queries, np.repeat(row[:, None], row.size, axis=1), one_hot, heads=row.size)
            for row in np.ascontiguousarray(x, np.float32)
        ]
    )
