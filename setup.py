"""The build: one static library per ISA in kernels/micro, with its own flags, and one extension per Cython module."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext

MICRO = "kernels/micro"
CFLAGS = [
    "-std=gnu11",
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-g0",
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*(f"-mavx512{part}" for part in ("f", "dq", "bw", "vl")), "-mfma", "-mf16c", "-mprefer-vector-width=512"]
X86 = {
    "avx512": AVX512,
    "avx2": AVX2,
    "x86_64_v2": ["-msse4.2", "-mpopcnt"],
    "zen4": AVX512,
    "amx_fp32": [*AVX512, "-mamx-tile", "-mamx-bf16"],
    "amx_bf16": [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
    "amx_int8": [*AVX512, "-mamx-tile", "-mamx-int8"],
    "avx512_bf16": [*AVX512, "-mavx512bf16"],
    "avx512_int8": [*AVX512, "-mavx512vnni"],
    "avx2_int8": [*AVX2, "-mavxvnni"],
}
ARM = {"neon": []}
# _PYTHON_HOST_PLATFORM, such as linux-aarch64, names the target of a cross-compiler (docs/install.md).
MACHINE = platform.machine().lower()
if "_PYTHON_HOST_PLATFORM" in os.environ:
    MACHINE = sysconfig.get_platform().rpartition("-")[2]
STUBS = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}.get(MACHINE)
if STUBS is None:
    sys.exit(f"mobilesam's kernels are written for x86-64 and AArch64, not for {MACHINE}")
if sys.platform == "darwin":  # a universal Python would compile for both CPUs at once
    os.environ.setdefault("ARCHFLAGS", f"-arch {MACHINE}")

# MOBILESAM_SANITIZE: "1" builds with ASan and UBSan, "thread" with TSan. UBSan's checks `null` and `object-size` find
# what ASan finds too, and triple the time of the build.
SANITIZERS = {
    "": [],
    "1": [
        "-fsanitize=address,undefined,float-cast-overflow",
        "-fno-sanitize=null,object-size",
        "-fno-sanitize-recover=all",
    ],
    "thread": ["-fsanitize=thread"],
}
SANITIZE = os.environ.get("MOBILESAM_SANITIZE", "")
if SANITIZE not in SANITIZERS:
    sys.exit(f"MOBILESAM_SANITIZE: expected 1 (ASan and UBSan), thread (TSan) or no value, got {SANITIZE!r}")
LINK = [] if sys.platform == "darwin" else ["-Wl,--strip-all"]
# Compiler flags that override flags before them: for Cython modules, and for micro-kernels of ISAs that this CPU has
# or lacks.
MODULE_FLAGS: list[str] = []
HOST_FLAGS: list[str] = []
OTHER_FLAGS: list[str] = []
if SANITIZE:
    LINK = SANITIZERS[SANITIZE]
    MODULE_FLAGS = [*LINK, "-O0", "-g1", "-fno-omit-frame-pointer"]
    OTHER_FLAGS = ["-O0"]
    # Micro-kernels only touch memory that a module gives to one thread, so TSan watches the modules. An encoding would
    # take minutes otherwise.
    HOST_FLAGS = [*LINK, "-O1", "-g1", "-fno-omit-frame-pointer"] if SANITIZE == "1" else []

HEADERS = sorted(map(str, Path(MICRO).glob("*.h")))
MODULES = sorted(Path("kernels").rglob("*.pyx"))


def runs_here(flags: list[str]) -> bool:
    """Whether the CPU has all instructions of the compiler flags, such as -mavx2. True if Linux does not list them."""
    cpuinfo = Path("/proc/cpuinfo")
    has = set(cpuinfo.read_text().replace("_", "").split()) if cpuinfo.exists() else set()
    needs = {re.sub("[-.]", "", flag.removeprefix("-m")) for flag in flags if not flag.startswith("-mprefer")}
    return not has or needs <= has


def openmp_works(compiler) -> bool:
    """Whether a program that uses OpenMP compiles and links. Always False if MOBILESAM_OPENMP is 0."""
    if os.environ.get("MOBILESAM_OPENMP") == "0":
        return False
    compiler = copy(compiler)
    compiler.set_libraries([])  # the probe does not need the libraries of the micro-kernels
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
        try:
            objects = compiler.compile([str(source)], output_dir="/", extra_postargs=["-fopenmp"])
            compiler.link_executable(objects, "probe", output_dir=folder, extra_postargs=["-fopenmp"])
        except Exception:
            return False
    return True


# The oldest major versions of compilers that were measured and make fast kernels (docs/performance.md).
OLDEST_FAST = {"clang": 17, "gcc": 11}


def warn_of_slow_compiler(compiler) -> None:
    """Warn if the compiler is older than the oldest version in OLDEST_FAST. An unknown version is accepted."""
    command = [*compiler.compiler, "-dM", "-E", "-x", "c", os.devnull]
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    versions = {name: int(number) for name, number in re.findall(r"#define __(clang_major|GNUC)__ (\d+)", text)}
    name = "clang" if "clang_major" in versions else "gcc"  # Clang defines __GNUC__ too
    version = versions.get("clang_major", versions.get("GNUC", OLDEST_FAST[name]))
    if version < OLDEST_FAST[name]:
        fast = " and ".join(f"{known} {oldest}" for known, oldest in OLDEST_FAST.items())
        print(f"mobilesam: warning: {name} {version} makes slow kernels: use {fast}, or newer", file=sys.stderr)


def chosen_compiler(name: str | None) -> str | None:
    """Return setuptools' name for the kind of compiler. On Windows, only GCC and Clang are accepted."""
    if sys.platform != "win32":
        return name
    if name not in (None, "mingw32"):
        sys.exit(
            f"mobilesam's kernels use GCC's vector extensions, which {name} lacks. Expected no --compiler option, and "
            "the environment variable CC=clang or CC=gcc, of MSYS2 or llvm-mingw"
        )
    return "mingw32"


