"""The network: image encoder, prompt encoder, mask decoder, with the reference's names, and their loading. Imports
the kernels, `checkpoints` and `util`.
"""
