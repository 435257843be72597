"""Encoding only what a photo reaches: below or beside one that is not square, the canvas is zero.

Where the photo has not yet reached at a layer, the layer's map is what an all-zero canvas gives at the same place.
Before the 64×64 map every layer is local, a convolution or attention in windows, so these constants are few: along the
axis that is not filled, a convolution's map repeats one line and an attention's a window of them, except for the last
few lines at the canvas's end. So stages 0 and 1 compute the photo's lines and a halo, and the result is the whole
canvas's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ..architecture import IMG_SIZE, STAGES
from ..util.deferred import lazy
from .parameters import F32

PARTIAL_LAYERS = 2
LINES0, LINES1, LINES2 = (stage.resolution for stage in STAGES[:3])
WINDOW = STAGES[1].window


class Module(Protocol):
    """A map (H, W, C) to a map."""

    def __call__(self, x: F32, threads: int) -> F32: ...


class Layer(Protocol):
    """A stage: its blocks, and what merges its map to the next stage's."""

    @property
    def blocks(self) -> Sequence[Module]: ...
    @property
    def downsample(self) -> Module | None: ...


class Constants(NamedTuple):
    """The zero canvas's lines along the axis that the photo does not fill.

    stage0: one line for the map before the blocks and after each; stage1: likewise WINDOW lines, by their place in a
    window; merged: the last lines of the 64×64 map, with those of a whole period before the canvas's end is felt.
    """

    stage0: list[F32]
    stage1: list[F32]
    merged: F32


class PartialCanvas:
    """Patch embedding, stage 0 and stage 1 for canvases filled up to some line of ``axis``: 0 rows, 1 columns.

    The modules are asked for when they are used. The constants are computed on first use, from 23 and 30 of the 128
    lines in stage 1's two blocks, and kept.
    """

    def __init__(
        self, patch_embed: Callable[[], Module], layers: Sequence[Callable[[], Layer]], axis: int, threads: int
    ) -> None:
        self._patch_embed, self._layers = patch_embed, layers
        self.axis = axis
        self.threads = threads

    def _stage(self, i: int) -> tuple[Sequence[Module], Module]:
        """Stage i's blocks, and the merge that follows."""
        layer = self._layers[i]()
        assert layer.downsample is not None, "a merge follows both"
        return layer.blocks, layer.downsample

    def __call__(self, x: F32, filled: int) -> F32 | None:
        """The 64×64 map of a canvas x (1024, 1024, 3), zero from line ``filled`` on, or None: too full to save."""
        reached0 = halved(halved(filled))
        lines0 = reached0 + 2 * STAGES[0].depth + 2  # reached by stage 0, with a halo, and even for the merge
        reached1 = halved(reached0 + STAGES[0].depth)
        ends = [reached1]  # what each block of stage 1 reaches: whole windows, and a line by its local convolution
        for _ in range(STAGES[1].depth):
            ends.append(up_to_window(ends[-1]) + 1)
        lines1 = up_to_window(ends[-2]) + WINDOW
        if lines0 > LINES0 - 8 or lines1 > LINES1 - 2 * WINDOW:
            return None

        constants = self.constants
        y = self._patch_embed()(self._lines(x, 0, 4 * lines0), self.threads)
        blocks, merge = self._stage(0)
        for i, block in enumerate(blocks, 1):
            y = block(y, self.threads)
            self._fill(y, reached0 + i, constants.stage0[i])
        y = merge(self._lines(y, 0, 2 * reached1), self.threads)
        y = self._join(y, self._period(constants.stage1[0], reached1, lines1))
        blocks, merge = self._stage(1)
        for i, block in enumerate(blocks, 1):
            y = block(y, self.threads)
            self._fill(y, ends[i], self._period(constants.stage1[i], ends[i], lines1))
        reached2 = halved(ends[-1])
        y = merge(self._lines(y, 0, 2 * reached2), self.threads)
        return self._join(y, self._tail(reached2))

    @lazy
    def constants(self) -> Constants:
        """The zero canvas near its end. A map's first computed line lacks its neighbour, and is dropped."""
        shape = [IMG_SIZE, IMG_SIZE, 3]
        shape[self.axis] = 32
        y = self._lines(self._patch_embed()(np.zeros(shape, np.float32), self.threads), 4, 5)
        stage0, end = [y], self._lines(y, 0, 0)
        blocks, merge = self._stage(0)
        for block in blocks:  # end: the lines at the canvas's end that differ from the repeated one
            y = self._lines(block(self._join(*[stage0[-1]] * 4, end), self.threads), 2, None)
            stage0.append(self._lines(y, 0, 1))
            end = self._lines(y, 1, None)
        y = merge(self._join(*[stage0[-1]] * (6 - end.shape[self.axis]), end), self.threads)
        repeated, end = self._lines(y, 1, 2), self._lines(y, 2, None)

        stage1, before = [self._join(*[repeated] * WINDOW)], LINES1 % WINDOW
        end = self._join(*[repeated] * (before - end.shape[self.axis]), end)
        blocks, merge = self._stage(1)
        for block in blocks:  # end: from the first window that differs on
            y = block(self._join(*[stage1[-1]] * 3, end), self.threads)
            end = self._lines(y, 2 * WINDOW, None)
            stage1.append(self._join(self._lines(end, 0, 1), self._lines(y, WINDOW + 1, 2 * WINDOW)))
        # an even first line, a period of merged lines and one more before the end
        lines = self._join(*[stage1[-1]] * 3, end)
        first = LINES1 - lines.shape[self.axis]
        merged = merge(self._lines(lines, first % 2, None), self.threads)
        return Constants(stage0, stage1, self._lines(merged, 1, None))

    def _tail(self, first: int) -> F32:
        """The 64×64 map's constant lines from ``first`` on."""
        merged = self.constants.merged
        have = LINES2 - merged.shape[self.axis]
        if first >= have:
            return self._lines(merged, first - have, None)
        back = [(line - have) % WINDOW for line in range(first, have)]
        return self._join(np.take(merged, back, axis=self.axis), merged)

    def _period(self, lines: F32, first: int, end: int) -> F32:
        """Lines first to end of a map that repeats ``lines``, which start with a window."""
        return np.take(lines, np.arange(first, end) % WINDOW, axis=self.axis)

    def _lines(self, x: F32, first: int, end: int | None) -> F32:
        return x[first:end] if self.axis == 0 else x[:, first:end]

    def _fill(self, x: F32, first: int, lines: F32) -> None:
        self._lines(x, first, None)[...] = lines

    def _join(self, *parts: F32) -> F32:
        return np.concatenate(parts, axis=self.axis)


def halved(filled: int) -> int:
    """Lines that a 3×3 convolution of stride 2 and pad 1 reaches from ``filled`` lines."""
    return (filled + 2) // 2


def up_to_window(filled: int) -> int:
    return -(-filled // WINDOW) * WINDOW
