"""Types of the export, in a module that needs NumPy but not `onnx`."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tensors: TypeAlias = Mapping[str, NDArray[np.generic]]
MaskRule: TypeAlias = Literal["single", "multi", "all"]
