"""`kernels/reference.py` agrees with ONNX Runtime's operators, MobileSAM's modules and known values."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import (
    U,
    assert_relative_l2,
    assert_sum,
    assert_within,
    layer_norm_bound,
    pass_bound,
    softmax_bound,
)

from mobilesam.kernels import reference

TINYVIT = np.load(Path(__file__).parents[1] / "data" / "tinyvit_modules.npz")  # written by data/make_tinyvit_modules.py


def onnx_op(op_type: str, *inputs: np.ndarray | None, opset: int = 20, **attributes: Any) -> np.ndarray:
    """Return the output of one ONNX operator, computed by ONNX Runtime. An input None omits an optional input."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra test-all is not installed")
    import onnx
    from onnx import helper

    given = {f"input{i}": value for i, value in enumerate(inputs) if value is not None}
    names = ["" if value is None else f"input{i}" for i, value in enumerate(inputs)]
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in given.items()
    ]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    node = helper.make_node(op_type, names, ["y"], **attributes)
    graph = helper.make_graph([node], op_type, infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, given)[0]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape, np.float32)


def nchw(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1)


def nhwc(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


GEOMETRIES = [
    {"stride": (1, 1), "pad": (0, 0), "dilation": (1, 1)},
    {"stride": (2, 2), "pad": (1, 1), "dilation": (1, 1)},
    {"stride": (3, 1), "pad": (0, 2), "dilation": (1, 3)},
    {"stride": (1, 2), "pad": (2, 0), "dilation": (2, 1)},
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 3)])
def test_conv2d(kernel, geometry):
    x, weight, bias = normal(2, 9, 8, 5), normal(6, *kernel, 5), normal(6)
    y = onnx_op("Conv", nchw(x), nchw(weight), bias, **onnx_geometry(geometry))
    assert_sum(nhwc(y), "conv2d", math.prod(kernel) * 5, x, weight, bias, **geometry)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 3)])
def test_depthwise_conv2d(kernel, geometry):
    x, weight, bias = normal(2, 9, 8, 5), normal(*kernel, 5), normal(5)
    y = onnx_op("Conv", nchw(x), weight.transpose(2, 0, 1)[:, None], bias, group=5, **onnx_geometry(geometry))
    assert_sum(nhwc(y), "depthwise_conv2d", math.prod(kernel), x, weight, bias, **geometry)


def onnx_geometry(geometry: dict[str, tuple[int, int]]) -> dict[str, Any]:
    return {"strides": geometry["stride"], "pads": geometry["pad"] * 2, "dilations": geometry["dilation"]}


def test_conv_transpose2d():
    x, weight, bias = normal(2, 3, 4, 5), normal(6, 2, 2, 5), normal(6)
    y = onnx_op("ConvTranspose", nchw(x), weight.transpose(3, 0, 1, 2), bias, strides=(2, 2))
    assert_sum(nhwc(y), "conv_transpose2d", 5, x, weight, bias)


def test_linear():
    x, weight, bias = normal(7, 5), normal(6, 5), normal(6)
    assert_sum(onnx_op("Gemm", x, weight, bias, transB=1), "linear", 5, x, weight, bias)


def test_epilogue_adds_the_residual_before_the_activation():
    x, weight, bias, residual = normal(7, 5), normal(6, 5), normal(6), normal(3, 7, 6)[0]
    total = onnx_op("Gemm", x, weight, bias, transB=1) + residual
    for activation, op in (("relu", "Relu"), ("gelu", "Gelu")):
        y = onnx_op(op, total)
        assert_sum(y, "linear", 5, x, weight, bias, residual=residual, activation=activation)


def test_layer_norm():
    x, weight, bias = normal(4, 3, 17), normal(17), normal(1, 17)[0]
    y = onnx_op("LayerNormalization", x, weight, bias, epsilon=1e-2)
    expected = reference.layer_norm(x, weight, bias, eps=1e-2)
    assert_within(y, expected, layer_norm_bound(x, weight, bias, eps=1e-2))


def test_gelu():
    x = np.linspace(-8, 8, 1001, dtype=np.float32)
    y = reference.gelu(x)
    assert_within(onnx_op("Gelu", x), y, 4 * U * (1 + abs(x)))  # 4 roundings of terms of at most 1 + |x|
    assert abs(reference.gelu(1.0) - 0.841344746068542948585) < 1e-15  # gelu(1) is Φ(1), a known value
    assert np.array_equal(reference.gelu([np.inf, -np.inf, np.nan]), [np.inf, 0, np.nan], equal_nan=True)


def test_softmax():
    x = 10 * normal(5, 33)
    x[2, 3] = -np.inf
    assert_within(onnx_op("Softmax", x), reference.softmax(x), softmax_bound(x))
    undefined = np.float32([[-np.inf, -np.inf], [np.inf, 0], [np.nan, 0]])
    assert np.isnan(reference.softmax(undefined)).all()


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_cross_attention(heads):
    q, k, v = normal(5, 16), normal(1, 7, 16)[0], normal(1, 1, 7, 16)[0, 0]
    y = onnx_op("Attention", q[None], k[None], v[None], opset=23, q_num_heads=heads, kv_num_heads=heads)[0]
    # The bound: scores are sums of at most 16 terms of order 1, and the softmax averages 7 values.
    assert_within(y, reference.cross_attention(q, k, v, heads=heads), 16 * 23 * U)


