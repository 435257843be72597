"""Arguments for one call of every kernel outside the decoder.

The arrays are large enough for several threads. Their sizes are not multiples of any tile size.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from mobilesam import kernels
from mobilesam.kernels import reference

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """Arguments for one call of a kernel.

    Attributes:
        operation: Name of the function in `kernels` and in `kernels.reference`.
        shapes: Shape of each array argument by name, in the order of the arguments.
        options: The other keyword arguments.
    """

    operation: str
    shapes: Mapping[str, Shape]
    options: Mapping[str, Any] = field(default_factory=dict)

    def arrays(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Return normally distributed float32 arguments. Weights are scaled, so that the sums are of order 1."""
        rng = np.random.default_rng(seed)
        return {
            name: rng.standard_normal(shape, np.float32) / np.float32(fan_in(name, shape) ** 0.5)
            for name, shape in self.shapes.items()
        }

    def __call__(self, arrays: Mapping[str, Any], **options: Any) -> np.ndarray:
        """Return the kernel's result for these arrays. If the kernel returns several arrays, they are concatenated."""
        return joined(getattr(kernels, self.operation)(**arrays, **self.options, **options))

    def expected(self, arrays: Mapping[str, Any]) -> np.ndarray:
        """Return the reference's result for these arrays. If it consists of several arrays, they are concatenated."""
        return joined(getattr(reference, self.operation)(**arrays, **self.options))


def joined(answer: np.ndarray | tuple[np.ndarray, ...]) -> np.ndarray:
    return np.concatenate(answer) if isinstance(answer, tuple) else answer


def fan_in(name: str, shape: Shape) -> int:
    """Number of products in one output's sum, if the array `name` is a weight. Returns 1 for other arrays."""
    if len(shape) == 1 or not (name.endswith("weight") or name in ("w1", "w2", "w3")):
        return 1
    if shape[:2] == (3, 3):
        return 9
    return int(np.prod(shape[1:]))


def attention_shapes(height: int, width: int, channels: int, heads: int, window: int) -> dict[str, Shape]:
    c, tokens = channels, window * window
    return {
        "x": (height, width, c),
        "norm_weight": (c,),
        "norm_bias": (c,),
        "qkv_weight": (3 * c, c),
        "qkv_bias": (3 * c,),
        "proj_weight": (c, c),
        "proj_bias": (c,),
        "attention_bias": (heads, tokens, tokens),
    }


def embed_shapes(height: int, width: int, channels: int, c1: int, c2: int) -> dict[str, Shape]:
    return {
        "x": (height, width, channels),
        "w1": (c1, 3, 3, channels),
        "b1": (c1,),
        "w2": (c2, 3, 3, c1),
        "b2": (c2,),
    }


def mbconv_shapes(height: int, width: int, channels: int, hidden: int, out_channels: int) -> dict[str, Shape]:
    return {
        "x": (height, width, channels),
        "w1": (hidden, channels),
        "b1": (hidden,),
        "w2": (3, 3, hidden),
        "b2": (hidden,),
        "w3": (out_channels, hidden),
        "b3": (out_channels,),
    }


def mlp_shapes(height: int, width: int, channels: int) -> dict[str, Shape]:
    c = channels
    return {
        "x": (height, width, c),
        "conv_weight": (3, 3, c),
        "conv_bias": (c,),
        "norm_weight": (c,),
        "norm_bias": (c,),
        "fc1_weight": (4 * c, c),
        "fc1_bias": (4 * c,),
        "fc2_weight": (c, 4 * c),
        "fc2_bias": (c,),
    }


CASES = {
    case.operation: case
    for case in (
        Case(
            "linear",
            {"x": (5, 73, 37), "weight": (67, 37), "bias": (67,), "residual": (5, 73, 67)},
            {"activation": "gelu"},
        ),
        Case(
            "conv2d",
            {"x": (2, 33, 35, 7), "weight": (37, 3, 2, 7), "bias": (37,), "residual": (2, 17, 36, 37)},
            {"stride": (2, 1), "pad": 1, "activation": "relu"},
        ),
        Case("depthwise_conv2d", {"x": (2, 47, 45, 19), "weight": (3, 3, 19), "bias": (19,)}, {"pad": 1}),
        Case("layer_norm", {"x": (1501, 37), "weight": (37,), "bias": (37,)}),
        Case("window_attention", attention_shapes(17, 23, 42, heads=3, window=5), {"window": 5}),
        Case("patch_embed", embed_shapes(83, 61, 3, 21, 37)),
        Case("mbconv", mbconv_shapes(33, 37, 21, 43, 21), {"residual": True}),
        Case("local_mlp", mlp_shapes(19, 97, 21)),
        Case("winograd_conv3x3", {"x": (27, 71, 48), "weight": (64, 3, 3, 48)}),
        Case("resize_logits", {"x": (2, 13, 11)}, {"padded": (53, 52), "crop": (41, 52), "size": (163, 208)}),
    )
}

# name of the kernel -> names of its arguments that accept packed weights -> the function that packs the weight
PACKERS = {
    "linear": {"weight": kernels.pack},
    "conv2d": {"weight": kernels.pack},
    "window_attention": {"qkv_weight": kernels.pack, "proj_weight": kernels.pack},
    "patch_embed": {"w1": kernels.pack, "w2": kernels.pack},
    "mbconv": {"w1": kernels.pack, "w3": kernels.pack},
    "local_mlp": {"fc1_weight": kernels.pack, "fc2_weight": kernels.pack},
}


def packed(case: Case, arrays: Mapping[str, np.ndarray], precision: str = "fp32") -> dict[str, Any]:
    """Return `arrays` after packing the weights listed in PACKERS for the current ISA."""
    if precision == "fp32":
        return arrays | {name: pack(arrays[name]) for name, pack in PACKERS[case.operation].items()}
    return arrays | {name: kernels.pack(arrays[name], precision=precision) for name in PACKERS[case.operation]}


def required(case: Case) -> list[str]:
    """Names of the array arguments that may not be None."""
    parameters = inspect.signature(getattr(reference, case.operation)).parameters
    return [name for name in case.shapes if parameters[name].default is inspect.Parameter.empty]


# (output channels N, input channels K) of the network's linear layers and 1×1 convolutions
NETWORK_LAYERS = [
    (384, 128), (128, 128), (512, 128), (128, 512), (480, 160), (160, 160), (640, 160), (160, 640),
    (960, 320), (320, 320), (1280, 320), (320, 1280), (256, 64), (64, 256), (128, 64), (160, 128), (320, 160),
    (256, 320), (256, 16), (256, 256), (128, 256), (256, 128), (2048, 256), (256, 2048), (32, 256), (4, 256),
]  # fmt: skip

PHOTO_SIZES = {  # photo -> the photo's size on the canvas, and its original size
    "landscape": ((683, 1024), (300, 451)),
    "portrait": ((1024, 683), (641, 427)),
    "square": ((1024, 1024), (512, 512)),
    "pixel": ((1024, 1024), (1, 1)),
    "strip": ((4, 1024), (7, 2000)),
    "column": ((1024, 4), (2000, 7)),
    "prime": ((1022, 1024), (1021, 1023)),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_array = pytest.mark.parametrize(
    ("case", "name"),
    [pytest.param(case, name, id=f"{key}-{name}") for key, case in CASES.items() for name in case.shapes],
)
packable = pytest.mark.parametrize("case", [CASES[name] for name in PACKERS], ids=PACKERS)
