"""Writes tinyvit_modules.npz: random inputs, weights and outputs of MobileSAM's own TinyViT modules, in float64.

Needs `torch`, `timm` and `mobile_sam` (github.com/ChaoningZhang/MobileSAM, Apache-2.0). The modules are small. Their
BatchNorms have random statistics and are fused into the convolutions. Arrays have the layout of `mobilesam.kernels`.
"""

from pathlib import Path

import numpy as np
import torch
from mobile_sam.modeling.tiny_vit_sam import Conv2d_BN, MBConv, PatchEmbed, PatchMerging, TinyViTBlock

ARRAYS: dict[str, np.ndarray] = {}


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Set every parameter and BatchNorm statistic to random values, and return the module in eval mode."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if tensor.ndim == 1 else torch.randn_like(tensor) / 2)
    return module.eval()


def save(name: str, x: torch.Tensor, y: torch.Tensor, convs: dict[str, Conv2d_BN], **arrays: torch.Tensor):
    """Add a module's arrays to ARRAYS in the layout of `mobilesam.kernels`.

    Args:
        name: Name of the module.
        x: Input (1, C, H, W), saved as (H, W, C).
        y: Output (1, C, H, W), saved as (H, W, C).
        convs: Convolutions by name. The saved weight is (OC, 3, 3, C), or (3, 3, C) if depthwise, or (OC, C) if 1×1.
        **arrays: Arrays that are saved unchanged.
    """
    for key, conv in convs.items():
        fused = conv.fuse()
        weight = fused.weight.permute(0, 2, 3, 1)
        arrays[f"{key}.weight"] = weight[..., 0].permute(1, 2, 0) if fused.groups > 1 else weight.squeeze((1, 2))
        arrays[f"{key}.bias"] = fused.bias
    arrays |= {"x": x[0].permute(1, 2, 0), "y": y[0].permute(1, 2, 0)}
    ARRAYS.update({f"{name}/{key}": np.ascontiguousarray(value.detach()) for key, value in arrays.items()})


torch.manual_seed(0)
torch.set_default_dtype(torch.float64)

block = randomise(TinyViTBlock(dim=8, input_resolution=(5, 4), num_heads=2, window_size=3))
x = torch.randn(1, 8, 5, 4)
y = block(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
linears = {
    f"{key}.{part}": getattr(layer, part)
    for key, layer in {
        "norm": block.attn.norm, "qkv": block.attn.qkv, "proj": block.attn.proj,
        "mlp_norm": block.mlp.norm, "fc1": block.mlp.fc1, "fc2": block.mlp.fc2,
    }.items()
    for part in ("weight", "bias")
}  # fmt: skip
save("block", x, y, {"local_conv": block.local_conv}, attention_bias=block.attn.ab, **linears)

mbconv = randomise(MBConv(4, 4, expand_ratio=4, activation=torch.nn.GELU, drop_path=0.0))
x = torch.randn(1, 4, 5, 4)
save("mbconv", x, mbconv(x.clone()), {key: getattr(mbconv, key) for key in ("conv1", "conv2", "conv3")})

merging = randomise(PatchMerging((5, 4), dim=4, out_dim=6, activation=torch.nn.GELU))
y = merging(x).transpose(1, 2).reshape(1, 6, 3, 2)
save("patch_merging", x, y, {key: getattr(merging, key) for key in ("conv1", "conv2", "conv3")})

embed = randomise(PatchEmbed(3, 6, resolution=16, activation=torch.nn.GELU))
x = torch.randn(1, 3, 10, 7)
save("patch_embed", x, embed(x), {"conv1": embed.seq[0], "conv2": embed.seq[2]})

np.savez_compressed(Path(__file__).with_name("tinyvit_modules.npz"), **ARRAYS)