def test_update_image():
    """Each of the 8 heads has 2 of the 16 channels. With one channel per head, swapped axes could go unnoticed."""
    x, pe, keys, values = normal(11, 20), normal(1, 11, 20)[0], normal(3, 16), normal(1, 3, 16)[0]
    query, out = (normal(16, 20) / 4, normal(16)), (normal(20, 16) / 4, normal(20))
    norm = normal(1, 20)[0], normal(2, 20)[1]
    q = (x + pe) @ query[0].T + query[1]
    heads = {"q_num_heads": reference.HEADS, "kv_num_heads": reference.HEADS}
    attended = onnx_op("Attention", q[None], keys[None], values[None], opset=23, **heads)[0]
    expected = onnx_op("LayerNormalization", x + attended @ out[0].T + out[1], *norm, epsilon=1e-5)
    assert_relative_l2(
        expected, reference.update_image(x, pe, keys, values, query, out, norm), pass_bound(20, 2, 3, 16, 20)
    )


def test_project_image():
    x, shift, scale, rows, added = normal(5, 8), normal(8), normal(1, 8)[0], normal(3, 8), normal(2, 5)
    y = reference.project(x, shift, scale, rows, added)
    moved = np.asarray(x, np.float64) + shift
    np.testing.assert_allclose(y[:2], rows[:2] @ moved.T + added, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y[2], rows[2] @ moved.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y[3], 8 * moved.var(axis=1), rtol=1e-12)
    np.testing.assert_allclose(y[4], 8 * ((moved - moved.mean(axis=1, keepdims=True)) * scale).var(axis=1), rtol=1e-12)


def test_upscale_masks():
    x, w1, w2, hyper = normal(3, 4, 6), normal(5, 2, 2, 6), normal(7, 2, 2, 5), normal(2, 7)
    b1, b2, norm_weight, norm_bias = normal(5), normal(7), normal(1, 5)[0], normal(2, 5)[1]
    how = {"strides": (2, 2)}
    t = onnx_op("ConvTranspose", nchw(x[None]), w1.transpose(3, 0, 1, 2), b1, **how)
    t = onnx_op("Gelu", onnx_op("LayerNormalization", nhwc(t), norm_weight, norm_bias, epsilon=1e-6))
    t = onnx_op("Gelu", onnx_op("ConvTranspose", nchw(t), w2.transpose(3, 0, 1, 2), b2, **how))
    rows = [w.transpose(1, 2, 0, 3).reshape(-1, w.shape[-1]) for w in (w1, w2)]
    coarse = reference.linear(x, rows[0], np.tile(b1, 4))
    y = reference.upscale_masks(np.moveaxis(coarse, -1, 0), norm_weight, norm_bias, rows[1], b2, hyper)
    assert_relative_l2(np.einsum("chw,mc->mhw", t[0], hyper), y, pass_bound(6, 5, 5, 7, gelus=2))


@pytest.mark.parametrize(
    ("source", "padded", "crop", "size"),
    [
        ((8, 8), (32, 32), (32, 21), (50, 33)),
        ((7, 5), (20, 9), (1, 9), (1, 1)),
        ((6, 6), (6, 6), (6, 6), (3, 11)),
    ],
)
def test_resize_logits(source, padded, crop, size):
    x = normal(2, *source)
    y = x[None]
    how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    for shape, keep in ((padded, crop), (size, size)):
        y = onnx_op("Resize", y, None, None, np.int64([1, 2, *shape]), **how)
        y = y[..., : keep[0], : keep[1]]
    expected = reference.resize_logits(x, padded=padded, crop=crop, size=size)
    # A source coordinate is below 32 and has an error of at most 8 ulps. Neighbours in x differ by at most 2·max|x|.
    assert_within(y[0], expected, 2 * 8 * U * 32 * 2 * abs(x).max())
    mask = reference.resize_logits(x, padded=padded, crop=crop, size=size, threshold=0.25)
    assert mask.dtype == bool and np.array_equal(mask, expected > 0.25)


def module(name: str, *keys: str) -> list[np.ndarray]:
    return [TINYVIT[f"{name}/{key}.{part}"] for key in keys for part in ("weight", "bias")]


def test_tinyvit_block_is_window_attention_then_local_mlp():
    attention = module("block", "norm", "qkv", "proj")
    x = reference.window_attention(TINYVIT["block/x"], *attention, TINYVIT["block/attention_bias"], window=3)
    y = reference.local_mlp(x, *module("block", "local_conv", "mlp_norm", "fc1", "fc2"))
    np.testing.assert_allclose(y, TINYVIT["block/y"], rtol=1e-12, atol=1e-12)  # both sides are float64


MBCONVS = {"mbconv": {"residual": True}, "patch_merging": {"stride": 2}}


@pytest.mark.parametrize(("name", "options"), MBCONVS.items(), ids=MBCONVS)
def test_mbconv_is_tinyvits(name, options):
    y = reference.mbconv(TINYVIT[f"{name}/x"], *module(name, "conv1", "conv2", "conv3"), **options)
    np.testing.assert_allclose(y, TINYVIT[f"{name}/y"], rtol=1e-12, atol=1e-12)


def test_patch_embed_is_tinyvits():
    y = reference.patch_embed(TINYVIT["patch_embed/x"], *module("patch_embed", "conv1", "conv2"))
    np.testing.assert_allclose(y, TINYVIT["patch_embed/y"], rtol=1e-12, atol=1e-12)


def test_unknown_activation():
    with pytest.raises(ValueError, match="tanh"):
        reference.linear(normal(2, 3), normal(4, 3), activation="tanh")
