"""Kernels of the mask decoder: layers of tokens, attention between tokens and the image, upscaling, and masks.

Imports `core`.
"""
