"""Types of the export, in a module that does not need the package onnx."""

from typing import Literal, TypeAlias

MaskRule: TypeAlias = Literal["single", "multi", "all"]
