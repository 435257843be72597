"""The network as ONNX graphs, which needs the package `onnx`. Imports `checkpoints` and `util`."""
