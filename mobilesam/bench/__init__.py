"""Timing: this package against other engines, the page, the loss of a precision. Imports `api`, `onnx` and what
lies below.
"""
