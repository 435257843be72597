"""A run of everything-mode or of prompts on Ray: on the CPUs of this machine, or on a cluster. Requires extra [ray].

A batch of images is one task of Ray. The worker that segments the batch also writes the batch's Parquet file, and only
the paths come back. So a killed worker loses at most the batches in progress, and an interrupted run keeps all others.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .. import kernels
from . import table
from .workers import Columns, Everything, Segment

IN_FLIGHT = 2  # batches that wait at each worker, so that a worker does not wait for the driver
CONNECT_SECONDS = 10
STARTS = 2  # further attempts to start a worker

Progress = Callable[[int, int, int], object]


class _Writing:
    """Segments a batch and writes its file. Ray makes one object for each worker."""

    def __init__(self, folder: str, arguments: Sequence[Any], options: Mapping[str, Any], *, prompts: bool) -> None:
        from ..images.photo import allow_large_photos

        allow_large_photos()
        self._folder, self._worker = Path(folder), (Segment if prompts else Everything)(*arguments, **options)

    def __call__(self, batch: Columns) -> Columns:
        result = self._worker(_one_prompt_per_row(batch) if "prompts" in batch else batch)
        columns = {name: result[name].tolist() for name in result}
        if "prompts" in batch:
            columns = _one_photo_per_row(columns)
        table.write(self._folder, columns)
        failed = [error is not None for error in columns["error"]]
        return {"path": np.array(columns["path"], object), "failed": np.array(failed, bool)}


def _one_prompt_per_row(batch: Columns) -> Columns:
    rows = [(path, prompt) for path, texts in zip(*map(batch.get, ("path", "prompts"))) for prompt in json.loads(texts)]
    result = {"path": np.empty(len(rows), object)}
    result["path"][:] = [path for path, _ in rows]
    for name in ("points", "labels", "box"):
        result[name] = np.empty(len(rows), object)
        result[name][:] = [prompt.get(name) for _, prompt in rows]
    return result


def _one_photo_per_row(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Put the annotations of consecutive rows with the same path together. The first error counts."""
    result: dict[str, list[Any]] = {name: [] for name in columns}
    for i, path in enumerate(columns["path"]):
        if not result["path"] or result["path"][-1] != path:
            for name, values in columns.items():
                result[name].append(values[i])
            continue
        together = result["annotations"][-1]
        together += [{**each, "id": len(together) + 1} for each in columns["annotations"][i]]
        result["error"][-1] = result["error"][-1] or columns["error"][i]
    return result


def run(
    paths: Sequence[str],
    folder: Path,
    options: Mapping[str, Any],
    *,
    prompts: Sequence[Sequence[Mapping[str, Any]]] | None = None,
    weights: str | None = None,
    precision: str | None = None,
    threads: int = 1,
    workers: int | None = None,
    batch_size: int = 8,
    address: str | None = None,
    progress: Progress | None = None,
) -> int:
    """Find all masks of images, or the masks of prompts, and write Parquet files.

    Args:
        paths: The images, with absolute paths that all machines can read.
        folder: An existing folder for the files, which all machines of the cluster share.
        options: Further arguments of `Everything`, or with `prompts` of `Segment`.
        prompts: For each image its prompts, mappings from "points", "labels" and "box" to lists. None for all masks.
        weights: See `mobilesam.load`.
        precision: See `mobilesam.load`.
        threads: Threads and CPUs of each worker.
        workers: The largest number of workers. None for as many as the cluster has CPUs for.
        batch_size: Number of images in a task and in a file.
        address: Address of a running cluster, such as "auto" or "10.0.0.1:6379". None for a cluster on this machine.
        progress: Called after each batch with the numbers of images that are done, that failed, and of all.

    Returns:
        The number of images that failed. Their errors are in the files.

    Raises:
        ModuleNotFoundError: ray is not installed.
        ValueError: No machine of the cluster has enough CPUs for a worker, or a worker cannot start.
        ConnectionError: There is no cluster at the address.
    """
    with _quiet(folder / "ray.log"):
        ray = _ray()
        if address is not None:
            _check_address(address)
        own = {"num_cpus": kernels.threads.usable_cpus(), "include_dashboard": False}
        local: dict[str, Any] = {} if address else own
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **local)
        except (ConnectionError, RuntimeError) as error:
            raise ConnectionError(f"cannot reach a Ray cluster at {address}: {_cause(error)}") from None
        try:
            rows = [{"path": path} for path in paths]
            if prompts is not None:
                rows = [{**row, "prompts": json.dumps(each)} for row, each in zip(rows, prompts, strict=True)]
            made = {
                "folder": str(folder), "arguments": (weights, precision, threads), "options": dict(options),
                "prompts": prompts is not None,
            }  # fmt: skip
            return _run(ray, rows, made, threads, workers, batch_size, progress)
        finally:
            ray.shutdown()


def _run(
    ray: Any, rows: Sequence[Mapping[str, str]], made: Mapping[str, Any], threads: int, workers: int | None,
    batch_size: int, progress: Progress | None,
) -> int:  # fmt: skip
    places = sum(int(node["Resources"].get("CPU", 0) // threads) for node in ray.nodes() if node["Alive"])
    if not places:  # Ray would wait for such a machine for half an hour
        most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
        raise ValueError(f"threads: expected at most {most}, the most CPUs of a machine of the cluster, got {threads}")
    most = places if workers is None else workers
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = STARTS
    pool = ray.data.ActorPoolStrategy(
        min_size=1, max_size=most, initial_size=min(places, most), max_tasks_in_flight_per_actor=IN_FLIGHT
    )
    photos = ray.data.from_items(list(rows), override_num_blocks=math.ceil(len(rows) / batch_size))
    done = failed = 0
    try:
        results = photos.map_batches(
            _Writing,
            fn_constructor_kwargs=dict(made),
            batch_size=None,
            batch_format="numpy",
            num_cpus=threads,
            compute=pool,
        )
        for batch in results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            done += len(batch["path"])
            failed += int(batch["failed"].sum())
            if progress is not None:
                progress(done, failed, len(rows))
    except ray.exceptions.RayError as error:
        raise ValueError(f"the cluster cannot go on: {_cause(error)}") from None
    return failed


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_SCHEDULER_EVENTS", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise Ray warns about the next version
    try:
        import ray
        import ray.data
    except ModuleNotFoundError:
        raise ModuleNotFoundError("a batch needs Ray: pip install 'mobilesam[ray]'", name="ray") from None
    for handler in logging.getLogger("ray.data").handlers:
        handler.setLevel(logging.CRITICAL)
    return ray


def _check_address(address: str) -> None:
    """Connect to an address of the form HOST:PORT, because Ray would try for minutes. Raises ConnectionError."""
    host, colon, port = address.rpartition("//")[2].rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(f"cannot reach a Ray cluster at {address}: {error}") from None


def _cause(error: BaseException) -> str:
    """The first error in a message of Ray, which is that of the worker."""
    lines = re.findall(r"^[\w.]*(?:Error|Exception)\b: .*", str(error), re.M)
    return str(lines[0]) if lines else str(error).strip().splitlines()[0]


@contextmanager
def _quiet(log: Path) -> Iterator[TextIO]:
    """Send what Ray and its processes print to a file. They write to the file descriptor 2 and to sys.stdout."""
    with log.open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as file:
        sys.stderr.flush()
        stderr, stdout = os.dup(2), sys.stdout
        os.dup2(file.fileno(), 2)
        sys.stdout = file
        try:
            yield file
        finally:
            sys.stdout = stdout
            os.dup2(stderr, 2)
            os.close(stderr)
