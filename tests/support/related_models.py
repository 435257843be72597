"""Checkpoints of the related architectures for tests: the packaged weights, and seeded random tensors for the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy

from mobilesam import architecture
from mobilesam.architecture import Architecture
from mobilesam.checkpoints.fused import open_checkpoint

Tensors = dict[str, np.ndarray]


def weights(kind: Architecture) -> Tensors:
    """Float32 tensors of a fused checkpoint. Tensors that MobileSAM lacks, or has in another shape, are random."""
    packaged, rng = open_checkpoint(), np.random.default_rng(25)
    tensors = {}
    for name, shape in architecture.expected_tensors(kind).items():
        if packaged.shapes().get(name) == shape:
            tensors[name] = packaged[name].astype(np.float32)
        else:
            values = rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
            is_norm = len(shape) == 1 and name.endswith(".weight")
            tensors[name] = (1 + 0.1 * values if is_norm else values).astype(np.float32)
    return tensors


def write(path: Path, kind: Architecture) -> Path:
    """Write a fused checkpoint of this architecture."""
    safetensors.numpy.save_file(weights(kind), path)
    return path
