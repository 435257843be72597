import numpy as np
from numpy.typing import NDArray

from mobilesam.kernels.core.check import F32, Activation
from mobilesam.kernels.core.panels import Panels, Weight

def pack(
    weight: F32 | NDArray[np.generic],
    *,
    precision: str = "fp32",
    isa: str | None = None,
    lasting: bool = True,
    threads: int | None = None,
) -> Panels: ...
def linear(
    x: F32,
    weight: Weight,
    bias: F32 | None = None,
    *,
    activation: Activation = None,
    residual: F32 | None = None,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
def as_panels(
    weight: Weight,
    name: str,
    *shapes: tuple[int | str, ...],
    isa: str | None = None,
    threads: int | None = None,
) -> Panels: ...
