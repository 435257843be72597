"""The time of each pass of the image encoder: `scripts/benchmark.py --layers`.

A pass is a part of the encoder, named after the reference's modules that it computes. Every round runs the passes one
after another, each on the output of the previous pass, and then the whole encoder. All passes run on the full canvas,
even if the photo fills only a part of the canvas.

    FLOPs: nominal count, 2 per multiply-add of the convolutions, the linear layers and attention's two products. The
        padding tokens of a window count as keys, but not as queries: every token has window² keys. Norms, GELU,
        softmax, biases and shortcuts are not counted. A pass that saves multiplications, for example by Winograd's
        convolution, counts in full. Such a pass may exceed the peak. A pass with products on AMX may exceed it too.
    of peak: FLOP/s of the pass, as a share of `kernels.fma_peak` on the same number of threads. The peak is measured
        before every round, and the highest measurement counts.
    bytes: the least possible traffic: input map, output map and weights of the pass, each once, in float32. The bytes
        of the whole encoder are the sum over its passes.

FLOP/s and bytes per second are computed from the median time.
"""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from .. import kernels
from ..api.loading import load
from ..api.model import MobileSAM
from ..architecture import (
    EMBED_DIM,
    EMBED_SIZE,
    MOBILE_SAM,
    STAGES,
    Architecture,
    Stage,
    TensorSpec,
    tensor_specs,
)
from ..images.canvas import to_encoder_input
from ..images.photo import open_rgb
from ..kernels.core.check import F32
from ..network.image_encoder import ImageEncoder, TinyViTBlock
from ..util.console import show, without_home
from ..util.system import cpu_name
from ..version import __version__
from .harness import PAUSE, Options, Printable

SUM, WHOLE = "sum of the passes", "image_encoder"


@dataclass(frozen=True)
class Cost:
    """The nominal cost of a pass (one kernel call of the encoder), in arithmetic and memory traffic.

    Attributes:
        flops: floating-point operations.
        traffic: least number of bytes read and written.
    """

    flops: int
    traffic: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.traffic + other.traffic)


@dataclass(frozen=True)
class Map:
    """The size of a square feature map: side in pixels, and channels."""

    side: int
    channels: int


