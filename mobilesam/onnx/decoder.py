"""The prompt encoder and mask decoder as one ONNX graph, with the inputs and outputs of SAM's own export.

Source: the reference's utils/onnx.py for the interface; modeling/prompt_encoder.py, mask_decoder.py and transformer.py.
For Light HQ-SAM modeling/mask_decoder_hq.py of the package segment-anything-hq.

Inside the graph there is no batch axis. Prompt tokens are (T, 256), the image is (4096, 256). A 2×2 convolution of
stride 2 is a linear layer from rows that hold a block of 2×2 pixels to rows that hold one pixel.

Cross-attention does not project the 4096 image tokens X. The weights of its projections are applied to the few prompt
tokens instead. The keys are K = X Wkᵀ, so a head's scores q Kᵀ equal (q Wk) Xᵀ. The values are V = X Wvᵀ, so a head's
output P V, with the softmax weights P, equals (P X) Wvᵀ. For a prompt of one point this halves the work. For more than
a dozen points this method costs more than it saves. The result is exact for any number of points.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto

from ..architecture import (
    CROSS_ATTENTION_DIM,
    DECODER_DEPTH,
    DECODER_HEADS,
    EMBED_DIM,
    EMBED_SIZE,
    LAYER_NORM_2D_EPS,
    LOW_RES,
    MASK_INPUT_CHANNELS,
    MASK_TOKENS,
    POINT_EMBEDDINGS,
    UPSCALE_DIMS,
)
from ..kernels.core.check import F32
from ..network.parameters import Tensors
from .graph import Graph, value_info
from .types import MaskRule

MASK_COUNTS: dict[MaskRule, int] = {"single": 1, "multi": MASK_TOKENS - 1, "all": MASK_TOKENS}
PIXELS = EMBED_SIZE**2
HEAD_DIM = CROSS_ATTENTION_DIM // DECODER_HEADS
PROMPT = "prompt_encoder"
DECODER = "mask_decoder"


def build_decoder(tensors: Tensors, mask_rule: MaskRule) -> ModelProto:
    """Build the decoder's ONNX graph. See `export_onnx` for its inputs, outputs and mask rules."""
    g = Graph(tensors)
    tokens = _tokens(g)
    queries, image = _transformer(g, tokens, _image_tokens(g), g.constant("image_pe", _image_pe(g)))
    scores, masks = _iou_prediction_head(g, queries), _hypernetworks(g, queries)
    hq, upscaled = g.architecture.hq, g.gelu(g.enlarge(image, f"{DECODER}.output_upscaling"))
    count = 1 if hq and mask_rule == "multi" else MASK_COUNTS[mask_rule]
    scores, selected = _select(g, scores, masks, mask_rule)
    g.reshape(scores, 1, count, output="iou_predictions")
    products = g.node("Gemm", selected, upscaled, transB=1)
    low_res = g.planes(products, count, output=None if hq else "low_res_masks")
    hq_inputs = []
    if hq:
        hq_mask = _hq_mask(g, g.slice(masks, MASK_TOKENS, MASK_TOKENS + 1, axis=0), upscaled)
        low_res = g.node("Add", low_res, hq_mask, output="low_res_masks")
        hq_inputs = [value_info("hq_features", 1, UPSCALE_DIMS[1], LOW_RES, LOW_RES)]
    _masks_in_full(g, low_res, count)
    return g.model(
        "mobilesam_mask_decoder",
        [
            value_info("image_embeddings", 1, EMBED_DIM, EMBED_SIZE, EMBED_SIZE),
            value_info("point_coords", 1, "num_points", 2),
            value_info("point_labels", 1, "num_points"),
            value_info("mask_input", 1, 1, LOW_RES, LOW_RES),
            value_info("has_mask_input", 1),
            value_info("orig_im_size", 2),
            *hq_inputs,
        ],
        [
            value_info("masks", 1, count, "height", "width"),
            value_info("iou_predictions", 1, count),
            value_info("low_res_masks", 1, count, LOW_RES, LOW_RES),
        ],
        f"{g.architecture.title}'s prompt encoder and mask decoder; mask rule: {mask_rule}",
    )


