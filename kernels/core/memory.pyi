from typing import Any

import numpy as np
from numpy.typing import NDArray

def empty(shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> NDArray[Any]: ...
def lasting(shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> NDArray[Any]: ...
