"""GCC and Clang keep the values of the NEON micro-kernels' inner loops in registers, and load no more than is needed.

The compilers write assembly, so the tests need no AArch64 machine.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from assembly import Function, functions
from build_flags import build_flags

ROOT = Path(__file__).parents[2]
MICRO = ROOT / "kernels/micro"
SOURCE = (MICRO / "neon.c").read_text()
_DEFINED = dict(re.findall(r"#define (\w+) (\d+)", SOURCE))
MR, NV, TAPW = int(_DEFINED["MR"]), int(_DEFINED["NV"]), int(_DEFINED["TAPW"])

FMA = "fmla", "fmls"
ADD = "fadd", "fsub"


@dataclass(frozen=True)
class Tile:
    """A step of a micro-kernel's inner loop.

    Attributes:
        functions: The functions that may contain the loop. The compiler decides which of them it inlines.
        operations: Number of vector operations in a step. Loops with another number belong to smaller tiles.
        loads: Number of values that a step needs from memory. A value is a vector, or a scalar that multiplies vectors.
            There are two numbers if two loops have the same number of operations.
        mnemonics: The vector operations to count.
    """

    functions: tuple[str, ...]
    operations: int
    loads: tuple[int, ...]
    mnemonics: tuple[str, ...] = FMA

    def loads_of_steps(self, compiled: dict[str, list[Function]]) -> list[float]:
        """The number of values that a step loads, ascending, for each inner loop of one or more steps."""
        parts = [part for name in self.functions for part in compiled.get(name, [])]
        loops = [(loop.count(self.mnemonics), loop) for part in parts for loop in part.inner_loops(self.mnemonics)]
        return sorted(loop.loads * self.operations / n for n, loop in loops if n % self.operations == 0)


TILES = {
    # One term: a scalar of each of MR rows, and NV vectors of the panel.
    "gemm": Tile(("gemm", "tile_rows", "tile_edge"), MR * NV, (MR + NV,)),
    "fma_probe": Tile(("fma_probe",), MR * NV, (0,)),
    # A vector of each of two rows of a (DOT_ROWS in dot.h) and of each of four rows of b.
    "dot_rows": Tile(("dot_rows",), 2 * 4, (2 + 4,)),
    # A step reads two rows of a and two rows of b, four vectors of each.
    "dot_columns": Tile(("dot_columns",), 2 * 4, (2 * 2 * 4,)),
    # TAPW pixels: the bias, nine weights, and three rows of input pixels. Stride 1 and stride 2.
    "depthwise3x3": Tile(
        ("depthwise3x3",), 9 * TAPW, tuple(1 + 9 + 3 * ((TAPW - 1) * stride + 3) for stride in (1, 2))
    ),
    # A vector of weights, and the input of one pixel or of TAPW pixels.
    "depthwise_taps": Tile(("depthwise_taps",), 1, (2,)),
    "depthwise_flat": Tile(("depthwise_flat",), TAPW, (TAPW + 1,)),
    # A vector, its channel's bias, and its channel's weight for each of four masks. A GELU takes nine operations.
    "draw_columns": Tile(("draw_columns",), 9 + 4, (1 + 1 + 4,)),
    # One vector. The coefficients stay in registers. An exponential takes eight operations.
    "gelu": Tile(("activate",), 9, (1,)),
    "exp": Tile(("exp_rows", "softmax", "softmax_columns"), 8, (1,)),
    # Sixteen vectors. B' d B takes 2 * 16 additions, A' m A takes 4 * 4 + 2 * 4.
    "winograd_input": Tile(("winograd_input",), 2 * 16, (16,), ADD),
    "winograd_output": Tile(("winograd_output",), 4 * 4 + 2 * 4, (16,), ADD),
}
# Functions whose loops use an array on the stack: layer_norm for transposed rows, sincos_2pi to read part of a vector.
WITH_ARRAYS = {"layer_norm", "sincos_2pi"}


def command(compiler: str) -> list[str]:
    """The command of a compiler: "gcc", or a target of ziglang's Clang. Skips the test if the compiler is missing."""
    if compiler == "gcc":
        names = ["aarch64-linux-gnu-gcc", *(["cc"] if platform.machine().lower() in ("aarch64", "arm64") else [])]
        for name in filter(shutil.which, names):
            return [name]
        pytest.skip("needs aarch64-linux-gnu-gcc (apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross)")
    if not importlib.util.find_spec("ziglang"):
        pytest.skip("needs Clang (pip install ziglang)")
    return [sys.executable, "-m", "ziglang", "cc", "-target", compiler]