def _tokens(g: Graph) -> str:
    """The tokens: the IoU token, the four mask tokens, Light HQ-SAM's token, the points. 256 channels each."""
    gaussian = g.weight(f"{PROMPT}.pe_layer.positional_encoding_gaussian_matrix")
    xy = g.add(g.reshape("point_coords", -1, 2), g.constant("half", 0.5))
    xy = g.node("Sub", g.node("Mul", xy, g.constant("two_by_size", 2 / g.architecture.img_size)), g.constant("one", 1))
    angle = g.node("Mul", g.matmul(xy, gaussian), g.constant("two_pi", 2 * np.pi))
    encoding = g.node("Concat", g.node("Sin", angle), g.node("Cos", angle), axis=-1)

    # A padding point (label -1) has the embedding not_a_point and no positional encoding.
    label = g.reshape("point_labels", -1)
    names = ["not_a_point_embed", *(f"point_embeddings.{i}" for i in range(POINT_EMBEDDINGS))]
    table = g.constant("labels", np.concatenate([g.tensor(f"{PROMPT}.{name}.weight") for name in names]))
    row = g.node("Cast", g.add(label, "one"), to=TensorProto.INT64)
    is_point = g.node("GreaterOrEqual", g.reshape(label, -1, 1), g.constant("zero", 0))
    encoding = g.node("Mul", encoding, g.node("Cast", is_point, to=TensorProto.FLOAT))
    points = g.add(encoding, g.node("Gather", table, row, axis=0))

    names = ["iou_token", "mask_tokens"] + ["hf_token"] * g.architecture.hq
    output = [g.tensor(f"{DECODER}.{name}.weight") for name in names]
    return g.node("Concat", g.constant("output_tokens", np.concatenate(output)), points, axis=0)


def _image_pe(g: Graph) -> F32:
    """The positional encoding (4096, 256) of the image tokens, at the centres of their pixels."""
    gaussian = g.tensor(f"{PROMPT}.pe_layer.positional_encoding_gaussian_matrix")
    centre = (np.arange(EMBED_SIZE) + 0.5) / EMBED_SIZE * 2 - 1
    xy = np.stack([np.tile(centre, EMBED_SIZE), np.repeat(centre, EMBED_SIZE)], axis=1)
    angle = 2 * np.pi * (xy @ gaussian)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def _image_tokens(g: Graph) -> str:
    """The image tokens (4096, 256): the image embedding plus the mask prompt's embedding, or plus no_mask_embed."""
    image = g.transpose(g.reshape("image_embeddings", EMBED_DIM, PIXELS), 1, 0)
    has_mask = g.node("Greater", g.reshape("has_mask_input", 1), g.constant("half", 0.5))
    no_mask = g.weight(f"{PROMPT}.no_mask_embed.weight")
    shape = PIXELS, EMBED_DIM
    return g.node(
        "If",
        has_mask,
        then_branch=g.branch("mask", lambda: g.add(image, _mask_downscaling(g)), *shape),
        else_branch=g.branch("no_mask", lambda: g.add(image, no_mask), *shape),
    )


def _mask_downscaling(g: Graph) -> str:
    """The mask prompt's embedding (4096, 256): convolutions 2×2, 2×2 and 1×1, as linear layers on blocks of pixels."""
    name, half = f"{PROMPT}.mask_downscaling", MASK_INPUT_CHANNELS // 4
    blocks = g.reshape("mask_input", EMBED_SIZE, 2, 2, EMBED_SIZE, 2, 2)
    x = g.reshape(g.transpose(blocks, 0, 3, 1, 4, 2, 5), PIXELS * 4, 4)
    x = g.gelu(g.layer_norm(_block_conv(g, x, f"{name}.0"), f"{name}.1", LAYER_NORM_2D_EPS))
    x = _block_conv(g, g.reshape(x, PIXELS, 4 * half), f"{name}.3")
    x = g.gelu(g.layer_norm(x, f"{name}.4", LAYER_NORM_2D_EPS))
    return g.linear(x, f"{name}.6")


