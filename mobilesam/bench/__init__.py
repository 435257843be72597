"""Benchmarks: this package against other engines, the page in a browser, the accuracy loss of a narrow precision.

Imports only `api`, `onnx` and the layers below them. The server runs as a separate process.
"""
