"""The fuzzer itself: mutations, checksums, the findings of a worker, and repeatable cases."""

import gc
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("resource", reason="the fuzzer's workers need the limits of POSIX")

from fuzzing import broken, mutation, run, worker
from fuzzing.registry import TARGETS
from fuzzing.target import Case
from golden import PHOTOS
from PIL import Image
from processes import SUPPORT
from soaking import memory, pictures

FILE = b'\x89PNG{"count": 12, "name": "x"}' * 20


@pytest.mark.parametrize("change", mutation.MUTATIONS)
def test_each_mutation_changes_the_bytes_and_depends_on_its_seed_alone(change):
    results = []
    for _ in range(2):
        results.append([bytearray(FILE) for _ in range(30)])
        for seed, data in enumerate(results[-1]):
            change(data, [b"another file"], Random(seed))
    assert results[0] == results[1]
    assert sum(data != FILE for data in results[0]) >= 15
    for seed in range(30):
        change(bytearray(), [b""], Random(seed))  # an empty file is accepted


def test_mutated_files_have_a_limited_size():
    sizes = [len(mutation.mutate(FILE, [FILE], Random(seed))) for seed in range(300)]
    assert max(sizes) == mutation.MOST_BYTES
    assert min(sizes) < len(FILE)


def test_png_checksums_are_repaired():
    data = bytearray(PHOTOS["chelsea"].read_bytes())
    data[24] = 16  # bits per channel, in the header
    with pytest.raises(OSError), Image.open(io.BytesIO(data)) as picture:
        picture.load()
    with Image.open(io.BytesIO(mutation.with_png_checksums(bytes(data)))) as picture:
        assert picture.size == (451, 300)
    repaired = mutation.with_png_checksums(bytes(data))
    assert mutation.with_png_checksums(bytes(data[:50])) == repaired[:33] + data[33:50]  # cut off after the header


def test_zip_checksums_are_repaired():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"first")
        archive.writestr("b", b"second")
    data = file.getvalue().replace(b"second", b"zecond")
    with zipfile.ZipFile(io.BytesIO(data)) as archive, pytest.raises(zipfile.BadZipFile):
        archive.read("b")
    with zipfile.ZipFile(io.BytesIO(mutation.with_zip_checksums(data))) as archive:
        assert (archive.read("a"), archive.read("b")) == (b"first", b"zecond")


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        (broken.fine, None),
        (broken.harmless_warning, None),
        (broken.undocumented, "exception"),
        (broken.several_lines, "message of several lines"),
        (broken.overflow, "warning"),
        (broken.unclosed, "warning"),
    ],
)
def test_problems_of_a_case(way, kind):
    gc.collect()  # garbage of other tests could warn during the case
    problem = worker.run(Case(way, b""), broken.TARGET)
    assert (problem and problem["kind"]) == kind


def test_a_worker_that_dies_is_replaced_and_every_problem_is_found():
    report = run.Report(broken.TARGET)
    run.cases(report, 0, range(broken.TARGET.cases))
    expected: dict[str, list[tuple[int, int]]] = {}
    for index in range(broken.TARGET.cases):
        way = worker.random_numbers(broken.TARGET, 0, index).choice(broken.WAYS)
        if way not in (broken.fine, broken.harmless_warning):
            expected.setdefault(way.__name__, []).append((0, index))
    assert len(expected) == 7
    assert {finding.data.decode(): finding.cases for finding in report.findings.values()} == expected
    kinds = {finding.data.decode(): finding.kind for finding in report.findings.values()}
    assert (kinds["signal_11"], kinds["exits"], kinds["busy"]) == ("signal SIGSEGV", "exit code 3", "hang")
    assert report.cases == broken.TARGET.cases


@pytest.mark.parametrize(
    "target", [target for target in TARGETS if target.name != "http"], ids=lambda target: target.name
)
def test_a_seed_repeats_the_cases_of_each_target(target, tmp_path: Path):
    if run.missing(target):
        pytest.skip(f"needs {', '.join(run.missing(target))}")
    inputs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make = target.start(tmp_path / name)
        inputs.append([make(worker.random_numbers(target, 5, index)).data for index in range(4)])
    assert inputs[0] == inputs[1]
    assert len({*inputs[0]}) > 1


def test_the_script_runs_a_case():
    script = SUPPORT.parents[1] / "scripts" / "fuzz.py"
    command = [sys.executable, str(script), "--target", "numbers", "--case", "1"]
    done = subprocess.run(command, cwd=SUPPORT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split()[:3] == ["numbers", "1", "0"]


def test_growth_compares_the_last_quarter_with_the_second():
    samples = [500.0] * 10 + [100.0] * 10 + [900.0] * 10 + [107.0] * 10
    assert memory.growth(samples) == 7
    with pytest.raises(ValueError, match="at least 4"):
        memory.growth([1.0])
    assert memory.resident() > 10


def test_soak_pictures_are_mixed_and_repeatable():
    sizes = {pictures.size_of(number) for number in range(64)}
    assert {(1, 1), (1, 3000), (3000, 2000)} <= sizes
    assert len(sizes) > 40
    assert pictures.file(5) == pictures.file(5)
    with Image.open(io.BytesIO(pictures.file(5))) as picture:
        assert picture.size == pictures.size_of(5)
    x, y = pictures.point(5)
    assert 0 <= x < picture.width
    assert 0 <= y < picture.height
    assert json.dumps([x, y])