def _block_conv(g: Graph, x: str, name: str) -> str:
    """A 2×2 convolution of stride 2. Each row of x holds a block (2, 2, C)."""
    weight = g.tensor(f"{name}.weight").transpose(0, 2, 3, 1)
    return g.affine(x, name, weight.reshape(len(weight), -1), g.tensor(f"{name}.bias"))


def _transformer(g: Graph, tokens: str, image: str, image_pe: str) -> tuple[str, str]:
    """The two-way transformer. Returns the tokens (T, 256) and the image (4096, 256)."""
    queries = tokens
    for index in range(DECODER_DEPTH):
        name = f"{DECODER}.transformer.layers.{index}"
        if index == 0:
            queries = _self_attention(g, queries, queries, f"{name}.self_attn")
        else:
            with_pe = g.add(queries, tokens)
            queries = g.add(queries, _self_attention(g, with_pe, queries, f"{name}.self_attn"))
        queries = g.layer_norm(queries, f"{name}.norm1")
        image_with_pe = g.add(image, image_pe)
        attended = _token_to_image(g, g.add(queries, tokens), image_with_pe, image, f"{name}.cross_attn_token_to_image")
        queries = g.layer_norm(g.add(queries, attended), f"{name}.norm2")
        hidden = g.relu(g.linear(queries, f"{name}.mlp.lin1"))
        queries = g.layer_norm(g.add(queries, g.linear(hidden, f"{name}.mlp.lin2")), f"{name}.norm3")
        image = _image_to_token(
            g, image_with_pe, image, g.add(queries, tokens), queries, f"{name}.cross_attn_image_to_token"
        )
        image = g.layer_norm(image, f"{name}.norm4")
    name = f"{DECODER}.transformer"
    with_pe, image_with_pe = g.add(queries, tokens), g.add(image, image_pe)
    attended = _token_to_image(g, with_pe, image_with_pe, image, f"{name}.final_attn_token_to_image")
    return g.layer_norm(g.add(queries, attended), f"{name}.norm_final_attn"), image


def _self_attention(g: Graph, with_pe: str, x: str, name: str) -> str:
    """Self-attention of tokens x (T, 256), with queries and keys from x plus positional encoding (`with_pe`)."""
    head_dim = EMBED_DIM // DECODER_HEADS
    q = _heads(g, _scaled_query(g, with_pe, name, head_dim), head_dim)
    k = g.transpose(g.reshape(g.linear(with_pe, f"{name}.k_proj"), -1, DECODER_HEADS, head_dim), 1, 2, 0)
    v = _heads(g, g.linear(x, f"{name}.v_proj"), head_dim)
    attended = g.matmul(g.softmax(g.matmul(q, k)), v)
    return g.linear(g.reshape(g.transpose(attended, 1, 0, 2), -1, EMBED_DIM), f"{name}.out_proj")


def _token_to_image(g: Graph, tokens: str, image_with_pe: str, image: str, name: str) -> str:
    """Attention from the tokens to the image, (T, 256).

    The bias of the keys is left out: it adds one number to all scores of a row, which does not change the softmax.
    """
    by_head = DECODER_HEADS, HEAD_DIM, EMBED_DIM
    q = _heads(g, _scaled_query(g, tokens, name, HEAD_DIM), HEAD_DIM)
    key_weight = g.constant(f"{name}.k_heads", g.tensor(f"{name}.k_proj.weight").reshape(by_head))
    folded = g.reshape(g.matmul(q, key_weight), -1, EMBED_DIM)
    scores = g.node("Gemm", folded, image_with_pe, transB=1)  # (heads·T, 4096)
    attended = g.reshape(g.matmul(g.softmax(scores), image), DECODER_HEADS, -1, EMBED_DIM)
    weight = g.tensor(f"{name}.v_proj.weight").reshape(by_head).transpose(0, 2, 1)
    bias = g.tensor(f"{name}.v_proj.bias").reshape(DECODER_HEADS, 1, HEAD_DIM)
    attended = g.matmul(attended, g.constant(f"{name}.v_heads", weight))
    attended = g.transpose(g.add(attended, g.constant(f"{name}.v_heads.bias", bias)), 1, 0, 2)
    return g.linear(g.reshape(attended, -1, CROSS_ATTENTION_DIM), f"{name}.out_proj")


