"""Folding BatchNorm into the convolution before it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .. import architecture
from .tensor_file import Array

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def unfused(expected: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors of a checkpoint before its BatchNorms are folded.

    Args:
        expected: names and shapes of a fused checkpoint.

    Returns:
        Names and shapes in which a BatchNorm's four tensors `<x>.bn.*` replace each bias `<x>.c.bias`.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in expected.items():
        if name.endswith(".c.bias"):
            shapes.update({f"{name.removesuffix('c.bias')}bn.{part}": shape for part in _BATCH_NORM})
        else:
            shapes[name] = shape
    return shapes


def fuse_batch_norm(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Fold each BatchNorm into the convolution before it, like the reference's `Conv2d_BN.fuse`.

    Per output channel, the folded weight is w·γ/√(σ² + ε) and the folded bias is β - μ·γ/√(σ² + ε). Both are computed
    in float64 and rounded to float32.
    """
    fused = {name: values for name, values in tensors.items() if ".bn." not in name}
    for name in tensors:
        if name.endswith(".bn.weight"):
            root = name.removesuffix("bn.weight")
            gamma, beta, mean, var = (tensors[f"{root}bn.{part}"].astype(np.float64) for part in _BATCH_NORM)
            with np.errstate(all="ignore"):  # the caller rejects the NaN of a negative variance
                scale = gamma / np.sqrt(var + architecture.BATCH_NORM_EPS)
                weight = tensors[f"{root}c.weight"] * scale[:, None, None, None]
                fused[f"{root}c.weight"] = weight.astype(np.float32)
                fused[f"{root}c.bias"] = (beta - mean * scale).astype(np.float32)
    return fused
