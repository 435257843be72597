"""TinyViT-5M, the image encoder: one class for each module of the reference's modeling/tiny_vit_sam.py.

Names of classes and attributes are the reference's. Feature maps are (H, W, C) float32 with contiguous channels. Every
BatchNorm is folded into the convolution before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..architecture import (
    LAYER_NORM_2D_EPS,
    LAYER_NORM_EPS,
    MOBILE_SAM,
    STAGES,
    Architecture,
    Stage,
    attention_bias_index,
)
from ..kernels import WinogradPanels
from ..util.deferred import Deferred
from .parameters import F32, Parameters
from .zero_canvas import PARTIAL_LAYERS, PartialCanvas


class PatchEmbed:
    """Two convolutions with a GELU between them, from the canvas (S, S, 3) to (256, 256, 64).

    MobileSAM's kernels are 3×3 with stride 2, and LiteMedSAM's kernels are 1×1 with stride 1.

    Attributes:
        stride: stride of each convolution.
    """

    def __init__(self, p: Parameters, stride: int) -> None:
        self.stride = stride
        # The first convolution is fp32 in every precision, because bf16 or int8 would lose most accuracy here.
        self.conv1 = p.conv("seq.0.c", precision="fp32")
        self.conv2 = p.conv("seq.2.c")

    def __call__(self, x: F32, threads: int) -> F32:
        c1, c2 = self.conv1, self.conv2
        if self.stride == 1:
            x = kernels.conv2d(x, c1.weight, c1.bias, activation="gelu", threads=threads)
            return kernels.conv2d(x, c2.weight, c2.bias, threads=threads)
        return kernels.patch_embed(x, c1.weight, c1.bias, c2.weight, c2.bias, threads=threads)


class Bottleneck:
    """1×1 convolution, GELU, depthwise 3×3 convolution, GELU, 1×1 convolution: the reference's ``PatchMerging``.

    If ``residual`` is true, the input is added to the output and a GELU follows, as in the reference's ``MBConv``.
    """

    def __init__(self, p: Parameters, *, stride: int = 1, residual: bool = False) -> None:
        self.conv1 = p.linear("conv1.c")
        self.conv2 = p.depthwise("conv2.c")
        self.conv3 = p.linear("conv3.c")
        self.stride = stride
        self.residual = residual

    def __call__(self, x: F32, threads: int) -> F32:
        c1, c2, c3 = self.conv1, self.conv2, self.conv3
        return kernels.mbconv(
            x, c1.weight, c1.bias, c2.weight, c2.bias, c3.weight, c3.bias,
            stride=self.stride, residual=self.residual, threads=threads,
        )  # fmt: skip


class TinyViTBlock:
    """Windowed attention, local convolution and MLP: x += attn(x); x = local_conv(x); x += mlp(x)."""

    def __init__(self, p: Parameters, stage: Stage) -> None:
        self.window = stage.window
        self.norm = p.norm("attn.norm")
        self.qkv = p.linear("attn.qkv")
        self.proj = p.linear("attn.proj")
        biases = p.tensor("attn.attention_biases")
        self.attention_bias = kernels.pack_attention_bias(biases, attention_bias_index(stage.window))
        self.local_conv = p.depthwise("local_conv.c")
        self.mlp_norm = p.norm("mlp.norm")
        self.fc1 = p.linear("mlp.fc1")
        self.fc2 = p.linear("mlp.fc2")

    def __call__(self, x: F32, threads: int) -> F32:
        return self.mlp(self.attend(x, threads), threads)

    def attend(self, x: F32, threads: int) -> F32:
        """Compute x += attn(x), in place."""
        return kernels.window_attention(
            x, self.norm.weight, self.norm.bias, self.qkv.weight, self.qkv.bias, self.proj.weight, self.proj.bias,
            self.attention_bias, window=self.window, eps=LAYER_NORM_EPS, out=x, threads=threads,
        )  # fmt: skip

    def mlp(self, x: F32, threads: int) -> F32:
        """Compute x = local_conv(x), then x += mlp(x)."""
        return kernels.local_mlp(
            x, self.local_conv.weight, self.local_conv.bias, self.mlp_norm.weight, self.mlp_norm.bias,
            self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias, eps=LAYER_NORM_EPS, threads=threads,
        )  # fmt: skip


class EncoderLayer:
    """A stage, the reference's ``ConvLayer`` or ``BasicLayer``: its blocks, then the PatchMerging to the next stage.

    Attributes:
        downsample: the PatchMerging, or None for the last stage.
    """

    def __init__(self, p: Parameters, stage: Stage, following: Stage | None) -> None:
        self.blocks = [
            TinyViTBlock(p / "blocks" / i, stage) if stage.window else Bottleneck(p / "blocks" / i, residual=True)
            for i in range(stage.depth)
        ]
        self.downsample = None
        if following is not None:
            self.downsample = Bottleneck(p / "downsample", stride=stage.resolution // following.resolution)

    def __call__(self, x: F32, threads: int) -> F32:
        for block in self.blocks:
            x = block(x, threads)
        return x if self.downsample is None else self.downsample(x, threads)


class Neck:
    """A 1×1 and a 3×3 convolution to 256 channels, each followed by LayerNorm2d."""

    def __init__(self, p: Parameters) -> None:
        self.conv1, self.norm1 = p.linear("0"), p.norm("1")
        self.conv2, self.norm2 = p.conv3x3("2"), p.norm("3")

    def __call__(self, x: F32, threads: int) -> F32:
        return self.conv3x3(self.conv1x1(x, threads), threads)

    def conv1x1(self, x: F32, threads: int) -> F32:
        x = kernels.linear(x, self.conv1.weight, threads=threads)
        return self._norm(x, self.norm1.weight, self.norm1.bias, threads)

    def conv3x3(self, x: F32, threads: int) -> F32:
        if isinstance(self.conv2, WinogradPanels):
            x = kernels.winograd_conv3x3(x, self.conv2, threads=threads)
        else:
            x = kernels.conv2d(x, self.conv2, pad=1, threads=threads)
        return self._norm(x, self.norm2.weight, self.norm2.bias, threads)

    @staticmethod
    def _norm(x: F32, weight: F32, bias: F32, threads: int) -> F32:
        return kernels.layer_norm(x, weight, bias, eps=LAYER_NORM_2D_EPS, out=x, threads=threads)


class ImageEncoder:
    """The image encoder: a canvas (S, S, 3) to features (64, 64, 256), both float32. S is the architecture's img_size.

    The encoder is immutable once it is loaded.

    Attributes:
        img_size: side of the canvas in pixels.
        partial_canvas: encoders for photos that do not fill the canvas, by the axis that is not filled (0 rows,
            1 columns).
    """

    def __init__(
        self,
        weights: Mapping[str, NDArray[np.generic]],
        threads: int,
        precision: str = "fp32",
        *,
        thread: Executor | None = None,
        architecture: Architecture = MOBILE_SAM,
    ) -> None:
        """Load the layers, or begin to load the layers in the executor ``thread``.

        Args:
            weights: a checkpoint's tensors by their reference names.
            threads: number of threads of each kernel call.
            precision: precision of the products, one of `precision.PRECISIONS`.
            thread: executor that loads the layers in their order. The encoder waits for a layer only when it uses the
                layer. If None, the constructor loads all layers before it returns.
            architecture: the architecture of the network.
        """
        p = Parameters(weights, precision) / "image_encoder"
        self.threads, self.img_size, self._hq = threads, architecture.img_size, architecture.hq
        self._patch_embed = Deferred(thread, PatchEmbed, p / "patch_embed", architecture.patch_stride)
        self._layers = [
            Deferred(thread, EncoderLayer, p / "layers" / i, stage, following)
            for i, (stage, following) in enumerate(zip(STAGES, [*STAGES[1:], None]))
        ]
        self._neck = Deferred(thread, Neck, p / "neck")
        self.partial_canvas = [
            PartialCanvas(self._patch_embed, self._layers[:PARTIAL_LAYERS], axis, threads) for axis in (0, 1)
        ]

    @property
    def patch_embed(self) -> PatchEmbed:
        return self._patch_embed()

    @property
    def layers(self) -> list[EncoderLayer]:
        return [layer() for layer in self._layers]

    @property
    def neck(self) -> Neck:
        return self._neck()

    def loaded(self) -> ImageEncoder:
        """Wait until all layers are loaded, and return the encoder. Raises the error of a layer that failed to load."""
        _ = self.patch_embed, self.layers, self.neck
        return self

    def __call__(self, x: F32, filled: tuple[int, int] | None = None) -> F32:
        """Encode a canvas.

        Args:
            x: canvas (S, S, 3) float32, normalised, zero-padded at the bottom and right.
            filled: (h, w), the height and width of a photo that does not fill the canvas. Rows of x from h on and
                columns from w on must be zero. The encoder then skips most of the zero part of the canvas. The features
                are the same with and without ``filled``, bit for bit.

        Returns:
            Features (64, 64, 256) float32.

        Raises:
            TypeError or ValueError: x is not a float32 array of shape (S, S, 3).
        """
        features, _ = self.encode(x, filled)
        return features

    def encode(self, x: F32, filled: tuple[int, int] | None = None) -> tuple[F32, F32 | None]:
        """Encode a canvas. Arguments and errors are those of a call.

        Returns:
            The features (64, 64, 256) float32. For Light HQ-SAM also the map (64, 64, 160) float32 after stage 1, else
            None.
        """
        shape = (self.img_size, self.img_size, 3)
        if x.shape != shape:
            raise ValueError(f"x: expected shape {shape}, got {x.shape}")
        y = None
        for canvas, lines in zip(self.partial_canvas, filled or x.shape):
            y = canvas(x, lines) if y is None else y
        if y is None:
            y = self.patch_embed(x, self.threads)
            for layer in self._layers[:PARTIAL_LAYERS]:
                y = layer()(y, self.threads)
        after_stage_1 = y.copy() if self._hq else None  # a copy, because the blocks change their input
        for layer in self._layers[PARTIAL_LAYERS:]:
            y = layer()(y, self.threads)
        return self.neck(y, self.threads), after_stage_1