def _image_to_token(g: Graph, image_with_pe: str, image: str, tokens_with_pe: str, tokens: str, name: str) -> str:
    """The image (4096, 256) plus its attention to the tokens."""
    by_head = DECODER_HEADS, HEAD_DIM, EMBED_DIM
    scale = np.float32(HEAD_DIM**-0.5)
    weight = scale * g.tensor(f"{name}.q_proj.weight").reshape(by_head)
    bias = scale * g.tensor(f"{name}.q_proj.bias").reshape(DECODER_HEADS, HEAD_DIM, 1)
    k = _heads(g, g.linear(tokens_with_pe, f"{name}.k_proj"), HEAD_DIM)
    folded = g.reshape(g.matmul(k, g.constant(f"{name}.q_heads", weight)), -1, EMBED_DIM)
    offset = g.reshape(g.matmul(k, g.constant(f"{name}.q_heads.bias", bias)), -1)
    scores = g.node("Gemm", image_with_pe, folded, offset, transB=1)  # (4096, heads·T)
    weights = g.reshape(g.softmax(g.reshape(scores, PIXELS, DECODER_HEADS, -1)), PIXELS, -1)

    # A head's softmax weights sum to 1, so each head's values can carry an equal part of the output projection's bias.
    out_weight = g.tensor(f"{name}.out_proj.weight").T.reshape(by_head)
    out_bias = g.tensor(f"{name}.out_proj.bias") / DECODER_HEADS
    v = _heads(g, g.linear(tokens, f"{name}.v_proj"), HEAD_DIM)
    v = g.matmul(v, g.constant(f"{name}.out_heads", out_weight))
    v = g.add(v, g.constant(f"{name}.out_heads.bias", out_bias))
    return g.node("Gemm", weights, g.reshape(v, -1, EMBED_DIM), image)


def _scaled_query(g: Graph, x: str, name: str, head_dim: int) -> str:
    """The query projection, with the scale of the scores folded in."""
    scale = np.float32(head_dim**-0.5)
    name = f"{name}.q_proj"
    return g.affine(x, name, scale * g.tensor(f"{name}.weight"), scale * g.tensor(f"{name}.bias"))


def _heads(g: Graph, x: str, head_dim: int) -> str:
    """Split the heads: x (T, heads·d) to (heads, T, d)."""
    return g.transpose(g.reshape(x, -1, DECODER_HEADS, head_dim), 1, 0, 2)


def _iou_prediction_head(g: Graph, queries: str) -> str:
    """The scores (1, 4) of the four masks."""
    x, name = g.slice(queries, 0, 1, axis=0), f"{DECODER}.iou_prediction_head.layers"
    for layer in range(2):
        x = g.relu(g.linear(x, f"{name}.{layer}"))
    return g.linear(x, f"{name}.2")


def _hypernetworks(g: Graph, queries: str) -> str:
    """The output (4, 32) of the hypernetworks: one MLP per mask token, computed as a batch.

    For Light HQ-SAM (5, 32). The last row belongs to the HQ token.
    """
    mlps = [f"output_hypernetworks_mlps.{i}" for i in range(MASK_TOKENS)] + ["hf_mlp"] * g.architecture.hq
    x = g.reshape(g.slice(queries, 1, 1 + len(mlps), axis=0), len(mlps), 1, EMBED_DIM)
    for layer in range(3):
        names = [f"{DECODER}.{mlp}.layers.{layer}" for mlp in mlps]
        weight = np.stack([g.tensor(f"{name}.weight").T for name in names])
        bias = np.stack([g.tensor(f"{name}.bias")[None] for name in names])
        x = g.matmul(g.relu(x) if layer else x, g.constant(f"hypernetworks.{layer}.weight", weight))
        x = g.add(x, g.constant(f"hypernetworks.{layer}.bias", bias))
    return g.reshape(x, len(mlps), -1)


