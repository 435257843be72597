"""Fast kernels on channel-contiguous (NHWC) float32 arrays. ``reference.py`` defines every one in NumPy.

`core` is what all share, `encoder`, `decoder` and `image` are the fused passes, `micro` the C that runs on vectors.
Imports nothing of `mobilesam` outside this folder.
"""

from mobilesam.kernels.core import isa, threads
from mobilesam.kernels.core.conv import conv2d
from mobilesam.kernels.core.depthwise import depthwise_conv2d
from mobilesam.kernels.core.gemm import linear, pack
from mobilesam.kernels.core.panels import Panels
from mobilesam.kernels.core.probe import fma_peak
from mobilesam.kernels.core.rows import layer_norm
from mobilesam.kernels.core.winograd import WinogradPanels, pack_winograd, winograd_conv3x3
from mobilesam.kernels.decoder import steps
from mobilesam.kernels.decoder.constants import MixedUpdate, OnceAttention, OnceUpdate, Update
from mobilesam.kernels.decoder.cross_attention import cross_attention
from mobilesam.kernels.decoder.image_attention import attend_image
from mobilesam.kernels.decoder.image_maps import ImageMaps, MapRows, pack_rows, project_image, turn_image
from mobilesam.kernels.decoder.low_rank_update import UpdatedImage, update_image
from mobilesam.kernels.decoder.mixed_update import MixedImage, update_image_mixed
from mobilesam.kernels.decoder.once_update import update_image_once
from mobilesam.kernels.decoder.positional_encoding import encode_positions
from mobilesam.kernels.decoder.queue import Queue, Slot
from mobilesam.kernels.decoder.tokens import TokenSteps
from mobilesam.kernels.decoder.upscale import upscale_masks
from mobilesam.kernels.encoder.local_mlp import local_mlp
from mobilesam.kernels.encoder.mbconv import mbconv
from mobilesam.kernels.encoder.patch_embed import patch_embed
from mobilesam.kernels.encoder.window_attention import pack_attention_bias, window_attention
from mobilesam.kernels.image.normalize import normalize
from mobilesam.kernels.image.resize import mask_runs, resize_logits

__all__ = [
    "ImageMaps",
    "MapRows",
    "MixedImage",
    "MixedUpdate",
    "OnceAttention",
    "OnceUpdate",
    "Panels",
    "Queue",
    "Slot",
    "TokenSteps",
    "Update",
    "UpdatedImage",
    "WinogradPanels",
    "attend_image",
    "conv2d",
    "cross_attention",
    "depthwise_conv2d",
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
    "project_image",
    "resize_logits",
    "steps",
    "threads",
    "turn_image",
    "update_image",
    "update_image_mixed",
    "update_image_once",
    "upscale_masks",
    "window_attention",
    "winograd_conv3x3",
]
