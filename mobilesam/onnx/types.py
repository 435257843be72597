"""Types of the export, which need no package besides NumPy."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tensors: TypeAlias = Mapping[str, NDArray[np.generic]]
MaskRule: TypeAlias = Literal["single", "multi", "all"]
