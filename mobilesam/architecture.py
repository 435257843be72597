"""The architectures that share MobileSAM's TinyViT encoder: the sizes of every stage, and each tensor's name and shape.

Source: MobileSAM's `build_sam_vit_t` (build_sam.py), modeling/tiny_vit_sam.py, prompt_encoder.py,
mask_decoder.py and transformer.py; TinyViT: Wu et al., arXiv:2207.10666; SAM: Kirillov et al.,
arXiv:2304.02643. LiteMedSAM: the MedSAM repository's branch LiteMedSAM. Light HQ-SAM: Ke et al., arXiv:2306.01567,
and modeling/mask_decoder_hq.py of the package segment-anything-hq.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMG_SIZE = 1024  # side of MobileSAM's canvas in pixels
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class Stage(NamedTuple):
    """One stage of TinyViT.

    Attributes:
        dim: Number of channels.
        depth: Number of blocks.
        heads: Number of attention heads. 0 for stage 0, which is convolutional (MBConv).
        window: Side of an attention window in tokens. 0 for stage 0.
        resolution: Side of the square feature map.
    """

    dim: int
    depth: int
    heads: int
    window: int
    resolution: int


STAGES = (
    Stage(dim=64, depth=2, heads=0, window=0, resolution=256),
    Stage(dim=128, depth=2, heads=4, window=7, resolution=128),
    Stage(dim=160, depth=6, heads=5, window=14, resolution=64),
    Stage(dim=320, depth=2, heads=10, window=7, resolution=64),
)
MLP_RATIO = 4
MBCONV_EXPAND = 4
EMBED_DIM = 256
EMBED_SIZE = STAGES[-1].resolution
LOW_RES = 4 * EMBED_SIZE  # side of the decoder's mask logits in pixels

POINT_EMBEDDINGS = 4  # of a background point, a foreground point, and a box's top left and bottom right corner
MASK_INPUT_CHANNELS = 16
DECODER_DEPTH = 2
DECODER_HEADS = 8
DECODER_MLP = 2048
CROSS_ATTENTION_DIM = EMBED_DIM // 2
MASK_TOKENS = 4
UPSCALE_DIMS = (EMBED_DIM // 4, EMBED_DIM // 8)
HQ_STAGE = 1  # the stage whose output, after its PatchMerging, gives Light HQ-SAM's image features

LAYER_NORM_EPS = 1e-5
LAYER_NORM_2D_EPS = 1e-6
BATCH_NORM_EPS = 1e-5


class Architecture(NamedTuple):
    """A network that shares MobileSAM's stages, prompt encoder and mask decoder.

    Attributes:
        name: Name of the architecture.
        title: Name of the model that introduced the architecture.
        img_size: Side of the square canvas in pixels.
        preprocessing: How an image becomes the canvas.
            - "mean_std": Pillow's bilinear resizing, minus PIXEL_MEAN, divided by PIXEL_STD.
            - "min_max": resizing by areas, as OpenCV's INTER_AREA, then scaled so that the image's smallest value
              becomes 0 and the largest value becomes 1. Coordinates of boxes are truncated to whole canvas pixels.
        multimask: Whether the network was trained to answer a prompt with three masks. If not, one mask (token 0).
        hq: Whether the mask decoder has Light HQ-SAM's token, which sharpens the mask.
    """

    name: str
    title: str
    img_size: int = IMG_SIZE
    preprocessing: Literal["mean_std", "min_max"] = "mean_std"
    multimask: bool = True
    hq: bool = False

    @property
    def patch_stride(self) -> int:
        """The stride of each of the patch embedding's two convolutions: 2 for 3×3 kernels, 1 for 1×1 kernels."""
        return 2 if self.img_size == 4 * STAGES[0].resolution else 1


MOBILE_SAM = Architecture("mobile_sam", "MobileSAM")
LITE_MEDSAM = Architecture("lite_medsam", "LiteMedSAM", img_size=256, preprocessing="min_max", multimask=False)
HQ_SAM = Architecture("hq_sam", "Light HQ-SAM", hq=True)
ARCHITECTURES = {each.name: each for each in (MOBILE_SAM, LITE_MEDSAM, HQ_SAM)}