class BuildLibraries(build_clib):
    """build_clib that uses all cores, and rebuilds every micro-kernel library when a header changes."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.compiler = chosen_compiler(self.compiler)

    def build_libraries(self, libraries) -> None:
        warn_of_slow_compiler(self.compiler)
        for _, info in libraries:
            info["obj_deps"] = {"": HEADERS}
        Path(self.build_temp, MICRO).mkdir(
            parents=True, exist_ok=True
        )  # setuptools would create it in several threads at once
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(super().build_libraries, [[library] for library in libraries]))


class BuildExtensions(build_ext):
    """build_ext that uses all cores, and OpenMP if the compiler has it."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()
        self.compiler = chosen_compiler(self.compiler)

    def build_extensions(self) -> None:
        if sys.platform == "win32":
            self.compiler.dll_libraries = []  # setuptools would link the library of MSVC's runtime
        if openmp_works(self.compiler):
            for extension in self.extensions:
                extension.extra_compile_args.append("-fopenmp")
                extension.extra_link_args.append("-fopenmp")
        else:
            print("mobilesam: built without OpenMP: the kernels will run on one thread", file=sys.stderr)
        super().build_extensions()


extensions = [
    Extension(
        ".".join(["mobilesam", *path.with_suffix("").parts]),
        [str(path)],
        include_dirs=[MICRO],
        depends=HEADERS,
        # Only MSVC lets Python's headers for Windows find out that pointers have 64 bits.
        define_macros=[("MS_WIN64", "1")] if sys.platform == "win32" else [],
        extra_compile_args=["-O2", "-std=gnu11", "-Wno-unused-function", "-g0", *MODULE_FLAGS],
        extra_link_args=LINK.copy(),
    )
    for path in MODULES
]


def packages() -> dict[str, str]:
    """The folder of each package, by the package's name."""
    folders = [Path(root) for root in ("mobilesam", "kernels", "weights")]
    found = [path.parent for root in folders for path in root.rglob("__init__.py")]
    return {".".join(["mobilesam", *(part for part in path.parts if part != "mobilesam")]): str(path) for path in found}


setup(
    packages=sorted(packages()),
    package_dir=packages(),
    include_package_data=False,  # MANIFEST.in lists sources for the sdist, which must not be installed
    package_data={
        "mobilesam": ["py.typed"],
        **{name: ["*.pyi"] for name in packages() if name.startswith("mobilesam.kernels")},
        "mobilesam.serve": ["page/*"],
        "mobilesam.weights": ["*.safetensors", "README.md", "LICENSE*"],
    },
    libraries=[
        (
            f"mobilesam_{name}",
            {
                "sources": [f"{MICRO}/{name}.c"],
                "include_dirs": [MICRO],
                "cflags": CFLAGS + flags + (HOST_FLAGS if runs_here(flags) else OTHER_FLAGS),
            },
        )
        for name, flags in STUBS.items()
    ],
    ext_modules=cythonize(
        extensions,
        include_path=["kernels"],
        build_dir="build/cython",
        language_level=3,
        compiler_directives={
            "boundscheck": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": True,
            "freethreading_compatible": True,
        },
    ),
    cmdclass={"build_clib": BuildLibraries, "build_ext": BuildExtensions},
)
