"""Selects the instruction set (ISA) whose micro-kernels run.

At import, the current ISA becomes the best supported ISA, or the ISA that ``MOBILESAM_ISA`` names. A kernel
with a weight that was packed for one ISA (see ``mobilesam.kernels.pack``) always runs on this ISA, whichever ISA is current.
"""
import os

from cpython.pycapsule cimport PyCapsule_New

from mobilesam.kernels.core.check import shortened

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
# The indices of the tables whose micro-kernels this CPU runs. Packed weights store such an index.
_tables = frozenset(i * PRECISIONS + p for i in range(isa_count) for p in range(PRECISIONS) if isa_has(i, p, _supported))


def available() -> tuple[str, ...]:
    """Return the ISAs that this build has and that the CPU and the OS support, best first."""
    return _available


def precisions(name=None):
    """Return the precisions of products that ISA ``name`` has on this CPU. None is the current ISA."""
    place = index(name) // PRECISIONS
    return tuple(p for i, p in enumerate(_precisions) if isa_has(place, i, _supported))


def current() -> str:
    """Return the name of the current ISA. Calls with unpacked weights run on the current ISA, and `pack` packs weights for it."""
    return _names[active_table // PRECISIONS]


def index(name=None, precision="fp32"):
    """Return the index of the micro-kernel table of an ISA and a precision. Packed weights store this index.

    Args:
        name: The ISA's name, or None for the current ISA.
        precision: "fp32", "bf16" or "int8".

    Raises:
        RuntimeError: The build or the CPU lacks the ISA.
        ValueError: On this CPU, the ISA lacks the precision.
    """
    first = active_table if name is None else _names.index(_checked(name, "mobilesam.kernels.isa")) * PRECISIONS
    if isinstance(precision, str) and precision == "fp32":
        return first
    if not isinstance(precision, str) or precision not in precisions(name):
        raise ValueError(
            f"precision: expected {' or '.join(map(repr, precisions(name)))}, which {name or current()} has on this CPU, "
            f"got {shortened(precision)}"
        )
    return first + _precisions.index(precision)


def check_table(table, name, kind, *, precisions=_precisions):
    """Raise ValueError unless this CPU runs the micro-kernels of the table with index ``table``.

    Args:
        table: The field ``isa`` of a packed weight. A weight packed on another CPU or by another build may have an index that this CPU cannot run.
        name: The argument's name in error messages.
        kind: The packed weight's type in error messages.
        precisions: The precisions that the argument may be packed in.
    """
    if type(table) is int and table in _tables and _precisions[table % PRECISIONS] in precisions:
        return
    got = f"table {shortened(table)}"
    if type(table) is int and 0 <= table < isa_count * PRECISIONS:
        got = f"{kind} for {_names[table // PRECISIONS]} in {_precisions[table % PRECISIONS]}"
    raise ValueError(f"{name}: expected {kind} packed for an ISA of this CPU ({', '.join(_available)}) in {' or '.join(precisions)}, "
                     f"got {got}: pack the weight again")


def name_of(table: int) -> str:
    """Return the name of the ISA of the micro-kernel table with index ``table``. A packed weight's ``isa`` is such an index."""
    return _names[table // PRECISIONS]


def panel_width(name=None):
    """Return NR, the columns of a float32 panel on ISA ``name``. None is the current ISA."""
    return tables[<int>index(name)].nr


def register_tile(name=None):
    """Return (MR, NR, VL): rows and columns of the GEMM's register tile, and floats in a vector. None is the current ISA."""
    cdef const micro *u = &tables[<int>index(name)]
    return u.mr, u.nr, u.vl


def cpu_features() -> tuple[str, ...]:
    """Return the CPU features that kernels use and that this CPU and OS support."""
    flags = {"sse4.2": CPU_SSE42, "avx2+fma": CPU_AVX2_FMA, "avx512": CPU_AVX512, "avx512-bf16": CPU_AVX512_BF16,
             "avx512-vnni": CPU_AVX512_VNNI, "adds-beside-fma": CPU_ADDS_BESIDE, "avx-vnni": CPU_AVX_VNNI, "amx-bf16": CPU_AMX_BF16,
             "amx-int8": CPU_AMX_INT8, "neon": CPU_NEON}
    return tuple(name for name, flag in flags.items() if _supported & flag)


def _checked(name, asker):
    if not isinstance(name, str) or name not in available():
        known = "this CPU lacks it" if isinstance(name, str) and name in _names else "not an ISA of this build"
        raise RuntimeError(f"{asker}: {shortened(name)}: {known}; available here: {', '.join(available()) or 'none'}")
    return name


class use:
    """Make ISA ``name`` current. As a context manager, restore the previous ISA at the end of the ``with`` block.

    Raises:
        RuntimeError: The build lacks the ISA, or the CPU or the OS does not support it. The message lists the available ISAs.
    """

    def __init__(self, name):
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
