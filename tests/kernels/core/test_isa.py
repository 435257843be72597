"""Selection of an instruction set (ISA): the ISAs that the host supports, forcing an ISA, and errors."""

import platform
from pathlib import Path

import pytest
from isas import NARROW
from processes import output, run

from mobilesam.kernels import isa, threads

NAMES = ("amx", "zen4", "avx512", "avx2", "x86-64-v2", "neon")
CPUINFO = Path("/proc/cpuinfo")
CURRENT = "from mobilesam.kernels import isa; print(isa.current())"


def missing() -> str:
    return next(name for name in NAMES if name not in isa.available())


def test_available_is_best_first():
    names = isa.available()
    assert names
    assert list(names) == sorted(names, key=NAMES.index)


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.exists(),
    reason="needs x86-64 and /proc/cpuinfo",
)
def test_available_agrees_with_the_flags_of_linux():
    """`isa.available` agrees with the CPU flags in /proc/cpuinfo."""
    lines = dict(line.split("\t: ", 1) for line in CPUINFO.read_text().split("\n\n")[0].splitlines() if "\t: " in line)
    lines = {name.strip(): value for name, value in lines.items()}
    flags = set(lines["flags"].split())
    if lines["vendor_id"] == "AuthenticAMD" and int(lines["cpu family"]) == 0x19:
        flags.add("adds_beside_fma")  # /proc/cpuinfo has no flag for this property
    avx512 = {"avx2", "fma", "f16c", "avx512f", "avx512dq", "avx512bw", "avx512vl"}
    needs = {
        "amx": avx512 | {"amx_tile", "amx_bf16"},
        "zen4": avx512 | {"adds_beside_fma"},
        "avx512": avx512,
        "avx2": {"avx2", "fma", "f16c"},
        "x86-64-v2": {"sse4_2", "ssse3", "popcnt"},
    }
    assert set(isa.available()) == {name for name, needed in needs.items() if needed <= flags}
    narrow = {
        ("amx", "bf16"): {"avx512_bf16"},
        ("amx", "int8"): {"amx_int8"},
        ("zen4", "bf16"): {"avx512_bf16"},
        ("zen4", "int8"): {"avx512_vnni"},
        ("avx512", "bf16"): {"avx512_bf16"},
        ("avx512", "int8"): {"avx512_vnni"},
        ("avx2", "int8"): {"avx_vnni"},
    }
    assert narrow.keys() == NARROW.keys()
    for name in isa.available():
        others = [precision for (one, precision), needed in narrow.items() if one == name and needed <= flags]
        assert isa.precisions(name) == ("fp32", *others)
    features = set(isa.cpu_features())
    for feature in ("avx512-bf16", "avx512-vnni", "avx-vnni", "amx-bf16", "amx-int8", "adds-beside-fma"):
        assert (feature in features) == (feature.replace("-", "_") in flags)


@pytest.mark.parametrize("name", isa.available())
def test_use(name):
    before = isa.current()
    with isa.use(name):
        assert isa.current() == name
        for inner in isa.available():
            with isa.use(inner):
                assert isa.current() == inner
            assert isa.current() == name
    assert isa.current() == before


def test_use_without_with_stays():
    before, last = isa.current(), isa.available()[-1]
    isa.use(last)
    try:
        assert isa.current() == last
    finally:
        isa.use(before)


def test_use_ends_with_its_block_even_if_that_fails():
    before = isa.current()
    with pytest.raises(KeyError), isa.use(isa.available()[-1]):
        raise KeyError
    assert isa.current() == before


@pytest.mark.parametrize("name", ["avx1024", "", "AVX2", missing()])
@pytest.mark.parametrize("function", [isa.use, isa.panel_width])
def test_an_unsupported_isa_is_refused(function, name):
    before = isa.current()
    with pytest.raises(RuntimeError) as error:
        function(name)
    message = str(error.value)
    assert "\n" not in message
    assert repr(name) in message
    assert all(known in message for known in isa.available())
    assert isa.current() == before


@pytest.mark.parametrize("name", isa.available())
def test_panel_width(name):
    width = isa.panel_width(name)
    mr, nr, vl = isa.register_tile(name)
    assert width == nr
    assert nr % vl == 0
    assert mr > 0
    assert vl == {"amx": 16, "zen4": 16, "avx512": 16, "avx2": 8, "x86-64-v2": 4, "neon": 4}[name]
    with isa.use(name):
        assert isa.panel_width() == width


def test_the_best_isa_is_the_default():
    assert output(CURRENT) == isa.available()[0]


@pytest.mark.parametrize("name", isa.available())
def test_the_environment_forces_an_isa(name):
    assert output(CURRENT, MOBILESAM_ISA=name) == name


@pytest.mark.parametrize("name", ["avx1024", "AVX2", missing()])
def test_the_environment_cannot_force_an_unsupported_isa(name):
    done = run(CURRENT, MOBILESAM_ISA=name)
    assert done.returncode == 1
    last = done.stderr.strip().rpartition("\n")[2]
    assert last.startswith("RuntimeError: MOBILESAM_ISA")
    assert repr(name) in last
    assert all(known in last for known in isa.available())


def test_openmp_is_yes_or_no():
    assert threads.openmp() in (True, False)
