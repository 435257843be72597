"""Kernels of the mask decoder: layers of prompt tokens, attention between prompt tokens and the image, and upscaling.

This package imports `mobilesam.kernels.core`.
"""