def compile_neon(compiler: str, folder: Path, source: str = SOURCE) -> dict[str, list[Function]]:
    """The functions of neon.c, or of another text of that file."""
    (folder / "neon.c").write_text(source)
    arguments = [*build_flags("neon"), f"-I{MICRO}", "-S", "neon.c", "-o", "neon.s"]
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(folder), "ZIG_LOCAL_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [*command(compiler), *arguments], cwd=folder, env=os.environ | caches, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return functions((folder / "neon.s").read_text())


COMPILERS = [
    "gcc",
    *(pytest.param(f"aarch64-{system}", marks=pytest.mark.extras) for system in ("linux-gnu", "macos", "windows-gnu")),
]


@pytest.fixture(scope="module", params=COMPILERS)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Function]]:
    return compile_neon(request.param, tmp_path_factory.mktemp("neon"))


@pytest.mark.parametrize("name", TILES)
def test_the_inner_loop_loads_only_what_a_step_needs(compiled: dict[str, list[Function]], name: str) -> None:
    tile = TILES[name]
    loads = tile.loads_of_steps(compiled)
    assert loads and len(loads) % len(tile.loads) == 0
    needed = sorted(tile.loads * (len(loads) // len(tile.loads)))
    assert all(found <= most for found, most in zip(loads, needed)), f"{loads} loads in a step, {needed} needed"


def spills(compiled: dict[str, list[Function]]) -> list[str]:
    """The instructions of inner loops that access the stack, each after the name of its function."""
    loops = [
        (name, loop)
        for name, parts in compiled.items()
        if name not in WITH_ARRAYS
        for part in parts
        for loop in part.inner_loops(FMA + ADD)
    ]
    return [f"{name}: {spill.mnemonic} {spill.operands}" for name, loop in loops for spill in loop.spills]


def test_inner_loops_do_not_spill(compiled: dict[str, list[Function]]) -> None:
    found = spills(compiled)
    assert not found


@pytest.mark.parametrize("compiler", COMPILERS)
def test_spills_of_a_tile_with_too_many_rows_are_counted(compiler: str, tmp_path: Path) -> None:
    """12 rows by NV = 4 vectors are 48 sums. The 16 sums that exceed the 32 registers are loaded in each step."""
    compiled = compile_neon(compiler, tmp_path, SOURCE.replace(f"#define MR {MR}", "#define MR 12"))
    loads = Tile(TILES["gemm"].functions, 12 * NV, ()).loads_of_steps(compiled)
    assert loads and loads[0] >= 12 + NV + 16
    assert any(spill.startswith("tile_rows: st") for spill in spills(compiled))


MACH_O = """
_sum:
    mov  x29, sp
LBB0_0:                                 ; =>This Loop Header: Depth=1
    mov  x3, #8
    b    LBB0_3
LBB0_1:
    ldr  q2, [x1]
LBB0_2:
    ldp  q0, q1, [x0], #32
    ld1r.4s { v3 }, [x2]
    fmla.4s v4, v0, v2[1]
    str  q4, [x29, #-16]
    subs x3, x3, #1
    b.eq LBB0_4
LBB0_3:                                 ; =>This Inner Loop Header: Depth=2
    cbnz x4, LBB0_1
    ldr  q2, [sp, #16]
    b    LBB0_2
LBB0_4:
    str  q5, [sp, #32]
    subs x5, x5, #1
    b.ne LBB0_0
    ret
.subsections_via_symbols
"""
ELF = re.sub(r"\b_|\.subsections_via_symbols", "", MACH_O).replace("LBB", ".LBB").replace(";", "//")
ELF = ELF.replace("fmla.4s v4, v0, v2[1]", "fmla v4.4s, v0.4s, v2.s[1]").replace("ld1r.4s { v3 }", "ld1r {v3.4s}")


@pytest.mark.parametrize("text", [MACH_O, ELF], ids=["Mach-O", "ELF"])
def test_an_inner_loop_has_all_its_branches_and_no_block_of_the_outer_loop(text: str) -> None:
    (function,) = functions(text)["sum"]
    (loop,) = function.inner_loops(FMA)
    assert (loop.count(FMA), loop.loads, len(loop.body)) == (1, 5, 10)
    assert [spill.mnemonic for spill in loop.spills] == ["str", "ldr"]
