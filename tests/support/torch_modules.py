"""Changes to modules of PyTorch, for the scripts in tests/data that write the outputs of references."""

import torch


def fuse(module: torch.nn.Module, conv_and_norm: type[torch.nn.Module]) -> None:
    """Replace each `Conv2d_BN` inside a module by the convolution into which its BatchNorm is folded.

    Args:
        module: The module.
        conv_and_norm: The reference's class `Conv2d_BN`.
    """
    for name, child in module.named_children():
        if isinstance(child, conv_and_norm):
            fused = torch.nn.Sequential()
            fused.add_module("c", child.fuse())
            setattr(module, name, fused)
        else:
            fuse(child, conv_and_norm)
