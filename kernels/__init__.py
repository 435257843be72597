"""Fast kernels on channels-last (NHWC) float32 arrays. ``reference.py`` defines every kernel in NumPy.

`core` has the code that all kernels share. `encoder`, `decoder` and `image` have the fused passes. `micro` has the
vectorized micro-kernels in C. This package imports nothing from the rest of `mobilesam`.
"""

from mobilesam.kernels.core import isa, threads
from mobilesam.kernels.core.conv import conv2d
from mobilesam.kernels.core.depthwise import depthwise_conv2d
from mobilesam.kernels.core.gemm import linear, pack
from mobilesam.kernels.core.memory import empty
from mobilesam.kernels.core.panels import Panels
from mobilesam.kernels.core.probe import fma_peak
from mobilesam.kernels.core.rows import layer_norm
from mobilesam.kernels.core.winograd import WinogradPanels, pack_winograd, winograd_conv3x3
from mobilesam.kernels.decoder.constants import Update
from mobilesam.kernels.decoder.image_attention import HEADS, PANEL
from mobilesam.kernels.decoder.low_rank_update import UpdatedImage
from mobilesam.kernels.decoder.plan import Plan
from mobilesam.kernels.decoder.positional_encoding import encode_positions
from mobilesam.kernels.decoder.projection import PackedRows, pack_rows
from mobilesam.kernels.decoder.recorder import Array, Maps
from mobilesam.kernels.encoder.local_mlp import local_mlp
from mobilesam.kernels.encoder.mbconv import mbconv
from mobilesam.kernels.encoder.patch_embed import patch_embed
from mobilesam.kernels.encoder.window_attention import pack_attention_bias, window_attention
from mobilesam.kernels.image.normalize import normalize
from mobilesam.kernels.image.resize import mask_runs, resize_logits

__all__ = [
    "HEADS",
    "PANEL",
    "Array",
    "Maps",
    "PackedRows",
    "Panels",
    "Plan",
    "Update",
    "UpdatedImage",
    "WinogradPanels",
    "conv2d",
    "depthwise_conv2d",
    "empty",
    "encode_positions",
    "fma_peak",
    "isa",
    "layer_norm",
    "linear",
    "local_mlp",
    "mask_runs",
    "mbconv",
    "normalize",
    "pack",
    "pack_attention_bias",
    "pack_rows",
    "pack_winograd",
    "patch_embed",
    "resize_logits",
    "threads",
    "window_attention",
    "winograd_conv3x3",
]
