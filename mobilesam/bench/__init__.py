"""Benchmarks: this package against ONNX Runtime and OpenVINO, the page in a browser, the accuracy of bf16 and int8.

Imports only `api`, `onnx` and the layers below them. The server runs as a separate process.
"""
