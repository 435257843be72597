"""A graph builder on top of `onnx.helper`: each operation is a method that takes and returns names of values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from ..architecture import EMBED_SIZE, LAYER_NORM_2D_EPS, LAYER_NORM_EPS, LOW_RES, architecture_of
from ..kernels.core.check import F32
from ..network.parameters import Tensors
from ..version import __version__

OPSET = 20  # the first opset with the operator Gelu
IR_VERSION = 9  # the IR version that came with opset 20: older runtimes refuse newer IR versions


def value_info(name: str, *shape: int | str) -> ValueInfoProto:
    """A float32 input or output. A string in the shape names an axis of unknown length."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


class Graph:
    """An ONNX graph under construction: its nodes and constants.

    Each value has a name. A method that adds a node takes the names of its inputs and returns the name of its output.
    For a layer, `name` is the name in the reference: the layer's tensors are `name.weight` and `name.bias`.

    Args:
        tensors: fused tensors by reference name.

    Attributes:
        architecture: architecture that the tensors have.
    """

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        known = getattr(tensors, "architecture", None)
        self.architecture = known or architecture_of({name: tensors[name].shape for name in tensors})
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._count = 0

    def tensor(self, name: str) -> F32:
        """A tensor of the checkpoint, as float32. It is not added to the graph."""
        return np.asarray(self._tensors[name], np.float32)

    def constant(self, name: str, array: ArrayLike) -> str:
        """Add a constant to the graph. int32 stays int32, every other dtype becomes float32."""
        values = np.asarray(array)
        values = np.ascontiguousarray(values, np.int32 if values.dtype == np.int32 else np.float32)
        self._constants[name] = numpy_helper.from_array(values, name)
        return name

    def weight(self, name: str) -> str:
        """Add a tensor of the checkpoint as a constant."""
        return self.constant(name, self.tensor(name))

    def ints(self, *values: int) -> str:
        """Add an int64 vector as a constant: a shape, axes, or the bounds of a slice."""
        name = f"ints_{'_'.join(map(str, values))}"
        self._constants[name] = numpy_helper.from_array(np.array(values, np.int64), name)
        return name

    def node(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output."""
        self._count += 1
        name = output or f"{op}_{self._count}"
        self._nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def add(self, a: str, b: str) -> str:
        return self.node("Add", a, b)

    def matmul(self, a: str, b: str) -> str:
        return self.node("MatMul", a, b)

    def softmax(self, x: str) -> str:
        return self.node("Softmax", x, axis=-1)

    def gelu(self, x: str) -> str:
        return self.node("Gelu", x)

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def reshape(self, x: str, *shape: int, output: str | None = None) -> str:
        return self.node("Reshape", x, self.ints(*shape), output=output)

    def transpose(self, x: str, *axes: int, output: str | None = None) -> str:
        return self.node("Transpose", x, perm=axes, output=output)

    def slice(self, x: str, start: int, stop: int, axis: int) -> str:
        return self.node("Slice", x, self.ints(start), self.ints(stop), self.ints(axis))

    def affine(self, x: str, name: str, weight: F32, bias: F32 | None) -> str:
        """Add the Gemm x · weightᵀ + bias, for x (M, K) and the constants weight (N, K) and bias (N,)."""
        constants = [self.constant(f"{name}.weight", weight)]
        if bias is not None:
            constants.append(self.constant(f"{name}.bias", bias))
        return self.node("Gemm", x, *constants, output=name, transB=1)

    def linear(self, x: str, name: str) -> str:
        """Add a linear layer, or a 1×1 convolution as a linear layer, on x (M, K)."""
        weight = self.tensor(f"{name}.weight")
        bias = self.tensor(f"{name}.bias") if f"{name}.bias" in self._tensors else None
        return self.affine(x, name, weight.reshape(weight.shape[0], -1), bias)

    def conv(self, x: str, name: str, *, stride: int = 1) -> str:
        """Add a convolution of x (1, C, H, W) with zero padding that keeps the size at stride 1.

        The convolution is depthwise if the weight has one input channel, otherwise dense.
        """
        inputs = [self.weight(f"{name}.weight")]
        if f"{name}.bias" in self._tensors:
            inputs.append(self.weight(f"{name}.bias"))
        out_channels, in_channels, size, _ = self.tensor(f"{name}.weight").shape
        return self.node(
            "Conv",
            x,
            *inputs,
            output=name,
            kernel_shape=[size, size],
            pads=[size // 2] * 4,
            strides=[stride] * 2,
            group=out_channels if in_channels == 1 else 1,
        )

    def layer_norm(self, x: str, name: str, eps: float = LAYER_NORM_EPS) -> str:
        """Add a LayerNorm over the last axis. On channels-last values this is also the reference's LayerNorm2d."""
        constants = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", x, *constants, output=name, axis=-1, epsilon=eps)

    def conv_transpose(self, x: str, name: str) -> str:
        """Add a transposed 2×2 convolution of stride 2 on x (M, C). Each row of the result holds a block (2, 2, OC)."""
        weight = self.tensor(f"{name}.weight").transpose(2, 3, 1, 0)
        return self.affine(x, name, weight.reshape(-1, weight.shape[3]), np.tile(self.tensor(f"{name}.bias"), 4))

    def enlarge(self, x: str, name: str) -> str:
        """Add two transposed 2×2 convolutions, with LayerNorm2d and GELU between them, on the image tokens x (4096, C).

        Returns:
            Pixels (65536, 32). They are not in the order of the 256×256 image. Their order is (64, 64, 2, 2, 2, 2):
            64×64 blocks of 2×2 blocks of 2×2 pixels.
        """
        half, out = (len(self.tensor(f"{name}.{i}.bias")) for i in (0, 3))
        x = self.reshape(self.conv_transpose(x, f"{name}.0"), -1, half)
        x = self.gelu(self.layer_norm(x, f"{name}.1", LAYER_NORM_2D_EPS))
        return self.reshape(self.conv_transpose(x, f"{name}.3"), -1, out)

    def planes(self, x: str, channels: int, output: str | None = None) -> str:
        """Reorder the pixels of x (C, 65536), in the order of `enlarge`, to an image (1, C, 256, 256)."""
        x = self.transpose(self.reshape(x, channels, EMBED_SIZE, EMBED_SIZE, 2, 2, 2, 2), 0, 1, 3, 5, 2, 4, 6)
        return self.reshape(x, 1, channels, LOW_RES, LOW_RES, output=output)

    def branch(self, name: str, build: Callable[[], str], *shape: int) -> GraphProto:
        """A branch of an If node.

        Args:
            name: name of the branch.
            build: adds the branch's nodes, and returns the name of its result.
            shape: shape of the result.
        """
        outer, self._nodes = self._nodes, []
        result = build()
        nodes, self._nodes = self._nodes, outer
        return helper.make_graph(nodes, name, [], [value_info(result, *shape)])

    def model(
        self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto], doc: str
    ) -> ModelProto:
        """The finished model with these inputs, outputs and documentation."""
        graph = helper.make_graph(self._nodes, name, inputs, outputs, list(self._constants.values()))
        return helper.make_model(
            graph,
            doc_string=doc,
            producer_name="mobilesam",
            producer_version=__version__,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
