"""Which micro-kernels run: every ISA compiled in, those this CPU and OS support, and the one in force.

The choice is made at import: the best that is supported, or the one that ``MOBILESAM_ISA`` names. Weights packed under
one ISA (see :func:`mobilesam.kernels.pack`) keep running under it whatever is in force later.
"""
import os

from cpython.pycapsule cimport PyCapsule_New

cdef extern from "dispatch.h" nogil:
    """
    #include "thread_memory.h"
    static int active_table = 0;
    static runtime shared;
    static void share_runtime(void)
    {
        make_tables(cpu_supports());
        shared.tables = tables;
        shared.active = &active_table;
        shared.scratch = scratch_get;
        shared.guards = getenv("MOBILESAM_GUARDS") != NULL;
    }
    """
    ctypedef struct micro:
        int vl, mr, nr
    ctypedef struct isa_entry:
        const char *name
    const isa_entry *isas
    const micro *tables
    const int isa_count
    const int PRECISIONS
    const int has_openmp
    int CPU_SSE42, CPU_AVX2_FMA, CPU_AVX512, CPU_NEON, CPU_AVX512_BF16, CPU_AVX512_VNNI, CPU_AVX_VNNI, CPU_AMX_BF16, CPU_AMX_INT8, CPU_ADDS_BESIDE
    int cpu_supports()
    bint isa_has(int i, int precision, int features)
    int memory_init()
    ctypedef struct runtime:
        pass
    runtime shared
    void share_runtime()
    int active_table

if memory_init():
    raise MemoryError("no thread-specific storage is left for the kernels' memory")
share_runtime()
_runtime = PyCapsule_New(&shared, "mobilesam.kernels.core.isa._runtime", NULL)

cdef int _supported = cpu_supports()
_names = tuple(isas[i].name.decode() for i in range(isa_count))
_precisions = ("fp32", "bf16", "int8")
_available = tuple(_names[i] for i in range(isa_count) if isa_has(i, 0, _supported))


def available() -> tuple[str, ...]:
    """The ISAs this build has and this CPU and OS support, best first."""
    return _available


def precisions(name: str | None = None) -> tuple[str, ...]:
    """The precisions that products with packed weights have under ISA ``name``, by default the one in force."""
    place = index(name) // PRECISIONS
    return tuple(p for i, p in enumerate(_precisions) if isa_has(place, i, _supported))


def current() -> str:
    """The ISA in force for calls on unpacked arrays and for weights packed from now on."""
    return _names[active_table // PRECISIONS]


def index(name: str | None = None, precision: str = "fp32") -> int:
    """The place of ISA ``name`` (default: the one in force) and a precision in the tables; what packed weights remember.

    Raises ValueError for a precision that the ISA, on this CPU, does not have.
    """
    first = active_table if name is None else _names.index(_checked(name, "mobilesam.kernels.isa")) * PRECISIONS
    if precision == "fp32":
        return first
    if precision not in precisions(name):
        raise ValueError(
            f"precision: expected {' or '.join(map(repr, precisions(name)))}, which {name or current()} has on this CPU, "
            f"got {precision!r}"
        )
    return first + _precisions.index(precision)


def name_of(table: int) -> str:
    """The ISA of a place in the tables, such as packed weights remember."""
    return _names[table // PRECISIONS]


def panel_width(name: str | None = None) -> int:
    """Columns of a float32 weight's panel (NR) under ISA ``name``, by default the one in force."""
    return tables[<int>index(name)].nr


def register_tile(name: str | None = None) -> tuple[int, int, int]:
    """(MR, NR, VL) of ISA ``name``: the GEMM tile's rows and columns, and the floats of a vector."""
    cdef const micro *u = &tables[<int>index(name)]
    return u.mr, u.nr, u.vl


def openmp() -> bool:
    """Whether this build runs kernels on several threads."""
    return bool(has_openmp)


def cpu_features() -> tuple[str, ...]:
    """What the kernels look for and this CPU and OS have."""
    flags = {"sse4.2": CPU_SSE42, "avx2+fma": CPU_AVX2_FMA, "avx512": CPU_AVX512, "avx512-bf16": CPU_AVX512_BF16,
             "avx512-vnni": CPU_AVX512_VNNI, "adds-beside-fma": CPU_ADDS_BESIDE, "avx-vnni": CPU_AVX_VNNI, "amx-bf16": CPU_AMX_BF16,
             "amx-int8": CPU_AMX_INT8, "neon": CPU_NEON}
    return tuple(name for name, flag in flags.items() if _supported & flag)


def _checked(name: str, asker: str) -> str:
    if name not in available():
        known = "this CPU lacks it" if name in _names else "not an ISA of this build"
        raise RuntimeError(f"{asker}: {name!r}: {known}; available here: {', '.join(available()) or 'none'}")
    return name


class use:
    """Put ISA ``name`` in force, for good, or until the end of a ``with`` block.

    Raises RuntimeError, naming what there is, if the build lacks it or the CPU or OS does not support it.
    """

    def __init__(self, name: str) -> None:
        global active_table
        self._before = active_table
        active_table = _names.index(_checked(name, "mobilesam.kernels.isa.use")) * PRECISIONS

    def __enter__(self) -> str:
        return current()

    def __exit__(self, *_: object) -> None:
        global active_table
        active_table = self._before


_wanted = os.environ.get("MOBILESAM_ISA")
if _wanted:
    use(_checked(_wanted, "MOBILESAM_ISA"))
elif available():
    use(available()[0])
else:
    raise RuntimeError("mobilesam needs a CPU with at least SSE4.2 and POPCNT (x86-64-v2)")
