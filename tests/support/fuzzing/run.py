"""Starts worker processes, and collects and reports their findings."""

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .target import CHANGED, Target

SUPPORT = Path(__file__).parents[1]
MOST_DEATHS = 100  # dead workers after which a target is given up
SHOWN = 12  # lines of a dead worker's output


@dataclass
class Finding:
    """Cases with the same problem.

    Attributes:
        kind: Such as "exception", "signal" or "hang".
        place: The lines of code, if they are known.
        text: The error's type and message, or the last output of a process that ended.
        cases: Seed and number of each case.
        data: The input of the first case.
    """

    kind: str
    place: str
    text: str
    cases: list[tuple[int, int]] = field(default_factory=list)
    data: bytes = b""


@dataclass
class Report:
    """What the cases of a target gave."""

    target: Target
    cases: int = 0
    seconds: float = 0.0
    findings: dict[tuple[str, str], Finding] = field(default_factory=dict)

    def add(self, seed: int, index: int, problem: dict[str, str], data: bytes) -> None:
        kind, place, text = (problem[name] for name in ("kind", "place", "text"))
        group = kind, place or text[:80]
        if group not in self.findings:
            data = data or input_of(self.target, seed, index)  # a process that ended did not send its input
            self.findings[group] = Finding(kind, place, text, data=data)
            print(f"{repeat(self.target, seed, index)}: {kind}: {place or text[:80]}", flush=True)
        self.findings[group].cases.append((seed, index))


def missing(target: Target) -> list[str]:
    """The packages that a target needs and that are not installed."""
    return [name for name in target.needs if find_spec(name) is None]


def run_all(targets: Sequence[Target], seed: int, jobs: int, minutes: float) -> dict[str, Report]:
    """Run the gate's cases of every target, then cases of the following seeds until `minutes` are over."""
    begun, reports = time.monotonic(), {target.name: Report(target) for target in targets}

    def work(target: Target, seed: int, until: float | None) -> None:
        if until is None or time.monotonic() < until:
            cases(reports[target.name], seed, range(target.cases), until)

    with ThreadPoolExecutor(jobs) as pool:
        until = None
        while until is None or time.monotonic() < until:
            if until is not None:
                print(f"seed {seed}", flush=True)
            for _ in pool.map(work, targets, [seed] * len(targets), [until] * len(targets)):
                pass
            seed, until = seed + 1, begun + 60 * minutes
    return reports


def cases(report: Report, seed: int, numbers: range, until: float | None = None) -> None:
    """Run cases of a target. A worker that ends before its last case is replaced."""
    begun, first, deaths = time.monotonic(), numbers.start, 0
    while first < numbers.stop and deaths < MOST_DEATHS and (until is None or time.monotonic() < until):
        with tempfile.TemporaryFile("w+") as errors:
            ended, index, done, about = None, first, False, ""
            with subprocess.Popen(
                [sys.executable, "-m", "fuzzing.worker", report.target.name, *map(str, (seed, first, numbers.stop))],
                cwd=SUPPORT, env=environment(), stdout=subprocess.PIPE, stderr=errors, text=True,
            ) as worker:  # fmt: skip
                for message in _messages(worker):
                    index, about = message.get("case", index), message.get("about", about)
                    if "finding" in message:
                        report.add(seed, message["index"], message["finding"], base64.b64decode(message["data"]))
                    done = done or "end" in message
                ended = worker.wait()
            if not done or ended:
                errors.seek(0)
                report.add(seed, index, death(ended, errors.read(), about), b"")
                deaths += 1
            report.cases += (numbers.stop if done else index + 1) - first
            first = numbers.stop if done else index + 1
    report.seconds += time.monotonic() - begun


def _messages(worker: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    assert worker.stdout is not None
    for line in worker.stdout:
        try:
            yield json.loads(line)
        except ValueError:  # the worker died while it wrote the line
            return


def input_of(target: Target, seed: int, index: int) -> bytes:
    """The input of a case, made once more in a process of its own. Empty if that fails."""
    command = [sys.executable, "-m", "fuzzing.worker", target.name, str(seed), str(index)]
    try:
        done = subprocess.run(command, cwd=SUPPORT, env=environment(), capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return b""
    return done.stdout if done.returncode == 0 else b""


def death(code: int, output: str, about: str = "") -> dict[str, str]:
    """The problem of a worker that ended before its last case. `about` is the place if the stack names no line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    frames = [line for line in lines if line.startswith("File ")]
    kind = f"exit code {code}"
    if code == -signal.SIGPROF or any(line.startswith("Timeout (") for line in lines):
        kind = "hang"
    elif code < 0:
        kind = f"signal {signal.Signals(-code).name}"
    own = [frame for frame in frames if "mobilesam" in frame and "fuzzing" not in frame]
    place = own[0] if own else about or "".join(frames[:1])
    lines = [line for line in lines if line.startswith(CHANGED)][-1:] + lines
    return {"kind": kind, "place": place, "text": " | ".join(lines[:SHOWN])}


def environment() -> dict[str, str]:
    """The environment of a worker. Sanitizers end the process at the first error."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MOBILESAM_")}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH")]))
    kept["MOBILESAM_GUARDS"] = "1"
    kept.setdefault("MOBILESAM_NUM_THREADS", os.environ.get("MOBILESAM_NUM_THREADS", "2"))
    options = "allocator_may_return_null=1:detect_leaks=0:hard_rss_limit_mb=6000"
    kept["ASAN_OPTIONS"] = ":".join(filter(None, [kept.get("ASAN_OPTIONS"), options]))
    kept.setdefault("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1")
    return kept


def repeat(target: Target, seed: int, index: int) -> str:
    return f"scripts/fuzz.py --target {target.name} --seed {seed} --case {index}"


def show(reports: Sequence[Report], save: Path | None) -> int:
    """Print the findings and a table, and save the inputs of the findings. Returns the number of findings."""
    total = 0
    for report in reports:
        for number, finding in enumerate(report.findings.values()):
            total += 1
            seed, index = finding.cases[0]
            print(f"\n{report.target.name}: {finding.kind}, {len(finding.cases)} cases: {finding.place}")
            print(f"    {finding.text[:1500]}")
            print(f"    {repeat(report.target, seed, index)}")
            if save:
                name = f"{report.target.name}-{number}-{finding.kind.replace(' ', '-')}-{seed}-{index}"
                save.mkdir(parents=True, exist_ok=True)
                (save / name).write_bytes(finding.data)
    print(f"\n{'target':16}{'cases':>9}{'findings':>10}{'seconds':>9}")
    for report in reports:
        print(f"{report.target.name:16}{report.cases:9}{len(report.findings):10}{report.seconds:9.1f}")
    return total
