"""The network: image encoder, prompt encoder and mask decoder, with the reference's names, and loading them from a
checkpoint. Imports `checkpoints`, `util` and the kernels.
"""
