"""Benchmarks: this package in turns with other engines, the page in a browser, the loss of a narrow precision.
Imports `api`, `onnx` and the layers below them; never `serve`, which it starts as a process.
"""
