"""The network: image encoder, prompt encoder and mask decoder, with the reference's names, and functions that load the
network from a checkpoint. This package imports `checkpoints`, `util` and the kernels.
"""