def pass_costs(architecture: Architecture = MOBILE_SAM) -> dict[str, Cost]:
    """The cost of every pass of the encoder by name, in the order of execution."""
    cost = partial(_cost, tensor_specs(architecture))
    root, first, side = WHOLE, Map(STAGES[0].resolution, STAGES[0].dim), architecture.img_size
    stem = cost(f"{root}.patch_embed", Map(side, 3), first, side=side // architecture.patch_stride)
    costs = {f"{root}.patch_embed": stem}
    for i, stage in enumerate(STAGES):
        layer, x = f"{root}.layers.{i}", Map(stage.resolution, stage.dim)
        for j in range(stage.depth):
            block = f"{layer}.blocks.{j}"
            if stage.heads:
                costs[f"{block}.attn"] = cost(f"{block}.attn", x, x) + Cost(_product_flops(stage), 0)
                costs[f"{block}.local_conv+mlp"] = cost(f"{block}.local_conv+mlp", x, x)
            else:
                costs[block] = cost(block, x, x)
        if stage is not STAGES[-1]:
            y = Map(STAGES[i + 1].resolution, STAGES[i + 1].dim)
            costs[f"{layer}.downsample"] = cost(f"{layer}.downsample", x, y, side=x.side)
    x, y = Map(EMBED_SIZE, STAGES[-1].dim), Map(EMBED_SIZE, EMBED_DIM)
    costs[f"{root}.neck.0+1"] = cost(f"{root}.neck.0+1", x, y)
    costs[f"{root}.neck.2+3"] = cost(f"{root}.neck.2+3", y, y)
    return costs


def _cost(tensors: Mapping[str, TensorSpec], name: str, x: Map, y: Map, *, side: int | None = None) -> Cost:
    """Compute the nominal floating-point operations and memory traffic of a pass.

    Args:
        tensors: specs of the checkpoint's tensors by name.
        name: name of the pass.
        x: input map.
        y: output map.
        side: side of the output of the pass's first layer, if it differs from y's side.
    """
    parent, _, modules = name.rpartition(".")
    under = tuple(f"{parent}.{module}." for module in modules.split("+"))
    specs = [spec for tensor, spec in tensors.items() if tensor.startswith(under)]
    matrices = [math.prod(spec.shape) for spec in specs if spec.is_matrix]
    macs = (side or y.side) ** 2 * matrices[0] + y.side**2 * sum(matrices[1:])
    floats = sum(math.prod(spec.shape) for spec in specs) + sum(m.side**2 * m.channels for m in (x, y))
    return Cost(2 * macs, 4 * floats)


def _product_flops(stage: Stage) -> int:
    """FLOPs of q·kᵀ and of the weighted sum of v. Every token of the map attends to the window² keys of its window."""
    return 2 * 2 * stage.resolution**2 * stage.window**2 * stage.dim


def passes(encoder: ImageEncoder) -> dict[str, Callable[[F32, int], F32]]:
    """The encoder's passes by name, in order. A pass takes the previous pass's output, and a number of threads."""
    calls: dict[str, Callable[[F32, int], F32]] = {f"{WHOLE}.patch_embed": encoder.patch_embed}
    for i, layer in enumerate(encoder.layers):
        for j, block in enumerate(layer.blocks):
            name = f"{WHOLE}.layers.{i}.blocks.{j}"
            if isinstance(block, TinyViTBlock):
                calls |= {f"{name}.attn": block.attend, f"{name}.local_conv+mlp": block.mlp}
            else:
                calls[name] = block
        if layer.downsample is not None:
            calls[f"{WHOLE}.layers.{i}.downsample"] = layer.downsample
    return calls | {f"{WHOLE}.neck.0+1": encoder.neck.conv1x1, f"{WHOLE}.neck.2+3": encoder.neck.conv3x3}


@dataclass
class LayersTable:
    """The times and rates of the encoder's passes.

    Attributes:
        title: title of the table.
        samples: times of each pass, in milliseconds.
        costs: cost of each pass.
        peak: peak of the CPU in FLOP/s.
    """

    title: str
    samples: Mapping[str, list[float]]
    costs: Mapping[str, Cost]
    peak: float

    def lines(self) -> Iterator[str]:
        yield f"{self.title} [the FMA peak is {self.peak / 1e9:.1f} GFLOP/s]"
        width = max(map(len, self.samples))
        yield (
            f"  {'pass':<{width}}  {'min ms':>8}  {'median':>8}  {'GFLOP':>7}  {'GFLOP/s':>7}  {'of peak':>7}"
            f"  {'MB':>7}  {'GB/s':>6}"
        )
        for name, row in self._rows().items():
            yield (
                f"  {name:<{width}}  {row['min']:>8.2f}  {row['median']:>8.2f}  {row['flops'] / 1e9:>7.3f}"
                f"  {row['flops_per_second'] / 1e9:>7.1f}  {row['of_peak']:>7.1%}"
                f"  {row['bytes'] / 1e6:>7.1f}  {row['bytes_per_second'] / 1e9:>6.1f}"
            )

    def as_json(self) -> dict[str, object]:
        rows = [{"pass": name, **row, "samples": self.samples[name]} for name, row in self._rows().items()]
        return {"title": self.title, "unit": "ms", "peak": self.peak, "rows": rows}

    def _rows(self) -> dict[str, dict[str, float]]:
        return {name: self._row(times, self.costs[name]) for name, times in self.samples.items()}

    def _row(self, times: list[float], cost: Cost) -> dict[str, float]:
        median = statistics.median(times)
        speed = cost.flops / (median / 1e3)
        return {
            "min": min(times),
            "median": median,
            "flops": cost.flops,
            "flops_per_second": speed,
            "of_peak": speed / self.peak,
            "bytes": cost.traffic,
            "bytes_per_second": cost.traffic / (median / 1e3),
        }


def time_passes(model: MobileSAM, x: F32, runs: int) -> LayersTable:
    """Time the passes and the whole encoder on a canvas x (S, S, 3). The first round is not counted."""
    encoder = model.image_encoder
    title = f"encoder by pass, {encoder.img_size}x{encoder.img_size}, nominal FLOPs"
    calls, costs, peak = passes(encoder), pass_costs(model.kind.architecture), 0.0
    total = sum(costs.values(), Cost(0, 0))
    samples: dict[str, list[float]] = {name: [] for name in (*calls, SUM, WHOLE)}
    for i in range(1 + runs):
        show(f"{title}: round {i} of {runs}")
        time.sleep(PAUSE)
        peak = max(peak, kernels.fma_peak(threads=encoder.threads))
        y, start = x, time.perf_counter()
        for name, call in calls.items():
            y = call(y, encoder.threads)
            end = time.perf_counter()
            samples[name].append((end - start) * 1e3)
            start = end
        samples[SUM].append(sum(samples[name][-1] for name in calls))
        time.sleep(PAUSE)
        start = time.perf_counter()
        encoder(x)
        samples[WHOLE].append((time.perf_counter() - start) * 1e3)
    counted = {name: times[1:] for name, times in samples.items()}
    return LayersTable(title, counted, {**costs, SUM: total, WHOLE: total}, peak)


class LayersBench:
    """The benchmark's model and photo, and its section `layers`, which measures only this package."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.photo = open_rgb(options.image)
        self.model = load(options.weights, threads=options.threads, precision=options.precision)

    def engine_versions(self) -> Mapping[str, str]:
        """Versions of the engines that this package is compared with, by name."""
        return {}

    def environment(self) -> dict[str, str]:
        """The facts that a reader needs to interpret the results: CPU, ISA, threads, versions, checkpoint, image."""
        versions = {"mobilesam": __version__, "python": platform.python_version(), "numpy": np.__version__}
        versions |= self.engine_versions()
        return {
            "cpu": cpu_name(),
            "isa": kernels.isa.current(),
            "precision": self.model.precision,
            "threads": str(self.options.threads),
            "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
            "checkpoint": without_home(self.model.checkpoint.path),
            "image": f"{self.options.image.name} ({self.photo.width}x{self.photo.height})",
        }

    def section(self, name: str) -> list[Printable]:
        """Run the section of this name, and return its tables."""
        tables: list[Printable] = getattr(self, name.replace("-", "_"))()
        return tables

    def layers(self) -> list[LayersTable]:
        """The section `layers`: time of each pass of the encoder."""
        x, _ = to_encoder_input(self.photo, self.model.kind.architecture)
        return [time_passes(self.model, x, self.options.runs)]
