from collections.abc import Sequence

from mobilesam.kernels.core.check import F32, Activation
from mobilesam.kernels.core.panels import Weight
from mobilesam.kernels.decoder.recorder import Array, Recorder

def linear(
    plan: Recorder,
    x: Array,
    weight: Weight,
    bias: F32 | None = None,
    *,
    activation: Activation = None,
    residual: Array | None = None,
    scale: float = 1.0,
    in_place: bool = False,
) -> Array: ...
def attention(plan: Recorder, q: Array, k: Array, v: Array, *, heads: int) -> Array: ...
def layer_norm(
    plan: Recorder, x: Array, weight: F32, bias: F32, *, eps: float = 1e-5, in_place: bool = False
) -> Array: ...
def add(plan: Recorder, x: Array, other: Array) -> Array: ...
def take(plan: Recorder, x: Array, numbers: Sequence[int]) -> Array: ...
