from typing import NamedTuple

from mobilesam.kernels.decoder.constants import Update
from mobilesam.kernels.decoder.recorder import Array, Maps, Recorder

class UpdatedImage(NamedTuple):
    n: int
    rank: int
    data: Array
    values: tuple[Array, ...]
    last: tuple[Array, Array] | None

def update_image(
    plan: Recorder,
    maps: Maps,
    pe: Maps,
    update: Update,
    keys: Array,
    values: Array,
    queries: Array,
    before: UpdatedImage | None = None,
    *,
    channels: int = 256,
    eps: float = 1e-5,
) -> tuple[UpdatedImage, Array]: ...
