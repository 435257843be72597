"""The network as ONNX graphs. Needs the package `onnx`. Imports only `checkpoints`, `util` and the layers below."""
