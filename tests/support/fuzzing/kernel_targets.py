"""Targets that call kernels, and record and run plans of the decoder, with damaged arguments."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import kernel_cases
import numpy as np
import plan_cases
from plans import Recording

from mobilesam import kernels
from mobilesam.kernels import isa

from .arguments import changed, describe
from .target import CHANGED, Case, Maker, Target

Call = tuple[Callable[..., Any], dict[str, Any]]
STEPS = ("linear", "attention", "layer_norm", "add", "take", "project", "attend_image", "update_image", "upscale_masks")
STEPS += ("array", "given", "given_maps", "check", "check_maps", "keep", "result", "view", "compile", "run")


def calls() -> list[Call]:
    """A valid call of every kernel, and of every function that packs a weight."""
    made: list[Call] = []
    for case in kernel_cases.CASES.values():
        function, arrays = getattr(kernels, case.operation), case.arrays()
        made.append((function, {**arrays, **case.options, "out": None, "threads": 2}))
        if case.operation in kernel_cases.PACKERS:
            for precision in isa.precisions():
                packed = kernel_cases.packed(case, arrays, precision)
                made.append((function, {**packed, **case.options, "out": None, "threads": 2}))
    rng = np.random.default_rng(0)
    floats = partial(rng.standard_normal, dtype=np.float32)
    made += [
        (kernels.winograd_conv3x3, {"x": floats((9, 11, 48)), "weight": kernels.pack_winograd(floats((64, 3, 3, 48)))}),
        (kernels.pack, {"weight": floats((37, 3, 3, 5)), "precision": "fp32", "isa": None, "lasting": False}),
        (kernels.pack_winograd, {"weight": floats((16, 3, 3, 16)), "threads": 2}),
        (kernels.pack_rows, {"rows": floats((9, 7)), "precision": "fp32", "isa": None}),
        (kernels.pack_attention_bias, {"table": floats((3, 25)), "index": rng.integers(0, 25, (25, 25))}),
        (
            kernels.encode_positions,
            {
                "xy": floats((5, 2)),
                "size": 1024,
                "gaussian": floats((2, 128)),
                "kinds": np.array([0, 1, 2, 3, -1], np.intp),
                "embeddings": floats((5, 256)),
                "threads": 2,
            },
        ),
        (
            kernels.normalize,
            {
                "image": rng.integers(0, 256, (9, 7, 3), np.uint8),
                "mean": floats(3),
                "std": np.ones(3, np.float32),
                "size": (12, 11),
                "threads": 2,
            },
        ),
        (
            kernels.mask_runs,
            {
                "x": floats((2, 13, 11)),
                "padded": (53, 52),
                "crop": (41, 52),
                "size": (163, 208),
                "threshold": 0.0,
                "offset": 1.0,
                "threads": 2,
            },
        ),
        (
            kernels.resize_logits,
            {
                "x": floats((2, 13, 11)),
                "padded": (53, 52),
                "crop": (41, 52),
                "size": (163, 208),
                "threshold": 0.5,
                "out": None,
                "threads": 2,
            },
        ),
        (kernels.empty, {"shape": (3, 70_000), "dtype": np.float32}),
    ]
    return made


def start_kernels(_: Path) -> Maker:
    every = calls()

    def make(rng: Random) -> Case:
        function, valid = rng.choice(every)
        arguments = dict(valid)
        for name in rng.sample(list(arguments), min(len(arguments), rng.choice((1, 1, 2, 3)))):
            arguments[name] = changed(arguments[name], rng)
        if arguments.get("out", 0) is None and rng.random() < 0.3:
            arguments["out"] = _out(function, valid, rng)
        name = rng.choice(isa.available())

        def run() -> None:
            with isa.use(name):
                function(**arguments)

        text = f"{function.__name__} under {name}: {describe(arguments)}"
        return Case(run, text.encode(), function.__name__)

    return make


def _out(function: Callable[..., Any], valid: dict[str, Any], rng: Random) -> Any:
    """An array for the result: valid, changed, or one that shares memory with an input."""
    out = np.zeros_like(function(**valid))
    inputs = [value for value in valid.values() if isinstance(value, np.ndarray) and value.dtype == out.dtype]
    if inputs and rng.random() < 0.5:
        memory = np.ascontiguousarray(rng.choice(inputs)).ravel()
        return np.resize(memory, out.shape) if memory.size < out.size else memory[: out.size].reshape(out.shape)
    return changed(out, rng)


class Hostile:
    """A plan that changes an argument of one of its calls."""

    def __init__(self, plan: Any, at: int, rng: Random) -> None:
        self.plan, self.at, self.rng, self.calls = plan, at, rng, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.plan, name)
        if name not in STEPS:
            return method

        def call(*arguments: Any, **options: Any) -> Any:
            if self.calls == self.at:
                arguments, options = self.damaged(arguments, options)
                print(f"{CHANGED}{name} {describe(arguments)} {describe(options)}"[:1000], file=sys.stderr, flush=True)
            self.calls += 1
            return method(*arguments, **options)

        return call

    def damaged(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        changes = list(arguments)
        for _ in range(self.rng.choice((1, 1, 2))):
            if options and (not changes or self.rng.random() < 0.4):
                name = self.rng.choice(list(options))
                options = {**options, name: changed(options[name], self.rng)}
            elif changes:
                place = self.rng.randrange(len(changes))
                changes[place] = changed(changes[place], self.rng)
        return tuple(changes), options


def start_plans(_: Path) -> Maker:
    every = [(name, record) for name, record in plan_cases.cases()]

    def make(rng: Random) -> Case:
        name, record = rng.choice(every)
        made = Recording(threads=rng.choice((1, 2)), isa=rng.choice(isa.available()))
        hostile = Hostile(made.plan, rng.randrange(16), rng)
        made.plan = hostile  # type: ignore[assignment]

        def run() -> None:
            wanted = record(made)
            made.run(*(array for array, _ in wanted))

        return Case(run, f"{name}, changed at call {hostile.at}".encode(), name.split()[0])

    return make


# RuntimeError: the host lacks an ISA or a precision.
EXPECTED = (TypeError, ValueError, MemoryError, RuntimeError)
TARGETS = (
    Target("kernels", 4500, start_kernels, EXPECTED, memory=8),
    Target("plans", 2500, start_plans, EXPECTED, memory=8),
)