def _select(g: Graph, scores: str, masks: str, mask_rule: MaskRule) -> tuple[str, str]:
    """Select columns of `scores` (1, 4) and rows of `masks` by the mask rule. Rows after the fourth are ignored."""
    only_first = mask_rule == "single" and not g.architecture.multimask
    start, stop = (1 if mask_rule == "multi" else 0), (1 if only_first else MASK_TOKENS)
    scores, masks = g.slice(scores, start, stop, axis=1), g.slice(masks, start, stop, axis=0)
    if only_first or mask_rule == "all" or (mask_rule == "multi" and not g.architecture.hq):
        return scores, masks
    preferred = scores
    if mask_rule == "single":
        points = g.node("Cast", g.node("Size", "point_labels"), to=TensorProto.FLOAT)
        weight = g.node("Sub", points, g.constant("multimask_until", 2.5))
        favour = g.node("Mul", weight, g.constant("first_mask", [[1000] + [0] * (MASK_TOKENS - 1)]))
        preferred = g.add(scores, favour)
    best = g.reshape(g.node("ArgMax", preferred, axis=1), 1)
    return g.node("Gather", scores, best, axis=1), g.node("Gather", masks, best, axis=0)


def _hq_mask(g: Graph, hyper: str, upscaled: str) -> str:
    """The mask (1, 1, 256, 256) of Light HQ-SAM's token.

    The second convolution of `embedding_maskfeature` is linear, so `hyper` folds its 32 output channels into one. Each
    of the 3×3 taps is then a product with 64 numbers per pixel. A convolution with constant weights adds the taps' maps
    with an offset.

    Args:
        g: the graph.
        hyper: (1, 32), the output of `hf_mlp`.
        upscaled: (65536, 32), the upscaled image in the order of `Graph.enlarge`.
    """
    name, (half, out) = f"{DECODER}.embedding_maskfeature", UPSCALE_DIMS
    x = g.conv(g.planes(g.transpose(upscaled, 1, 0), out), f"{name}.0")
    x = g.gelu(g.layer_norm(g.transpose(x, 0, 2, 3, 1), f"{name}.1", LAYER_NORM_2D_EPS))
    weight = g.constant(f"{name}.3.weight", g.tensor(f"{name}.3.weight").reshape(out, half * 9))
    taps = g.reshape(g.matmul(hyper, weight), half, 9)
    maps = g.reshape(g.node("Gemm", taps, g.reshape(x, -1, half), transA=1, transB=1), 1, 9, LOW_RES, LOW_RES)
    shifts = g.constant("taps_to_pixels", np.eye(9).reshape(1, 9, 3, 3))
    mask = g.node("Conv", maps, shifts, kernel_shape=[3, 3], pads=[1] * 4)
    bias = g.matmul(hyper, g.constant(f"{name}.3.bias", g.tensor(f"{name}.3.bias")[:, None]))
    features = g.node("Gemm", hyper, g.reshape("hq_features", out, LOW_RES**2), bias)
    return g.add(mask, g.reshape(features, 1, 1, LOW_RES, LOW_RES))


def _masks_in_full(g: Graph, low_res: str, count: int) -> str:
    """The logits at the original image's size: resized to the padded canvas, cropped to the image, resized again."""
    bilinear, side = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}, g.architecture.img_size
    x = low_res if side == LOW_RES else g.node("Resize", low_res, "", "", g.ints(1, count, side, side), **bilinear)
    longest = g.node("ReduceMax", "orig_im_size", keepdims=1)
    scale = g.node("Div", g.constant("canvas", side), longest)
    size = g.node("Floor", g.add(g.node("Mul", scale, "orig_im_size"), g.constant("half", 0.5)))
    size = g.node("Max", size, g.constant("one", 1))
    x = g.node("Slice", x, g.ints(0, 0), g.node("Cast", size, to=TensorProto.INT64), g.ints(2, 3))
    original = g.node("Cast", "orig_im_size", to=TensorProto.INT64)
    shape = g.node("Concat", g.ints(1, count), original, axis=0)
    return g.node("Resize", x, "", "", shape, output="masks", **bilinear)
