"""A checkpoint's tensors in the layout that the kernels read: contiguous channels, packed matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..kernels import PackedRows, Panels, WinogradPanels
from ..kernels.core.check import F32 as F32

# A checkpoint's tensors by name.
Tensors: TypeAlias = Mapping[str, NDArray[np.generic]]


class PackedLayer(NamedTuple):
    """The packed weight of a linear layer or a convolution, and its bias."""

    weight: Panels
    bias: F32 | None


class Vectors(NamedTuple):
    """The weight of a LayerNorm or of a depthwise convolution, which is not packed, and the bias."""

    weight: F32
    bias: F32


class Rows(NamedTuple):
    """The weight (packed rows) and the bias of a layer with a channel-major output.

    The product is weight · inputᵀ: the weight is the left-hand matrix, and pixels are the columns.
    """

    weight: PackedRows
    bias: F32


class Parameters:
    """The tensors of a checkpoint whose names start with a prefix. ``p / "blocks" / 0`` extends the prefix.

    Each weight is packed on the calling thread alone, because several threads load the network's parts in parallel.
    """

    def __init__(self, tensors: Tensors, precision: str = "fp32", prefix: str = "") -> None:
        self._tensors = tensors
        self.precision = precision
        self._prefix = prefix

    def __truediv__(self, name: str | int) -> Parameters:
        return Parameters(self._tensors, self.precision, f"{self._prefix}{name}.")

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._tensors

    def tensor(self, name: str) -> F32:
        """Return a tensor in the checkpoint's layout, as float32."""
        return np.ascontiguousarray(self._tensors[self._prefix + name], np.float32)

    def linear(self, name: str) -> PackedLayer:
        """Return the packed weight (N, K) of a linear layer, or (OC, C, 1, 1) of a 1×1 convolution, and the bias."""
        weight = self._tensors[f"{self._prefix}{name}.weight"]
        return self._layer(weight.reshape(weight.shape[0], -1), name)

    def conv(self, name: str, *, precision: str | None = None) -> PackedLayer:
        """Return the weight (OC, C, KH, KW) of a convolution, packed as (OC, KH, KW, C), and the bias.

        Args:
            name: name of the layer, below the prefix.
            precision: precision of the packed weight. None means the model's precision.
        """
        return self._layer(self._tensors[f"{self._prefix}{name}.weight"].transpose(0, 2, 3, 1), name, precision)

    def conv3x3(self, name: str) -> WinogradPanels | Panels:
        """Pack the weight (OC, C, 3, 3) of a convolution with stride 1, pad 1 and no bias. fp32 uses Winograd."""
        weight = self.tensor(f"{name}.weight").transpose(0, 2, 3, 1)
        if self.precision == "fp32":
            return kernels.pack_winograd(weight, threads=1)
        return kernels.pack(weight, precision=self.precision, threads=1)

    def transposed(self, name: str) -> Rows:
        """Return the weight (C, OC, 2, 2) of a transposed convolution, packed as a matrix (2·2·OC, C), and the bias."""
        weight = self.tensor(f"{name}.weight")
        rows = np.ascontiguousarray(weight.transpose(2, 3, 1, 0)).reshape(-1, weight.shape[0])
        return Rows(kernels.pack_rows(rows, precision=self.precision), self.tensor(f"{name}.bias"))

    def rows(self, *names: str) -> PackedRows:
        """Return the weights (N, K) of linear layers, stacked along axis 0 and packed for a channel-major result."""
        weights = [self.tensor(f"{name}.weight") for name in names]
        return kernels.pack_rows(np.concatenate(weights), precision=self.precision)

    def depthwise(self, name: str) -> Vectors:
        """Return the weight (C, 1, KH, KW) of a depthwise convolution, transposed to (KH, KW, C), and the bias."""
        weight = self.tensor(f"{name}.weight")[:, 0].transpose(1, 2, 0)
        return Vectors(np.ascontiguousarray(weight), self.tensor(f"{name}.bias"))

    def norm(self, name: str) -> Vectors:
        """Return the weight (C,) and the bias (C,) of a LayerNorm."""
        return Vectors(self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias"))

    def _layer(self, weight: NDArray[np.generic], name: str, precision: str | None = None) -> PackedLayer:
        bias = self.tensor(f"{name}.bias") if f"{name}.bias" in self else None
        return PackedLayer(kernels.pack(weight, precision=precision or self.precision, threads=1), bias)
