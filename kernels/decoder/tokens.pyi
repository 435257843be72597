from collections.abc import Mapping, Sequence

from mobilesam.kernels.core.check import F32
from mobilesam.kernels.decoder import steps
from mobilesam.kernels.decoder.queue import Queue

class TokenSteps:
    inputs: Mapping[str, int]
    phases: tuple[tuple[steps.Step, ...], ...]
    outputs: tuple[str, ...]
    def __init__(
        self, inputs: Mapping[str, int], phases: Sequence[Sequence[steps.Step]], outputs: Sequence[str]
    ) -> None: ...
    def __call__(self, *arrays: F32, queue: Queue | None = None, threads: int | None = None) -> list[F32]: ...
