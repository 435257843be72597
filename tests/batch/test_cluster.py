"""The command `mobilesam batch` on Ray clusters on this machine."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from golden import PHOTOS
from PIL import Image

from mobilesam.images.photo import open_rgb

pytestmark = pytest.mark.extras
ray = pytest.importorskip("ray")

from mobilesam.batch import read  # noqa: E402 (after the check for Ray)

PHOTOS_OF_THE_TEST = 40
COMMAND = [sys.executable, "-m", "mobilesam", "batch"]


def photos(folder: Path, count: int) -> list[str]:
    """Small photos, of which one is broken."""
    folder.mkdir()
    whole = [open_rgb(PHOTOS[name]) for name in ("chelsea", "rocket")]
    for i in range(count):
        whole[i % 2].rotate(i).resize((96, 80)).save(folder / f"{i:03}.png")
    (folder / "017.png").write_bytes(b"no picture")
    return sorted(str(path) for path in folder.iterdir())


def workers() -> list[int]:
    """Process numbers of the workers that segment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # a process that has just ended
            name = (folder / "cmdline").read_bytes()
            if name.startswith(b"ray::") and b"Writing" in name:
                found.append(int(folder.name))
    return found


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the cluster did not get there in time"
        time.sleep(0.1)


def finished(folder: Path) -> int:
    return len(list(folder.glob("part-*.parquet")))


def check(folder: Path, paths: list[str]) -> None:
    """Every photo is there once, and the broken one with its error."""
    results = list(read(folder))
    assert sorted(result["path"] for result in results) == paths
    for result in results:
        broken = result["path"].endswith("017.png")
        assert (result["error"] is not None) == broken
        assert (result["width"], result["height"]) == ((0, 0) if broken else (96, 80))
    assert sum(len(result["annotations"]) for result in results) > len(paths)
    assert not list(folder.glob(".*"))


@pytest.fixture(scope="module")
def two_nodes():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster, node
    cluster.shutdown()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the workers in /proc")
def test_a_killed_worker_and_a_killed_node_lose_no_photo(two_nodes, tmp_path: Path) -> None:
    cluster, node = two_nodes
    paths, output = photos(tmp_path / "photos", PHOTOS_OF_THE_TEST), tmp_path / "out"
    options = ["-o", str(output), "--points-per-side", "4", "--pred-iou-thresh", "0.5", "--batch-size", "2"]
    command = [*COMMAND, str(tmp_path / "photos"), *options, "--address", cluster.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: finished(output) >= 3)
        os.kill(workers()[0], signal.SIGKILL)
        wait_for(lambda: finished(output) >= 7)
        cluster.remove_node(node)
        printed, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    check(output, paths)
    assert f"{PHOTOS_OF_THE_TEST - 1} written, 1 failed, 0 there already" in printed
    assert errors.count("\n") == 1
    assert "017.png" in errors


def test_a_killed_run_is_resumed(tmp_path: Path) -> None:
    paths, output = photos(tmp_path / "photos", 24), tmp_path / "out"
    options = ["-o", str(output), "--points-per-side", "4", "--pred-iou-thresh", "0.5", "--batch-size", "2"]
    command = [*COMMAND, str(tmp_path / "photos"), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: finished(output) >= 2)
        process.kill()
    wait_for(lambda: not workers())
    before = {file: file.stat().st_mtime_ns for file in output.glob("part-*.parquet")}
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "give --resume" in refused.stderr
    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert resumed.returncode == 1, resumed.stderr
    check(output, paths)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True)
    assert "24 there already" in again.stdout


def test_prompts_of_a_file(tmp_path: Path) -> None:
    paths, output, file = photos(tmp_path / "photos", 3), tmp_path / "out", tmp_path / "prompts.csv"
    rows = ["image,points,box", "photos/000.png,48 40,", "photos/001.png,,10 10 60 60", "photos/000.png,,20 20 70 70"]
    file.write_text("\n".join([*rows, "photos/missing.png,5 5,"]))
    command = [*COMMAND, str(file), "-o", str(output), "--batch-size", "2", "--workers", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert "2 written, 1 failed" in result.stdout
    found = {photo["path"]: photo for photo in read(output)}
    assert sorted(found) == sorted([*paths[:2], str(tmp_path / "photos" / "missing.png")])
    assert [each["id"] for each in found[paths[0]]["annotations"]] == [1, 2]
    assert [each["point_coords"] for each in found[paths[0]]["annotations"]] == [[[48.0, 40.0]], []]
    assert len(found[paths[1]]["annotations"]) == 1
    file.write_text("image,points\nphotos/000.png,50% 5")
    assert "prompts in pixels" in subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", "64"], "threads: expected at most"),
        (["--weights", "missing.pt"], "missing.pt"),
        (["--points-per-side", "0"], "points_per_side"),
        (["--batch-size", "0"], "--batch-size"),
        (["--address", "127.0.0.1:1"], "cannot reach a Ray cluster at 127.0.0.1:1"),
    ],
)
def test_errors_in_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    command = [*COMMAND, str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stdout == ""
