"""The image encoder as an ONNX graph, laid out for the speed of ONNX Runtime.

Convolutions are NCHW, because ONNX Runtime blocks their channels itself. Everything else runs on tokens (H·W, C), so
each linear layer is a single Gemm node. Each function builds one module of the reference's modeling/tiny_vit_sam.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from ..architecture import (
    EMBED_DIM,
    EMBED_SIZE,
    HQ_STAGE,
    LAYER_NORM_2D_EPS,
    LOW_RES,
    STAGES,
    UPSCALE_DIMS,
    Stage,
    attention_bias_index,
)
from ..kernels.core.check import F32
from ..network.parameters import Tensors
from .graph import Graph, value_info

I32 = NDArray[np.int32]


def build_encoder(tensors: Tensors) -> ModelProto:
    """Build the encoder's ONNX graph. See `export_onnx` for its input and outputs."""
    g = Graph(tensors)
    x, starts = _patch_embed(g, "input"), []  # starts: the input of each stage
    for index, stage in enumerate(STAGES):
        layer = f"image_encoder.layers.{index}"
        if stage.heads:
            x = _to_tokens(g, x, stage)
        starts.append(x)
        for block in range(stage.depth):
            name = f"{layer}.blocks.{block}"
            x = _tiny_vit_block(g, x, name, stage) if stage.heads else _mbconv(g, x, name)
        if stage is not STAGES[-1]:
            x = _to_map(g, x, stage) if stage.heads else x
            x = _patch_merging(g, x, f"{layer}.downsample", stage.resolution // STAGES[index + 1].resolution)
    x = _neck(g, x)
    g.transpose(x, 0, 3, 1, 2, output="output")
    outputs, side = [value_info("output", 1, EMBED_DIM, EMBED_SIZE, EMBED_SIZE)], g.architecture.img_size
    if g.architecture.hq:
        _hq_features(g, x, starts[HQ_STAGE + 1])
        outputs.append(value_info("hq_features", 1, UPSCALE_DIMS[1], LOW_RES, LOW_RES))
    return g.model(
        "mobilesam_image_encoder",
        [value_info("input", 1, 3, side, side)],
        outputs,
        f"{g.architecture.title}'s image encoder; input: RGB, normalised, then zero-padded right and bottom",
    )


def _to_tokens(g: Graph, x: str, stage: Stage) -> str:
    # ONNX Runtime merges a transpose of four axes with its own layout change around the convolution.
    return g.reshape(g.transpose(x, 0, 2, 3, 1), stage.resolution**2, stage.dim)


def _to_map(g: Graph, x: str, stage: Stage) -> str:
    return g.transpose(g.reshape(x, 1, stage.resolution, stage.resolution, stage.dim), 0, 3, 1, 2)


def _patch_embed(g: Graph, x: str) -> str:
    stride = g.architecture.patch_stride
    x = g.gelu(g.conv(x, "image_encoder.patch_embed.seq.0.c", stride=stride))
    return g.conv(x, "image_encoder.patch_embed.seq.2.c", stride=stride)


def _mbconv(g: Graph, x: str, name: str) -> str:
    y = g.gelu(g.conv(x, f"{name}.conv1.c"))
    y = g.gelu(g.conv(y, f"{name}.conv2.c"))
    return g.gelu(g.add(g.conv(y, f"{name}.conv3.c"), x))


def _patch_merging(g: Graph, x: str, name: str, stride: int) -> str:
    x = g.gelu(g.conv(x, f"{name}.conv1.c"))
    x = g.gelu(g.conv(x, f"{name}.conv2.c", stride=stride))
    return g.conv(x, f"{name}.conv3.c")


def _tiny_vit_block(g: Graph, x: str, name: str, stage: Stage) -> str:
    x = g.add(x, _attention(g, x, f"{name}.attn", stage))
    x = _to_tokens(g, g.conv(_to_map(g, x, stage), f"{name}.local_conv.c"), stage)
    hidden = g.gelu(g.linear(g.layer_norm(x, f"{name}.mlp.norm"), f"{name}.mlp.fc1"))
    return g.add(x, g.linear(hidden, f"{name}.mlp.fc2"))


def _attention(g: Graph, x: str, name: str, stage: Stage) -> str:
    """Windowed attention of tokens (L, C).

    The reference pads the map with zeros before the norm, and the norm of a zero token is the norm's bias. So q, k and
    v of a padded token are constants. The projections run on the L real tokens only, and the constants are appended as
    row L. For each of q, k and v, one Gather pads the map, splits it into windows and separates the heads. One more
    Gather does the reverse for the attention's output.
    """
    tokens, dim, heads = stage.resolution**2, stage.dim, stage.heads
    head_dim = dim // heads
    weight, bias = _scaled_qkv(g, f"{name}.qkv", heads)
    qkv = g.affine(g.layer_norm(x, f"{name}.norm"), f"{name}.qkv", weight, bias)
    padding = (g.tensor(f"{name}.norm.bias") @ weight.T + bias)[None]
    qkv = g.node("Concat", qkv, g.constant(f"{name}.padding", padding), axis=0)
    qkv = g.reshape(qkv, (tokens + 1) * heads * 3, head_dim)

    to_windows, to_tokens = _window_rows(stage)
    kind = f"{stage.resolution}_{stage.window}_{heads}"
    q, k, v = (
        g.node("Gather", qkv, g.constant(f"{part}_rows_{kind}", rows), axis=0) for part, rows in zip("qkv", to_windows)
    )
    table = g.tensor(f"{name}.attention_biases")[:, attention_bias_index(stage.window)]
    scores = g.add(g.matmul(q, g.transpose(k, 0, 1, 3, 2)), g.constant(f"{name}.attention_biases", table))
    attended = g.reshape(g.matmul(g.softmax(scores), v), to_windows[0].size, head_dim)
    attended = g.node("Gather", attended, g.constant(f"token_rows_{kind}", to_tokens), axis=0)
    return g.linear(g.reshape(attended, tokens, dim), f"{name}.proj")


def _scaled_qkv(g: Graph, name: str, heads: int) -> tuple[F32, F32]:
    """Weight (3C, C) and bias (3C,) of the q, k, v projection, with the scale of the scores folded into q.

    Each head has its rows of q, k and v next to one another, as in the reference.
    """
    weight, bias = g.tensor(f"{name}.weight"), g.tensor(f"{name}.bias")
    scale = np.ones((heads, 3, len(bias) // (3 * heads)), np.float32)
    scale[:, 0] = scale.shape[2] ** -0.5
    return weight * scale.reshape(-1, 1), bias * scale.reshape(-1)


def _window_rows(stage: Stage) -> tuple[I32, I32]:
    """Row indices for the Gathers before and after windowed attention. A row holds `head_dim` numbers.

    Returns:
        to_windows (3, windows, heads, N), for q, k and v: indices of rows (L + 1, heads, 3). Token L is the padding.
        to_tokens (L, heads): indices of rows (windows, heads, N).
    """
    resolution, window, heads = stage.resolution, stage.window, stage.heads
    side, tokens, n = -(-resolution // window), resolution**2, window**2
    grid = np.full((side * window, side * window), tokens)
    grid[:resolution, :resolution] = np.arange(tokens).reshape(resolution, resolution)
    token = grid.reshape(side, window, side, window).swapaxes(1, 2).reshape(side**2, 1, n)
    head = np.arange(heads)
    to_windows = np.arange(3).reshape(3, 1, 1, 1) + 3 * (token * heads + head[:, None])

    index_of_token = np.empty(tokens + 1, int)
    index_of_token[token.ravel()] = np.arange(token.size)
    window_index, position = np.divmod(index_of_token[:tokens, None], n)
    return to_windows.astype(np.int32), ((window_index * heads + head) * n + position).astype(np.int32)


def _neck(g: Graph, x: str) -> str:
    """The image embedding (1, 64, 64, 256)."""
    x = g.layer_norm(g.linear(x, "image_encoder.neck.0"), "image_encoder.neck.1", LAYER_NORM_2D_EPS)
    x = g.transpose(g.reshape(x, 1, EMBED_SIZE, EMBED_SIZE, EMBED_DIM), 0, 3, 1, 2)
    x = g.transpose(g.conv(x, "image_encoder.neck.2"), 0, 2, 3, 1)
    return g.layer_norm(x, "image_encoder.neck.3", LAYER_NORM_2D_EPS)


def _hq_features(g: Graph, image: str, after_hq_stage: str) -> str:
    """Light HQ-SAM's features (1, 32, 256, 256), from the embedding (1, 64, 64, 256) and a stage's map (4096, 160)."""
    x = g.enlarge(g.reshape(image, EMBED_SIZE**2, EMBED_DIM), "mask_decoder.embedding_encoder")
    x = g.add(x, g.enlarge(after_hq_stage, "mask_decoder.compress_vit_feat"))
    return g.planes(g.transpose(x, 1, 0), UPSCALE_DIMS[1], output="hq_features")
