"""Partial encoding: if a photo is not square, the encoder skips most of the zero part of the canvas.

Every layer before the 64×64 map is local: a convolution, or attention in windows. At positions that the photo does not
influence, a layer's feature map therefore equals the map of an all-zero canvas. The zero canvas's map is periodic along
the axis that the photo does not fill: one line repeats after a convolution, one window of lines after attention. Only
the last few lines, at the canvas's edge, differ from the repeated lines. These lines of the zero canvas are constants
and are computed once. Stages 0 and 1 then compute the photo's lines and a halo, and the constant lines complete the
map. The result equals the full computation, bit for bit.

A line is a row of a map if the axis is 0, a column if the axis is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ..architecture import STAGES
from ..util.deferred import lazy
from .parameters import F32

PARTIAL_LAYERS = 2
LINES0, LINES1, LINES2 = (stage.resolution for stage in STAGES[:3])
WINDOW = STAGES[1].window


class PatchEmbedding(Protocol):
    """The encoder's patch embedding, which computes stage 0's input (256, 256, C) from a canvas.

    Attributes:
        stride: stride of each of the two convolutions.
    """

    stride: int

    def __call__(self, x: F32, threads: int) -> F32: ...


class Module(Protocol):
    """A module of the encoder, which computes a feature map from a feature map (H, W, C)."""

    def __call__(self, x: F32, threads: int) -> F32: ...


class StageModules(Protocol):
    """A stage of the encoder: its blocks, and the PatchMerging to the next stage."""

    @property
    def blocks(self) -> Sequence[Module]: ...
    @property
    def downsample(self) -> Module | None: ...


class Constants(NamedTuple):
    """Constant lines of the zero canvas's feature maps.

    Attributes:
        stage0: the repeated line of stage 0's maps: before the first block, then after each block.
        stage1: WINDOW repeated lines of stage 1's maps: before the first block, then after each block. Line i of an
            array is line i of every window.
        merged: the last lines of the 64×64 map: at least one period of WINDOW lines, then the lines that the
            canvas's edge changes.
    """

    stage0: list[F32]
    stage1: list[F32]
    merged: F32


class PartialCanvas:
    """Patch embedding, stage 0 and stage 1 of canvases that a photo fills only up to some line of an axis.

    ``patch_embed`` and the elements of ``layers`` are functions that return a module. They are called when the module
    is used, because the encoder may still be loading.

    Attributes:
        axis: the axis that the photo does not fill: 0 rows, 1 columns.
        constants: the constant lines, computed on first use and then kept.
    """

    def __init__(
        self,
        patch_embed: Callable[[], PatchEmbedding],
        layers: Sequence[Callable[[], StageModules]],
        axis: int,
        threads: int,
    ) -> None:
        self._patch_embed, self._layers = patch_embed, layers
        self.axis = axis
        self.threads = threads

    def _stage(self, i: int) -> tuple[Sequence[Module], Module]:
        """Return the blocks of stage i, and the PatchMerging after the blocks."""
        layer = self._layers[i]()
        assert layer.downsample is not None, "stages 0 and 1 end in a PatchMerging"
        return layer.blocks, layer.downsample

    def __call__(self, x: F32, filled: int) -> F32 | None:
        """Return the input of stage 2, a 64×64 map. Returns None if the photo is so large that no work would be saved.

        Args:
            x: canvas (S, S, 3), zero from line ``filled`` on.
            filled: number of lines that the photo fills.
        """
        step = len(x) // LINES0  # canvas lines for each line of stage 0
        reached0 = filled if step == 1 else halved(halved(filled))
        lines0 = reached0 + 2 * STAGES[0].depth + 2  # lines to compute in stage 0: the photo's lines and a halo
        reached1 = halved(reached0 + STAGES[0].depth)
        # ends[i] is the number of lines that the photo influences after i blocks of stage 1.
        # The attention extends the photo's influence to whole windows, and the local convolution to one more line.
        ends = [reached1]
        for _ in range(STAGES[1].depth):
            ends.append(up_to_window(ends[-1]) + 1)
        lines1 = up_to_window(ends[-2]) + WINDOW
        if lines0 > LINES0 - 8 or lines1 > LINES1 - 2 * WINDOW:
            return None

        constants = self.constants
        y = self._patch_embed()(self._lines(x, 0, step * lines0), self.threads)
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
        """Compute the constants from a few lines of a zero canvas.

        A map's first line lacks a neighbour and is dropped.
        """
        patch_embed = self._patch_embed()
        step = patch_embed.stride**2
        shape = [step * LINES0, step * LINES0, 3]
        shape[self.axis] = 8 * step
        y = self._lines(patch_embed(np.zeros(shape, np.float32), self.threads), 4, 5)
        stage0, end = [y], self._lines(y, 0, 0)
        blocks, merge = self._stage(0)
        for block in blocks:  # end: the last lines of the map, which differ from the repeated line
            y = self._lines(block(self._join(*[stage0[-1]] * 4, end), self.threads), 2, None)
            stage0.append(self._lines(y, 0, 1))
            end = self._lines(y, 1, None)
        y = merge(self._join(*[stage0[-1]] * (6 - end.shape[self.axis]), end), self.threads)
        repeated, end = self._lines(y, 1, 2), self._lines(y, 2, None)

        stage1, before = [self._join(*[repeated] * WINDOW)], LINES1 % WINDOW
        end = self._join(*[repeated] * (before - end.shape[self.axis]), end)
        blocks, merge = self._stage(1)
        for block in blocks:  # end: the last lines of the map, from the first window with edge effects
            y = block(self._join(*[stage1[-1]] * 3, end), self.threads)
            end = self._lines(y, 2 * WINDOW, None)
            stage1.append(self._join(self._lines(end, 0, 1), self._lines(y, WINDOW + 1, 2 * WINDOW)))
        # The lines suffice for one period of merged lines and a dropped line. The first line is even: the stride is 2.
        lines = self._join(*[stage1[-1]] * 3, end)
        first = LINES1 - lines.shape[self.axis]
        merged = merge(self._lines(lines, first % 2, None), self.threads)
        return Constants(stage0, stage1, self._lines(merged, 1, None))

    def _tail(self, first: int) -> F32:
        """Return the lines (rows or columns) from ``first`` on of the 64×64 map that an empty canvas gives."""
        merged = self.constants.merged
        have = LINES2 - merged.shape[self.axis]
        if first >= have:
            return self._lines(merged, first - have, None)
        back = [(line - have) % WINDOW for line in range(first, have)]
        return self._join(np.take(merged, back, axis=self.axis), merged)

    def _period(self, lines: F32, first: int, end: int) -> F32:
        """Return lines first to end (exclusive) of a map whose windows all consist of the WINDOW lines ``lines``."""
        return np.take(lines, np.arange(first, end) % WINDOW, axis=self.axis)

    def _lines(self, x: F32, first: int, end: int | None) -> F32:
        return x[first:end] if self.axis == 0 else x[:, first:end]

    def _fill(self, x: F32, first: int, lines: F32) -> None:
        self._lines(x, first, None)[...] = lines

    def _join(self, *parts: F32) -> F32:
        return np.concatenate(parts, axis=self.axis)


def halved(filled: int) -> int:
    """Return how many output lines ``filled`` input lines influence in a 3×3 convolution with stride 2 and pad 1."""
    return (filled + 2) // 2


def up_to_window(filled: int) -> int:
    """Return the number of lines ``filled``, rounded up to whole windows."""
    return -(-filled // WINDOW) * WINDOW
