"""The prompt encoder: points, boxes and masks as what the mask decoder reads.

Source: the reference's modeling/prompt_encoder.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .config import EMBED_DIM, EMBED_SIZE, IMG_SIZE, LAYER_NORM_2D_EPS, POINT_EMBEDDINGS
from .parameters import F32, Parameters

NOT_A_POINT = -1
BOX_CORNERS = (2, 3)


class PromptEncoder:
    """Prompts in pixels of the 1024×1024 canvas to token and map embeddings. Immutable once made."""

    def __init__(self, weights: Mapping[str, NDArray[np.generic]], threads: int) -> None:
        p = Parameters(weights) / "prompt_encoder"
        self.threads = threads
        self.gaussian = p.tensor("pe_layer.positional_encoding_gaussian_matrix")
        self.point_embeddings = np.concatenate(
            [p.tensor(f"point_embeddings.{i}.weight") for i in range(POINT_EMBEDDINGS)]
        )
        self.not_a_point_embed = p.tensor("not_a_point_embed.weight")[0]
        self.no_mask_embed = p.tensor("no_mask_embed.weight")[0]
        self.mask_convs = [p.conv(f"mask_downscaling.{i}") for i in (0, 3, 6)]
        self.mask_norms = [p.norm(f"mask_downscaling.{i}") for i in (1, 4)]
        self._dense_pe = self._grid()

    def sparse(self, points: F32, labels: NDArray[np.integer], box: F32 | None) -> F32:
        """The tokens (T, 256) of points (P, 2), labels (P,) of 1, 0 or −1 (padding), and a box (4,).

        Points without a box are followed by one padding point, as the reference does.
        """
        if len(points) and box is None:
            points = np.concatenate([points, np.zeros((1, 2), np.float32)])
            labels = np.append(labels, NOT_A_POINT)
        if box is not None:
            points = np.concatenate([points, box.reshape(2, 2)])
            labels = np.append(labels, BOX_CORNERS)
        if not len(points):
            return np.empty((0, EMBED_DIM), np.float32)
        tokens = self._encode((points + np.float32(0.5)) / np.float32(IMG_SIZE))
        padding = labels == NOT_A_POINT
        tokens[padding] = self.not_a_point_embed
        tokens[~padding] += self.point_embeddings[labels[~padding]]
        return tokens

    def dense(self, mask_input: F32 | None) -> F32:
        """The map (64, 64, 256) of mask logits (256, 256), or the vector (256,) that stands for no mask everywhere."""
        if mask_input is None:
            return self.no_mask_embed
        x = mask_input[:, :, None]
        for conv, norm in zip(self.mask_convs, self.mask_norms):
            x = kernels.conv2d(x, conv.weight, conv.bias, stride=2, threads=self.threads)
            x = kernels.layer_norm(
                x,
                norm.weight,
                norm.bias,
                eps=LAYER_NORM_2D_EPS,
                activation="gelu",
                out=x,
                threads=self.threads,
            )
        last = self.mask_convs[-1]
        return kernels.conv2d(x, last.weight, last.bias, threads=self.threads)

    def dense_pe(self) -> F32:
        """The positional encoding (64, 64, 256) of the embedding's own grid, read-only."""
        return self._dense_pe

    def _grid(self) -> F32:
        centres = (np.arange(EMBED_SIZE, dtype=np.float32) + np.float32(0.5)) / np.float32(EMBED_SIZE)
        x, y = np.meshgrid(centres, centres)
        grid = self._encode(np.stack([x, y], axis=-1))
        grid.flags.writeable = False
        return grid

    def _encode(self, coordinates: F32) -> F32:
        """(..., 2) in [0, 1] to (..., 256): sines and cosines of 128 random frequencies (Tancik et al., 2020)."""
        x, y = np.split(2 * coordinates - 1, 2, axis=-1)
        phase: F32 = x * self.gaussian[0] + y * self.gaussian[1]  # BLAS's threads would spin on beside the kernels
        phase *= np.float32(2 * math.pi)
        encoded = np.empty((*phase.shape[:-1], EMBED_DIM), np.float32)
        np.sin(phase, out=encoded[..., : EMBED_DIM // 2])
        np.cos(phase, out=encoded[..., EMBED_DIM // 2 :])
        return encoded
