"""Fast kernels on channel-contiguous (NHWC) float32 arrays. ``reference.py`` defines every one in NumPy."""

from mobilesam.kernels import isa, steps, threads
from mobilesam.kernels.attention import cross_attention, pack_attention_bias, window_attention
from mobilesam.kernels.conv import conv2d, conv_transpose2d, pack_transpose
from mobilesam.kernels.depthwise import depthwise_conv2d
from mobilesam.kernels.gemm import linear, pack
from mobilesam.kernels.image_attention import attend_image
from mobilesam.kernels.mbconv import mbconv
from mobilesam.kernels.mlp import local_mlp
from mobilesam.kernels.panels import Panels
from mobilesam.kernels.patch_embed import patch_embed
from mobilesam.kernels.positions import encode_positions
from mobilesam.kernels.probe import fma_peak
from mobilesam.kernels.project import ImageMaps, MapRows, pack_rows, project_image, turn_image
from mobilesam.kernels.queue import Queue, Slot
from mobilesam.kernels.resize import mask_runs, resize_logits
from mobilesam.kernels.rows import gelu, layer_norm, normalize, softmax
from mobilesam.kernels.tokens import TokenSteps
from mobilesam.kernels.two_way import UpdatedImage, update_image
from mobilesam.kernels.two_way_mixed import MixedImage, update_image_mixed
from mobilesam.kernels.two_way_once import update_image_once
from mobilesam.kernels.upscale import upscale_masks
from mobilesam.kernels.winograd import WinogradPanels, pack_winograd, winograd_conv3x3

__all__ = [
    "ImageMaps",
    "MapRows",
    "MixedImage",
    "Panels",
    "Queue",
    "Slot",
    "TokenSteps",
    "UpdatedImage",
    "WinogradPanels",
    "attend_image",
    "conv2d",
    "conv_transpose2d",
    "cross_attention",
    "depthwise_conv2d",
    "encode_positions",
    "fma_peak",
    "gelu",
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
    "pack_transpose",
    "pack_winograd",
    "patch_embed",
    "project_image",
    "resize_logits",
    "softmax",
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