def architecture_of(shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    """The architecture whose tensors have these names and shapes. MobileSAM if no tensor decides."""
    if "mask_decoder.hf_token.weight" in shapes:
        return HQ_SAM
    kernel = shapes.get("image_encoder.patch_embed.seq.0.c.weight", ())[2:]
    return LITE_MEDSAM if kernel == (1, 1) else MOBILE_SAM


@lru_cache(4)
def attention_bias_index(window: int) -> NDArray[np.intp]:
    """Index into a head's `attention_biases` for each pair of a query and a key in a window.

    The reference (tiny_vit_sam.py, `Attention`) numbers the offsets (|dy|, |dx|) in order of first
    appearance. This order is row-major: |dy|·window + |dx|.

    Args:
        window: Side of the window in tokens.

    Returns:
        (N, N) intp, read-only, with N = window². Rows are queries and columns are keys.
    """
    import numpy as np  # imported here, because `images/photo.py` uses this module without NumPy

    y, x = np.divmod(np.arange(window * window), window)
    index: NDArray[np.intp] = np.abs(y[:, None] - y) * window + np.abs(x[:, None] - x)
    index.flags.writeable = False
    return index


class TensorSpec(NamedTuple):
    """Shape and kind of one tensor of a fused checkpoint.

    Attributes:
        shape: Shape of the tensor.
        is_matrix: Whether the tensor is the weight of a convolution or linear layer. `mobilesam convert` writes these
            weights as fp16 by default.
    """

    shape: tuple[int, ...]
    is_matrix: bool = False


def tensor_specs(architecture: Architecture = MOBILE_SAM) -> dict[str, TensorSpec]:
    """The spec of every tensor of a fused checkpoint by the reference's names, in the order of the network's layers.

    Layouts are PyTorch's: convolutions (out, in/groups, kh, kw), transposed convolutions (in, out, kh, kw),
    linear layers (out, in).
    """
    hq = _hq_tensors() if architecture.hq else iter(())
    return dict([*_image_encoder(architecture), *_prompt_encoder(), *_mask_decoder(), *hq])


def expected_tensors(architecture: Architecture = MOBILE_SAM) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a fused checkpoint, by name.

    In a fused checkpoint BatchNorm is folded into the convolutions, and there is no classification head.
    """
    return {name: spec.shape for name, spec in tensor_specs(architecture).items()}


_Specs = Iterator[tuple[str, TensorSpec]]


def _layer(name: str, *weight: int, outputs: int | None = None) -> _Specs:
    """Weight and bias of a convolution or linear layer. The bias has `outputs` values, or `weight[0]` by default."""
    yield f"{name}.weight", TensorSpec(weight, is_matrix=True)
    yield f"{name}.bias", TensorSpec((weight[0] if outputs is None else outputs,))


def _norm(name: str, dim: int) -> _Specs:
    yield f"{name}.weight", TensorSpec((dim,))
    yield f"{name}.bias", TensorSpec((dim,))


def _inverted_bottleneck(name: str, dim: int, hidden: int, out: int) -> _Specs:
    """Layers of an MBConv or PatchMerging block: 1×1 to `hidden` channels, depthwise 3×3, 1×1 to `out` channels."""
    yield from _layer(f"{name}.conv1.c", hidden, dim, 1, 1)
    yield from _layer(f"{name}.conv2.c", hidden, 1, 3, 3)
    yield from _layer(f"{name}.conv3.c", out, hidden, 1, 1)


def _vit_block(name: str, stage: Stage) -> _Specs:
    dim, hidden = stage.dim, stage.dim * MLP_RATIO
    yield f"{name}.attn.attention_biases", TensorSpec((stage.heads, stage.window**2))
    yield from _norm(f"{name}.attn.norm", dim)
    yield from _layer(f"{name}.attn.qkv", 3 * dim, dim)
    yield from _layer(f"{name}.attn.proj", dim, dim)
    yield from _layer(f"{name}.local_conv.c", dim, 1, 3, 3)
    yield from _norm(f"{name}.mlp.norm", dim)
    yield from _layer(f"{name}.mlp.fc1", hidden, dim)
    yield from _layer(f"{name}.mlp.fc2", dim, hidden)


def _image_encoder(architecture: Architecture) -> _Specs:
    root, first, kernel = "image_encoder", STAGES[0].dim, 2 * architecture.patch_stride - 1
    yield from _layer(f"{root}.patch_embed.seq.0.c", first // 2, 3, kernel, kernel)
    yield from _layer(f"{root}.patch_embed.seq.2.c", first, first // 2, kernel, kernel)
    for index, stage in enumerate(STAGES):
        for block in range(stage.depth):
            name = f"{root}.layers.{index}.blocks.{block}"
            if stage.heads:
                yield from _vit_block(name, stage)
            else:
                yield from _inverted_bottleneck(name, stage.dim, stage.dim * MBCONV_EXPAND, stage.dim)
        if stage is not STAGES[-1]:
            out = STAGES[index + 1].dim
            yield from _inverted_bottleneck(f"{root}.layers.{index}.downsample", stage.dim, out, out)
    yield f"{root}.neck.0.weight", TensorSpec((EMBED_DIM, STAGES[-1].dim, 1, 1), is_matrix=True)
    yield from _norm(f"{root}.neck.1", EMBED_DIM)
    yield f"{root}.neck.2.weight", TensorSpec((EMBED_DIM, EMBED_DIM, 3, 3), is_matrix=True)
    yield from _norm(f"{root}.neck.3", EMBED_DIM)


def _prompt_encoder() -> _Specs:
    root, channels = "prompt_encoder", MASK_INPUT_CHANNELS
    yield f"{root}.pe_layer.positional_encoding_gaussian_matrix", TensorSpec((2, EMBED_DIM // 2))
    for index in range(POINT_EMBEDDINGS):
        yield f"{root}.point_embeddings.{index}.weight", TensorSpec((1, EMBED_DIM))
    yield f"{root}.not_a_point_embed.weight", TensorSpec((1, EMBED_DIM))
    yield from _layer(f"{root}.mask_downscaling.0", channels // 4, 1, 2, 2)
    yield from _norm(f"{root}.mask_downscaling.1", channels // 4)
    yield from _layer(f"{root}.mask_downscaling.3", channels, channels // 4, 2, 2)
    yield from _norm(f"{root}.mask_downscaling.4", channels)
    yield from _layer(f"{root}.mask_downscaling.6", EMBED_DIM, channels, 1, 1)
    yield f"{root}.no_mask_embed.weight", TensorSpec((1, EMBED_DIM))


def _attention(name: str, inner: int) -> _Specs:
    for projection in ("q_proj", "k_proj", "v_proj"):
        yield from _layer(f"{name}.{projection}", inner, EMBED_DIM)
    yield from _layer(f"{name}.out_proj", EMBED_DIM, inner)


def _mlp_head(name: str, out: int) -> _Specs:
    for index, width in enumerate((EMBED_DIM, EMBED_DIM, out)):
        yield from _layer(f"{name}.layers.{index}", width, EMBED_DIM)


def _mask_decoder() -> _Specs:
    root = "mask_decoder"
    for index in range(DECODER_DEPTH):
        name = f"{root}.transformer.layers.{index}"
        yield from _attention(f"{name}.self_attn", EMBED_DIM)
        yield from _attention(f"{name}.cross_attn_token_to_image", CROSS_ATTENTION_DIM)
        yield from _layer(f"{name}.mlp.lin1", DECODER_MLP, EMBED_DIM)
        yield from _layer(f"{name}.mlp.lin2", EMBED_DIM, DECODER_MLP)
        yield from _attention(f"{name}.cross_attn_image_to_token", CROSS_ATTENTION_DIM)
        for norm in range(1, 5):
            yield from _norm(f"{name}.norm{norm}", EMBED_DIM)
    yield from _attention(f"{root}.transformer.final_attn_token_to_image", CROSS_ATTENTION_DIM)
    yield from _norm(f"{root}.transformer.norm_final_attn", EMBED_DIM)
    yield f"{root}.iou_token.weight", TensorSpec((1, EMBED_DIM))
    yield f"{root}.mask_tokens.weight", TensorSpec((MASK_TOKENS, EMBED_DIM))
    half, out = UPSCALE_DIMS
    yield from _layer(f"{root}.output_upscaling.0", EMBED_DIM, half, 2, 2, outputs=half)
    yield from _norm(f"{root}.output_upscaling.1", half)
    yield from _layer(f"{root}.output_upscaling.3", half, out, 2, 2, outputs=out)
    for index in range(MASK_TOKENS):
        yield from _mlp_head(f"{root}.output_hypernetworks_mlps.{index}", out)
    yield from _mlp_head(f"{root}.iou_prediction_head", MASK_TOKENS)


def _hq_tensors() -> _Specs:
    root, (half, out) = "mask_decoder", UPSCALE_DIMS
    yield f"{root}.hf_token.weight", TensorSpec((1, EMBED_DIM))
    yield from _mlp_head(f"{root}.hf_mlp", out)
    for name, inputs, hidden in (
        ("compress_vit_feat", STAGES[HQ_STAGE + 1].dim, EMBED_DIM),
        ("embedding_encoder", EMBED_DIM, half),
    ):
        yield from _layer(f"{root}.{name}.0", inputs, hidden, 2, 2, outputs=hidden)
        yield from _norm(f"{root}.{name}.1", hidden)
        yield from _layer(f"{root}.{name}.3", hidden, out, 2, 2, outputs=out)
    yield from _layer(f"{root}.embedding_maskfeature.0", half, out, 3, 3)
    yield from _norm(f"{root}.embedding_maskfeature.1", half)
    yield from _layer(f"{root}.embedding_maskfeature.3", out, half, 3, 3)
