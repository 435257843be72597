"""The benchmark's section `precisions`: every precision that this CPU supports, against other engines.

ONNX Runtime and OpenVINO run in float32. OpenVINO also runs in bf16, and in int8 if --openvino-int8 gives a quantised
encoder. There is one table for each precision of this package. The ratios in a table are relative to its precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .. import kernels
from ..api.embedding import Embedding
from ..api.loading import load
from ..api.model import MobileSAM, encode_canvas
from ..images.canvas import to_encoder_input
from ..network.precision import decoder_precision
from .harness import Case, Options, Row, Table, interleave

if TYPE_CHECKING:
    from PIL import Image

    from ..kernels.core.check import F32
    from .engines import Pair


class Bench(Protocol):
    """The part of `sections.Bench` that this section uses: options, photo, ONNX pairs, OpenVINO encoders, a click."""

    options: Options
    photo: Image.Image

    @property
    def pairs(self) -> list[Pair]: ...
    def narrow_encoders(self, planes: F32) -> Iterable[tuple[str, Callable[[], Any]]]: ...
    def click(self, model: MobileSAM, embedding: Embedding) -> Callable[[], tuple[F32, F32]]: ...


def tables(bench: Bench) -> list[Table]:
    """Run the section. Returns the encoder's table for each precision, then the decoder's tables."""
    options = bench.options
    models = {
        precision: load(options.weights, threads=options.threads, precision=precision)
        for precision in kernels.isa.precisions()
    }
    decoders = {precision: model for precision, model in models.items() if decoder_precision(precision) == precision}
    return [
        *_by_precision("encoder", models, _encoders(bench, models), options.runs),
        *_by_precision("decoder, one point, on a repeated image", decoders, _decoders(bench, decoders), options.runs),
    ]


def _ours(precision: str) -> str:
    return f"mobilesam, {precision}"


def _encoders(bench: Bench, models: dict[str, MobileSAM]) -> dict[str, Case]:
    architecture = next(iter(models.values())).kind.architecture
    x, filled = to_encoder_input(bench.photo, architecture)
    planes = np.ascontiguousarray(x.transpose(2, 0, 1)[None])
    threads = bench.options.threads
    cases = {
        _ours(precision): Case(lambda network=model.network: encode_canvas(network, x, filled), lambda out: out[0])  # type: ignore[misc]
        for precision, model in models.items()
    }
    for pair in bench.pairs:
        cases[pair.name] = Case(pair.encode(planes, threads), lambda out: out[0][0].transpose(1, 2, 0))
    for name, call in bench.narrow_encoders(planes):
        cases[name] = Case(call, lambda out: out[0][0].transpose(1, 2, 0))
    return cases


def _decoders(bench: Bench, models: dict[str, MobileSAM]) -> dict[str, Case]:
    """The decoder's cases, one per precision. All cases decode the features of the fp32 encoder."""
    embedding = models["fp32"].encode(bench.photo)
    return {
        _ours(precision): Case(bench.click(model, embedding), lambda result: result[0])
        for precision, model in models.items()
    }


def _by_precision(title: str, models: dict[str, MobileSAM], cases: dict[str, Case], runs: int) -> list[Table]:
    """Time the cases together, and return one table per precision. Its first row is this precision."""
    answers = {name: case.answer(case.call()) for name, case in cases.items()}
    times = interleave({name: case.call for name, case in cases.items()}, runs, title)
    exact = answers[_ours("fp32")]
    rows = [
        Row(name, samples, float(np.linalg.norm(answers[name] - exact) / np.linalg.norm(exact)))
        for name, samples in times.items()
    ]
    return [
        Table(f"{title}, ratios to {precision}", "ms", sorted(rows, key=lambda row: row.engine != _ours(precision)))
        for precision in models
    ]
