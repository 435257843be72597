"""The network as ONNX graphs. Needs the package `onnx`. Imports `checkpoints` and `util`."""
