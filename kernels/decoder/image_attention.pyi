from mobilesam.kernels.core.check import F32
from mobilesam.kernels.decoder.recorder import Array, Maps, Recorder

HEADS: int
PANEL: int

def attend_image(plan: Recorder, queries: Array, keys: Maps, values: Maps, bias: F32) -> Array: ...
