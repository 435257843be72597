"""The prompt encoder: embeddings of points, boxes and masks.

Source: the reference's modeling/prompt_encoder.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..architecture import EMBED_DIM, EMBED_SIZE, IMG_SIZE, LAYER_NORM_2D_EPS, POINT_EMBEDDINGS
from .parameters import F32, Parameters

NOT_A_POINT = -1
BOX_CORNERS = (2, 3)


class PromptEncoder:
    """Encodes prompts whose coordinates are pixels of the canvas. Threads may share one PromptEncoder."""

    def __init__(self, weights: Mapping[str, NDArray[np.generic]], threads: int, img_size: int = IMG_SIZE) -> None:
        p = Parameters(weights) / "prompt_encoder"
        self.threads, self.img_size = threads, img_size
        self.gaussian = p.tensor("pe_layer.positional_encoding_gaussian_matrix")
        names = [*(f"point_embeddings.{i}" for i in range(POINT_EMBEDDINGS)), "not_a_point_embed"]
        self._embeddings = np.concatenate([p.tensor(f"{name}.weight") for name in names])  # last row: label −1
        self.no_mask_embed = p.tensor("no_mask_embed.weight")[0]
        self.mask_convs = [p.conv(f"mask_downscaling.{i}") for i in (0, 3, 6)]
        self.mask_norms = [p.norm(f"mask_downscaling.{i}") for i in (1, 4)]

    def sparse(self, points: F32, labels: NDArray[np.integer], box: F32 | None) -> F32:
        """Encode points and a box. If there is no box, one padding point is added to the points, as in the reference.

        Args:
            points: (P, 2), x and y of each point.
            labels: (P,), 1 for foreground, 0 for background and −1 for padding.
            box: (4,), x0, y0, x1 and y1, or None.

        Returns:
            The prompt's tokens (T, 256).
        """
        if box is None and not len(points):
            return np.empty((0, EMBED_DIM), np.float32)
        count, more = len(points), (NOT_A_POINT,) if box is None else BOX_CORNERS
        xy, kinds = np.empty((count + len(more), 2), np.float32), np.empty(count + len(more), np.intp)
        xy[:count], xy[count:] = points, 0 if box is None else box.reshape(2, 2)
        kinds[:count], kinds[count:] = labels, more
        return kernels.encode_positions(xy, self.img_size, self.gaussian, kinds, self._embeddings, threads=1)

    def dense(self, mask_input: F32) -> F32:
        """Encode mask logits (256, 256). Returns the embedding (64, 64, 256)."""
        x = mask_input[:, :, None]
        norm_gelu = partial(kernels.layer_norm, eps=LAYER_NORM_2D_EPS, activation="gelu", threads=self.threads)
        for conv, norm in zip(self.mask_convs, self.mask_norms):
            x = kernels.conv2d(x, *conv, stride=2, threads=self.threads)
            x = norm_gelu(x, *norm, out=x)
        return kernels.conv2d(x, *self.mask_convs[-1], threads=self.threads)

    def dense_pe(self) -> F32:
        """Return the positional encoding (64, 64, 256) of the image tokens."""
        xy = np.indices((EMBED_SIZE, EMBED_SIZE), np.float32)[::-1].reshape(2, -1).T
        kinds, none = np.zeros(len(xy), np.intp), np.zeros((1, EMBED_DIM), np.float32)
        grid = kernels.encode_positions(np.ascontiguousarray(xy), EMBED_SIZE, self.gaussian, kinds, none, threads=1)
        return grid.reshape(EMBED_SIZE, EMBED_SIZE, EMBED_DIM)
