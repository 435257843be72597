"""Light HQ-SAM: the HQ token's image features and mask, which sharpen the mask of MobileSAM's decoder.

Source: Ke et al., arXiv:2306.01567; modeling/mask_decoder_hq.py (`MaskDecoderHQ`) of the package segment-anything-hq,
with its tensor names. All arrays are float32 with contiguous channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import kernels
from ..architecture import EMBED_SIZE, LAYER_NORM_2D_EPS, LOW_RES, UPSCALE_DIMS
from .answers import Candidates
from .parameters import F32, PackedLayer, Parameters

CHANNELS = UPSCALE_DIMS[1]  # channels of the upscaled image and of the HQ features
_ALL_CHANNELS = np.eye(CHANNELS, dtype=np.float32)


class Enlarge:
    """Transposed 2×2 convolution, LayerNorm2d, GELU, transposed 2×2 convolution: a map (64, 64, C) to (256, 256, 32).

    Both convolutions have stride 2, so every pixel becomes 2×2 pixels independently of its neighbours.
    """

    def __init__(self, p: Parameters) -> None:
        self.conv1, self.norm, self.conv2 = _transposed(p, "0"), p.norm("1"), _transposed(p, "3")

    def __call__(self, x: F32, threads: int) -> F32:
        """Returns (16384, 128): for each pixel after the first convolution, the 2×2 pixels of 32 channels."""
        x = kernels.linear(x.reshape(EMBED_SIZE**2, -1), *self.conv1, threads=threads)
        x = x.reshape(-1, len(self.norm.weight))
        x = kernels.layer_norm(x, *self.norm, eps=LAYER_NORM_2D_EPS, activation="gelu", out=x, threads=threads)
        return kernels.linear(x, *self.conv2, threads=threads)


def _transposed(p: Parameters, name: str) -> PackedLayer:
    """The transposed convolution (C, OC, 2, 2) as a linear layer: weight (2·2·OC, C), and bias (2·2·OC,)."""
    weight = p.tensor(f"{name}.weight").transpose(2, 3, 1, 0)
    rows = np.ascontiguousarray(weight).reshape(-1, weight.shape[-1])
    return PackedLayer(kernels.pack(rows, precision=p.precision, threads=1), np.tile(p.tensor(f"{name}.bias"), 4))


class HqToken:
    """The layers of Light HQ-SAM's mask head. The mask decoder runs ``hf_mlp``, as one more hypernetwork."""

    def __init__(self, p: Parameters, threads: int) -> None:
        self.threads = threads
        self.compress_vit_feat, self.embedding_encoder = (
            Enlarge(p / "compress_vit_feat"),
            Enlarge(p / "embedding_encoder"),
        )
        maskfeature = p / "embedding_maskfeature"
        self.conv1, self.norm = maskfeature.conv("0"), maskfeature.norm("1")
        weight = maskfeature.tensor("3.weight")
        self._conv2 = np.ascontiguousarray(weight.transpose(2, 3, 1, 0)).reshape(-1, len(weight))  # (3·3·64, 32)
        self._conv2_bias = maskfeature.tensor("3.bias")

    def features(self, image: F32, after_stage_1: F32) -> F32:
        """The HQ features of an image, which all its prompts share.

        Args:
            image: (64, 64, 256), the image embedding.
            after_stage_1: (64, 64, 160), the image encoder's map after stage 1.

        Returns:
            (256, 256, 32).
        """
        x = self.embedding_encoder(image, self.threads)
        x += self.compress_vit_feat(after_stage_1, self.threads)
        # Axes: the 64×64 map, the first convolution's 2×2 pixels, the second convolution's 2×2 pixels, channels.
        x = x.reshape(EMBED_SIZE, EMBED_SIZE, 2, 2, 2, 2, CHANNELS).transpose(0, 2, 4, 1, 3, 5, 6)
        return np.ascontiguousarray(x).reshape(LOW_RES, LOW_RES, CHANNELS)

    def mask(self, upscaled: F32, features: F32, hyper: F32) -> F32:
        """The HQ token's mask.

        Args:
            upscaled: (32, 256, 256), the upscaled image of the prompt.
            features: (256, 256, 32), the HQ features of the image.
            hyper: (32,), the output of ``hf_mlp``.

        Returns:
            Mask logits (256, 256).
        """
        x = np.ascontiguousarray(upscaled.transpose(1, 2, 0))
        x = kernels.conv2d(x, *self.conv1, pad=1, threads=self.threads)
        x = kernels.layer_norm(x, *self.norm, eps=LAYER_NORM_2D_EPS, activation="gelu", out=x, threads=self.threads)
        # The second convolution is linear, so `hyper` folds its 32 output channels into one. Each of the 3×3 taps is
        # then a product with 64 numbers per pixel. The mask is the sum of the nine taps' maps, each shifted by its tap.
        taps = (self._conv2 @ hyper).reshape(9, -1)
        maps = kernels.linear(x, taps, threads=self.threads)
        padded = np.pad(maps, [(1, 1), (1, 1), (0, 0)])
        mask = kernels.linear(features, hyper[None], threads=self.threads)[:, :, 0] + hyper @ self._conv2_bias
        for tap in range(9):
            y, x0 = divmod(tap, 3)
            mask += padded[y : y + LOW_RES, x0 : x0 + LOW_RES, tap]
        return mask

    def sharpen(self, candidates: Candidates, features: F32, *, token_only: bool) -> HqCandidate:
        """The single candidate of a prompt: the best of its candidates, plus the HQ token's mask."""
        return HqCandidate(candidates, int(candidates.scores.argmax()), self, features, token_only)


@dataclass(frozen=True, slots=True, eq=False)
class HqCandidate:
    """The only candidate mask of a prompt of Light HQ-SAM, which is computed on demand. Used like `Candidates`."""

    _candidates: Candidates  # of K mask tokens; their hypernetworks' outputs are followed by that of the HQ token
    _best: int
    _token: HqToken
    _features: F32  # (256, 256, 32)
    _token_only: bool

    @property
    def scores(self) -> F32:
        """(1,), the predicted IoU of the best of the mask tokens."""
        return self._candidates.scores[self._best : self._best + 1]

    def preview(self, lines: int = EMBED_SIZE) -> F32:
        """Compute every fourth row and column of the mask logits, (1, lines, 64), like `Candidates.preview`.

        The whole mask is drawn, because the HQ token's mask has no cheap preview.
        """
        return self.draw(lines=lines)[:, 1::4, 1::4]

    def draw(self, wanted: Sequence[int] | None = None, lines: int = EMBED_SIZE) -> F32:
        """Compute the mask logits (1, 4·lines, 256), or (0, 4·lines, 256) if ``wanted`` is empty.

        The whole mask is computed, because the mask of the HQ token takes a convolution over the whole image. See
        `Candidates.draw`.
        """
        height = LOW_RES // EMBED_SIZE * lines
        if wanted is not None and not len(wanted):
            return np.empty((0, height, LOW_RES), np.float32)
        hyper = self._candidates.hyper
        plain = hyper[self._best : self._best + 1]
        planes = self._candidates.products(
            _ALL_CHANNELS if self._token_only else np.concatenate([_ALL_CHANNELS, plain])
        )
        mask = self._token.mask(planes[:CHANNELS], self._features, hyper[-1])
        return (mask[None] if self._token_only else planes[CHANNELS:] + mask)[:, :height]
