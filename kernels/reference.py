"""The definition of every operation of `mobilesam.kernels`, in plain NumPy and float64.

Each function opens with its equation and is the simplest code that computes what the compiled kernel of the same name
must compute. A function has the arguments of the kernel, without `threads` and `out`. It computes and returns float64.

A weight may be given as `Packed`, with a precision. The product of x and the weight is then `narrow(x)` times
`narrow(weight)`. The compiled kernels sum bf16 products in float32, which holds each product of two bf16 numbers
exactly, and int8 products in int32. They compute everything except these products in float32.

Layout: feature maps are (..., H, W, C), channels last; `...` is any number of batch axes. Convolution weights are
(OC, KH, KW, C), linear weights (N, K). `activation` is None, "gelu" or "relu".
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .core.narrowing import Array, Packed, Weight, f64, narrow, unpacked
from .decoder.image_attention import HEADS

Pair = int | tuple[int, int]  # one number for both axes, or (vertical, horizontal)

_erf = np.frompyfunc(math.erf, 1, 1)


def linear(
    x: ArrayLike,
    weight: Weight,
    bias: ArrayLike | None = None,
    *,
    activation: str | None = None,
    residual: ArrayLike | None = None,
) -> Array:
    """y[..., n] = act(Σ_k x[..., k]·weight[n, k] + bias[n] + residual[..., n])

    Shapes: x (..., K), weight (N, K), bias (N,), residual and y (..., N). This is `torch.nn.functional.linear` with a
    residual and an activation.
    """
    rows, precision = unpacked(weight)
    return _epilogue(narrow(x, precision) @ narrow(rows, precision).T, bias, residual, activation)


def conv2d(
    x: ArrayLike,
    weight: Weight,
    bias: ArrayLike | None = None,
    *,
    stride: Pair = 1,
    pad: Pair = 0,
    dilation: Pair = 1,
    activation: str | None = None,
    residual: ArrayLike | None = None,
) -> Array:
    """y[..., h, w, o] = act(Σ_{i,j,c} x[..., h·s+i·d−p, w·s+j·d−p, c]·weight[o, i, j, c] + bias[o]
                             + residual[..., h, w, o])

    Shapes: x (..., H, W, C), weight (OC, KH, KW, C), bias (OC,), residual and y (..., OH, OW, OC). s, p and d are
    stride, pad and dilation; OH = (H + 2p − d·(KH − 1) − 1) // s + 1. Outside the feature map, x is zero. This is a
    cross-correlation, like `torch.nn.functional.conv2d`. In int8, the scale of an output pixel is computed from the
    KH·KW·C values of x under the kernel, padding included, and the scale of an output channel from the channel's
    KH·KW·C weights.
    """
    w, precision = unpacked(weight)
    taps = _taps(f64(x), w.shape[1:3], stride, pad, dilation)
    windows = np.concatenate([tap for _, _, tap in taps], axis=-1)
    return linear(windows, Packed(w.reshape(len(w), -1), precision), bias, activation=activation, residual=residual)


def depthwise_conv2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: Pair = 1,
    pad: Pair = 0,
    dilation: Pair = 1,
    activation: str | None = None,
) -> Array:
    """y[..., h, w, c] = act(Σ_{i,j} x[..., h·s+i·d−p, w·s+j·d−p, c]·weight[i, j, c] + bias[c])

    Shapes: x (..., H, W, C), weight (KH, KW, C), bias (C,), y (..., OH, OW, C), with OH and OW as in `conv2d`. Outside
    the feature map, x is zero. This is `torch.nn.functional.conv2d` with groups = C and an activation.
    """
    w = f64(weight)
    taps = _taps(f64(x), w.shape[:2], stride, pad, dilation)
    return _epilogue(sum(tap * w[i, j] for i, j, tap in taps), bias, None, activation)


def conv_transpose2d(
    x: ArrayLike, weight: Weight, bias: ArrayLike | None = None, *, activation: str | None = None
) -> Array:
    """y[..., 2h+i, 2w+j, o] = act(Σ_c x[..., h, w, c]·weight[o, i, j, c] + bias[o]),  i, j in {0, 1}

    Shapes: x (..., H, W, C), weight (OC, 2, 2, C), bias (OC,), y (..., 2H, 2W, OC). This is
    `torch.nn.ConvTranspose2d` with a kernel of 2×2 and stride 2, so that each output pixel is computed from one input
    pixel.
    """
    w, precision = unpacked(weight)
    y = np.einsum("...hwc,oijc->...hiwjo", narrow(x, precision), narrow(w, precision))
    *batch, h, i, w, j, channels = y.shape
    return _epilogue(y.reshape(*batch, h * i, w * j, channels), bias, None, activation)


def layer_norm(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike, *, eps: float = 1e-5, activation: str | None = None
) -> Array:
    """y[..., c] = act((x[..., c] − μ) / √(σ² + eps) · weight[c] + bias[c])

    Shapes: x (..., C), weight and bias (C,). μ and σ² are the mean and the biased variance of each row x[..., :].
    This is `torch.nn.LayerNorm` (arXiv:1607.06450), and SAM's `LayerNorm2d` with channels last.
    """
    x = f64(x)
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    return _activate(centred / np.sqrt(variance + eps) * f64(weight) + f64(bias), activation)


def gelu(x: ArrayLike) -> Array:
    """y = x·Φ(x) = x/2·(1 + erf(x/√2)), the exact form and not the tanh approximation (arXiv:1606.08415)

    x and y of any shape. x = −∞ gives the limit 0, although the product −∞·0 is undefined. NaN gives NaN.
    """
    x = f64(x)
    factor: Array = np.where(np.isneginf(x), 0.0, x)
    return factor * 0.5 * (1.0 + np.asarray(_erf(x * math.sqrt(0.5)), np.float64))


def softmax(x: ArrayLike) -> Array:
    """y[..., n] = exp(x[..., n] − m) / Σ_k exp(x[..., k] − m),  m = max_k x[..., k]

    Shapes: x and y (..., N). x = −∞ gives 0. As in PyTorch, a row that is all −∞, or that contains +∞ or NaN, gives
    NaN.
    """
    x = f64(x)
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return f64(powers / powers.sum(axis=-1, keepdims=True))


def window_attention(
    x: ArrayLike,
    norm_weight: ArrayLike,
    norm_bias: ArrayLike,
    qkv_weight: Weight,
    qkv_bias: ArrayLike,
    proj_weight: Weight,
    proj_bias: ArrayLike,
    attention_bias: ArrayLike,
    *,
    window: int,
    attend: str = "fp32",
    eps: float = 1e-5,
) -> Array:
    """y = x + proj(concat_h softmax(q_h·k_hᵀ/√d + attention_bias[h])·v_h),  q, k, v = qkv(layer_norm(x))

    Shapes: x and y (H, W, C), norm_weight, norm_bias and proj_bias (C,), qkv_weight (3C, C), qkv_bias (3C,),
    proj_weight (C, C), attention_bias (heads, N, N), indexed by head, query, key. Tokens attend to the N = window²
    tokens of their own window, in row-major order. Each head has d = C / heads channels. The rows of qkv_weight and
    qkv_bias are ordered by head, then q, k, v (d rows each). Before the norm, the feature map is padded with zeros on
    the right and at the bottom to whole windows. After the norm, a padded token is norm_bias, and real tokens attend to
    the padded tokens. This is the attention half of TinyViT's block (arXiv:2207.10666; `Attention` and `TinyViTBlock`
    in MobileSAM's `tiny_vit_sam.py`).

    `attend` is the precision of the two attention products, q·kᵀ and softmax·v. In "bf16", q, k and v are rounded to
    bf16. The exponentials of the softmax are rounded when they multiply v, but not in the softmax's denominator. The
    compiled kernel computes the two products in bf16 if qkv_weight is packed in a narrow precision and the CPU has
    bf16.
    """
    x, bias = f64(x), f64(attention_bias)
    height, width, channels = x.shape
    heads, tokens, _ = bias.shape
    padded = np.pad(x, ((0, -height % window), (0, -width % window), (0, 0)))
    down, across = padded.shape[0] // window, padded.shape[1] // window
    windows = padded.reshape(down, window, across, window, channels).swapaxes(1, 2)
    windows = windows.reshape(-1, tokens, channels)

    qkv = linear(layer_norm(windows, norm_weight, norm_bias, eps=eps), qkv_weight, qkv_bias)
    head_dim = channels // heads
    q, k, v = np.moveaxis(narrow(qkv, attend).reshape(-1, tokens, heads, 3, head_dim), (3, 2), (0, 2))
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(head_dim) + bias
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    attended = narrow(powers, attend) @ v / powers.sum(axis=-1, keepdims=True)
    y = linear(attended.swapaxes(1, 2).reshape(-1, tokens, channels), proj_weight, proj_bias)

    y = y.reshape(down, across, window, window, channels).swapaxes(1, 2).reshape(padded.shape)
    return x + y[:height, :width]


def cross_attention(q: ArrayLike, k: ArrayLike, v: ArrayLike, *, heads: int) -> Array:
    """y[:, h] = softmax(q[:, h]·k[:, h]ᵀ/√d)·v[:, h]  for each head h (columns h·d to (h+1)·d, d = D/heads)

    Shapes: q (M, D), k and v (N, D), y (M, D). This is `Attention` in SAM's `transformer.py` (arXiv:1706.03762),
    without its input and output projections.
    """
    q, k, v = (np.stack(np.split(f64(t), heads, axis=1)) for t in (q, k, v))
    y = softmax(q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])) @ v
    return f64(np.concatenate(list(y), axis=1))


def encode_positions(
    xy: ArrayLike,
    size: int,
    gaussian: ArrayLike,
    kinds: NDArray[np.intp],
    embeddings: ArrayLike,
) -> Array:
    """y[n] = [sin φ, cos φ] + embeddings[kinds[n]],  φ = 2π·(2·(xy[n] + ½) / size − 1)·gaussian

    Shapes: xy (N, 2), gaussian (2, F), kinds (N,), embeddings (K, 2·F), y (N, 2·F). For a point of kind −1, y is the
    last embedding alone, without sines and cosines.
    """
    phase = 2 * np.pi * (2 * (f64(xy) + 0.5) / size - 1) @ f64(gaussian)
    y = np.concatenate([np.sin(phase), np.cos(phase)], axis=1)
    return np.where(kinds[:, None] < 0, 0, y) + f64(embeddings)[kinds]


def project(
    x: ArrayLike,
    shift: ArrayLike,
    scale: ArrayLike,
    rows: ArrayLike,
    added: ArrayLike | None = None,
    *,
    precision: str = "fp32",
) -> Array:
    """y[m, n] = rows[m]·(x[n] + shift) + added[m, n],  y[M, n] = |x₁[n]|²,  y[M+1, n] = |x₂[n]|²

    x₁[n] is the vector x[n] + shift, minus the vector's mean over channels. x₂[n] is the vector x₁[n]∘scale, minus the
    vector's mean over channels. Shapes: x (N, C), shift and scale (C,), rows (M, C), y (M + 2, N). added (M0, N) is
    added to the first M0 ≤ M rows of y. These are the projections of an image that the decoder shares between prompts;
    see `mobilesam/network/low_rank.py`.
    """
    x = f64(x) + f64(shift)
    y = linear(rows, Packed(x.astype(np.float32), precision))
    if added is not None:
        y[: np.shape(added)[0]] += f64(added)
    x1 = x - x.mean(axis=1, keepdims=True)
    x2 = x1 * f64(scale)
    x2 -= x2.mean(axis=1, keepdims=True)
    return np.concatenate([y, np.square(x1).sum(axis=1)[None], np.square(x2).sum(axis=1)[None]])


def attend_image(
    queries: ArrayLike,
    x: ArrayLike,
    pe: ArrayLike,
    key: tuple[ArrayLike, ArrayLike],
    value: tuple[ArrayLike, ArrayLike],
) -> Array:
    """y = cross_attention(queries, key(x + pe), value(x))

    queries and y (T, E) are prompt tokens that attend to the image. x and pe (N, C) are image tokens and their
    positional encoding. key and value are linear layers, each a weight (E, C) and a bias (E,).
    """
    return cross_attention(queries, linear(f64(x) + f64(pe), *key), linear(x, *value), heads=HEADS)


def update_image(
    x: ArrayLike,
    pe: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    query: tuple[ArrayLike, ArrayLike],
    out: tuple[ArrayLike, ArrayLike],
    norm: tuple[ArrayLike, ArrayLike],
    *,
    eps: float = 1e-5,
) -> Array:
    """y = layer_norm(x + out(attention(query(x + pe), keys, values)))

    Shapes: x, pe and y (N, C), keys and values (T, E). query, out and norm are a weight and a bias each, with weights
    (E, C), (C, E) and (C,). This is the image-to-token attention of `TwoWayAttentionBlock` in SAM's `transformer.py`.
    The compiled kernel computes it in low rank, and its caller scales the keys by d^−½.
    """
    attended = cross_attention(linear(f64(x) + f64(pe), *query), keys, values, heads=HEADS)
    return layer_norm(linear(attended, *out, residual=x), *norm, eps=eps)


def upscale_masks(
    x: ArrayLike,
    norm_weight: ArrayLike,
    norm_bias: ArrayLike,
    w2: ArrayLike,
    b2: ArrayLike,
    hyper: ArrayLike,
    *,
    eps: float = 1e-6,
    precision: str = "fp32",
) -> Array:
    """t = gelu(layer_norm(z));  y[m] = gelu(conv_transpose2d(t, w2, b2))·hyper[m]

    x (P1·C1, H, W) holds the first transposed convolution's output z (√P1·H, √P1·W, C1), as z[√P1·h+i, √P1·w+j, c] =
    x[(i, j, c), h, w]. P1 is 4, or 1 for one of the 2×2 pixels. w2 (P2·C2, C1) is the second transposed convolution's
    weight, with rows ordered (i, j, o), and `precision` is the precision of its product. P2 is 4, or 1. norm_weight
    and norm_bias (C1,), b2 (C2,), hyper (M, C2), y (M, √(P1·P2)·H, √(P1·P2)·W). `output_upscaling` from its first norm
    on, and the product with the hypernetworks' output, in SAM's `mask_decoder.py`.
    """
    x, c1, c2, w2 = f64(x), np.size(norm_weight), np.size(b2), np.asarray(w2, np.float32)
    channels, height, width = x.shape
    side1, side2 = math.isqrt(channels // c1), math.isqrt(len(w2) // c2)
    z = x.reshape(side1, side1, c1, height, width).transpose(3, 0, 4, 1, 2).reshape(side1 * height, side1 * width, -1)
    t = layer_norm(z, norm_weight, norm_bias, eps=eps, activation="gelu")
    rows = w2.reshape(side2, side2, -1, c1).transpose(2, 0, 1, 3)
    return np.moveaxis(linear(gelu(conv_transpose2d(t, Packed(rows, precision), b2)), hyper), -1, 0)


def normalize(image: ArrayLike, mean: ArrayLike, std: ArrayLike, *, size: tuple[int, int]) -> Array:
    """y[h, w, c] = (image[h, w, c] − mean[c])/std[c] inside the image, 0 outside

    Shapes: image (H, W, C) uint8, mean and std (C,), y (*size, C). This is `Sam.preprocess` in SAM's `sam.py`.
    """
    y = np.zeros((*size, np.shape(image)[2]))
    y[: np.shape(image)[0], : np.shape(image)[1]] = (f64(image) - f64(mean)) / f64(std)
    return y


def winograd_conv3x3(x: ArrayLike, weight: ArrayLike) -> Array:
    """y = conv2d(x, weight) with pad 1 and stride 1

    Shapes: x (H, W, C), weight (OC, 3, 3, C), y (H, W, OC). The compiled kernel computes the same sums with fewer
    multiplications (arXiv:1509.09308).
    """
    return conv2d(x, weight, pad=1)


def patch_embed(x: ArrayLike, w1: Weight, b1: ArrayLike, w2: Weight, b2: ArrayLike) -> Array:
    """y = conv2d(gelu(conv2d(x, w1) + b1), w2) + b2, both 3×3 with stride 2 and pad 1

    Shapes: x (H, W, C), w1 (C1, 3, 3, C), b1 (C1,), w2 (C2, 3, 3, C1), b2 (C2,), y (⌈⌈H/2⌉/2⌉, ⌈⌈W/2⌉/2⌉, C2). This is
    TinyViT's `PatchEmbed`, with batch norms folded into the weights.
    """
    t = conv2d(x, w1, b1, stride=2, pad=1, activation="gelu")
    return conv2d(t, w2, b2, stride=2, pad=1)


def mbconv(
    x: ArrayLike,
    w1: Weight,
    b1: ArrayLike,
    w2: ArrayLike,
    b2: ArrayLike,
    w3: Weight,
    b3: ArrayLike,
    *,
    stride: int = 1,
    residual: bool = False,
) -> Array:
    """t = w3·gelu(depthwise(gelu(w1·x + b1), w2) + b2) + b3;  y = gelu(x + t) if residual else t

    Shapes: x (H, W, C), w1 (E, C), b1 (E,), w2 (3, 3, E), b2 (E,), w3 (OC, E), b3 (OC,), y (⌈H/stride⌉, ⌈W/stride⌉,
    OC). The first GELU's output is padded with one row or column of zeros on each side. With a residual, OC = C and
    stride is 1. With the residual, this is TinyViT's `MBConv`, without it `PatchMerging`, both with batch norms folded
    into the weights.
    """
    hidden = linear(x, w1, b1, activation="gelu")
    hidden = depthwise_conv2d(hidden, w2, b2, stride=stride, pad=1, activation="gelu")
    y = linear(hidden, w3, b3)
    return gelu(f64(x) + y) if residual else y


def local_mlp(
    x: ArrayLike,
    conv_weight: ArrayLike,
    conv_bias: ArrayLike,
    norm_weight: ArrayLike,
    norm_bias: ArrayLike,
    fc1_weight: Weight,
    fc1_bias: ArrayLike,
    fc2_weight: Weight,
    fc2_bias: ArrayLike,
    *,
    eps: float = 1e-5,
) -> Array:
    """t = depthwise(x, conv_weight) + conv_bias;  y = t + fc2(gelu(fc1(layer_norm(t))))

    Shapes: x and y (H, W, C), conv_weight (3, 3, C), conv_bias, norm_weight, norm_bias and fc2_bias (C,),
    fc1_weight (F, C), fc1_bias (F,), fc2_weight (C, F) with F = 4C in the network. The convolution has pad 1. This is
    the half of TinyViT's block after the attention, with the batch norm folded into conv_weight and conv_bias.
    """
    t = depthwise_conv2d(x, conv_weight, conv_bias, pad=1)
    hidden = linear(layer_norm(t, norm_weight, norm_bias, eps=eps), fc1_weight, fc1_bias, activation="gelu")
    return linear(hidden, fc2_weight, fc2_bias, residual=t)


def resize_logits(
    x: ArrayLike,
    *,
    padded: tuple[int, int] = (1024, 1024),
    crop: tuple[int, int],
    size: tuple[int, int],
    threshold: float | None = None,
) -> Array | NDArray[np.bool_]:
    """y = bilinear(bilinear(x → padded)[:, :crop_h, :crop_w] → size),  or with a threshold the mask y > threshold

    Shapes: x (C, H0, W0), y (C, H, W) with (H, W) = size. When an axis of length n0 is resized to n, pixel i is
    interpolated at (i + ½)·n0/n − ½, clamped to the axis, without antialiasing. This is SAM's `postprocess_masks`: two
    calls of `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.
    """
    y = _bilinear(f64(x), padded)[:, : crop[0], : crop[1]]
    y = _bilinear(y, size)
    return y if threshold is None else y > threshold


def mask_runs(
    x: ArrayLike,
    *,
    padded: tuple[int, int] = (1024, 1024),
    crop: tuple[int, int],
    size: tuple[int, int],
    threshold: float = 0.0,
    offset: float = 1.0,
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """y = resize_logits(x),  runs[c] = runs of the mask y[c] > threshold,  counts[c] = Σ(y[c] > threshold ± offset)

    x has the shape (C, H0, W0). A run (column, first, end) is a maximal range of mask pixels in one column, with rows
    first ≤ row < end. Runs are ordered by column, then by row. counts (C, 2) are the numbers of pixels above threshold
    + offset and above threshold − offset. The quotient of the two numbers is `calculate_stability_score` in SAM's
    `utils/amg.py`.
    """
    y = f64(resize_logits(x, padded=padded, crop=crop, size=size))
    counts = np.stack([(y > threshold + offset).sum(axis=(1, 2)), (y > threshold - offset).sum(axis=(1, 2))], axis=1)
    runs = []
    for mask in y > threshold:
        change = np.diff(mask.T.astype(np.int64), axis=1, prepend=0, append=0)
        columns, first = np.nonzero(change == 1)
        runs.append(np.stack([columns, first, np.nonzero(change == -1)[1]], axis=1))
    return runs, counts


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _activate(y: Array, activation: str | None) -> Array:
    if activation is None:
        return y
    if activation == "relu":
        return np.maximum(y, 0.0)
    if activation == "gelu":
        return gelu(y)
    raise ValueError(f"activation must be None, 'gelu' or 'relu', not {activation!r}")


def _epilogue(y: Any, bias: ArrayLike | None, residual: ArrayLike | None, activation: str | None) -> Array:
    """Return act(y + bias + residual)."""
    if bias is not None:
        y = y + f64(bias)
    if residual is not None:
        y = y + f64(residual)
    return _activate(y, activation)


def _taps(x: Array, kernel: Sequence[int], stride: Pair, pad: Pair, dilation: Pair) -> list[tuple[int, int, Array]]:
    """For each kernel element (i, j), return i, j and the pixels of x that it is multiplied by, (..., OH, OW, C)."""
    (sh, sw), (ph, pw), (dh, dw) = _pair(stride), _pair(pad), _pair(dilation)
    x = np.pad(x, [(0, 0)] * (x.ndim - 3) + [(ph, ph), (pw, pw), (0, 0)])
    rows = x.shape[-3] - dh * (kernel[0] - 1)
    columns = x.shape[-2] - dw * (kernel[1] - 1)
    return [
        (i, j, x[..., i * dh : i * dh + rows : sh, j * dw : j * dw + columns : sw, :])
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def _bilinear(x: Array, size: tuple[int, int]) -> Array:
    """Resize x (C, H0, W0) to (C, *size), first the rows and then the columns."""
    for axis, length in zip((1, 2), size, strict=True):
        source = (np.arange(length) + 0.5) * x.shape[axis] / length - 0.5
        source = source.clip(0, x.shape[axis] - 1)
        low = source.astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        fraction = (source - low).reshape((-1, 1) if axis == 1 else (-1,))
        x = x.take(low, axis) * (1 - fraction) + x.take(high, axis) * fraction
    return x
