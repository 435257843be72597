"""Hostile pickles: random opcodes, and values that are deep, wide, shared or long."""

import pickle
import pickletools
import struct
from collections.abc import Callable
from random import Random

from .mutation import INTEGERS

_WORDS = ("torch", "_rebuild_tensor_v2", "torch._utils", "OrderedDict", "collections", "storage", "FloatStorage", "cpu")
_PREFIXES = {  # the length of an argument by pickletools' number for "the length precedes the argument"
    pickletools.TAKEN_FROM_ARGUMENT1: "<B",
    pickletools.TAKEN_FROM_ARGUMENT4: "<i",
    pickletools.TAKEN_FROM_ARGUMENT4U: "<I",
    pickletools.TAKEN_FROM_ARGUMENT8U: "<Q",
}
# Opcodes that build values, which are drawn more often than the others.
_COMMON = b"])}(NKMJXU]t\x85\x86\x87aesuRQcb0hq2\x88\x89"


def random_opcodes(rng: Random) -> bytes:
    """A pickle of random opcodes, most of them well formed."""
    codes = [_opcode(rng) for _ in range(rng.choice((1, 3, 10, 30, 100)))]
    return b"\x80\x02" + b"".join(codes) + b"." * (rng.random() < 0.95)


def _opcode(rng: Random) -> bytes:
    common = pickletools.code2op[chr(rng.choice(_COMMON))]
    opcode = common if rng.random() < 0.5 else rng.choice(pickletools.opcodes)
    code, argument = opcode.code.encode("latin-1"), opcode.arg
    if argument is None or opcode.code == ".":
        return code * (opcode.code != ".")
    if argument.n == pickletools.UP_TO_NEWLINE:
        lines = 2 if "pair" in argument.name else 1
        return code + "".join(f"{rng.choice((*_WORDS, '1', 'x', '00'))}\n" for _ in range(lines)).encode()
    if argument.n in _PREFIXES:
        text = rng.choice((*_WORDS, "", "9" * 300)).encode()
        length = len(text) if rng.random() < 0.9 else rng.choice(INTEGERS) % 128
        return code + struct.pack(_PREFIXES[argument.n], length % 128 if argument.n == -2 else length)[:8] + text
    value = rng.randrange(4) if rng.random() < 0.7 else rng.choice(INTEGERS) % (1 << 8 * argument.n)
    return code + value.to_bytes(argument.n, "little")


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _deep_list(rng: Random) -> bytes:
    depth = rng.choice((10, 900, 20_000))
    return b"]" * depth + b"N" + b"a" * depth


def _deep_tuple(rng: Random) -> bytes:
    return b"N" + rng.choice((b"\x85", b"N\x86")) * rng.choice((10, 900, 20_000))


def _deep_dict(rng: Random) -> bytes:
    depth = rng.choice((10, 900, 8_000))
    return (b"}" + _text(rng.choice(("k", "k" * 90, "\u00fc" * 40)))) * depth + b"N" + b"s" * depth


def _shared(rng: Random) -> bytes:
    """A tuple of two references to a tuple of two references, and so on: 2ⁿ leaves in n steps."""
    return b"K\1" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(rng.choice((5, 30, 100))))


def _cycle(_: Random) -> bytes:
    return b"]q\xc8h\xc8a"


def _long_integer(rng: Random) -> bytes:
    size = rng.choice((9, 200, 3000, 60_000))  # 60,000: Python does not print integers of more than 4,300 digits
    return b"\x8b" + struct.pack("<i", size) + b"\x7f" * size


def _long_text(rng: Random) -> bytes:
    return _text(rng.choice(("x\ny", "\x1b[2J", "\u2028", "a" * 100_000, "", "\0")))


def _record(rng: Random) -> bytes:
    return b"ctorch._utils\n_rebuild_parameter\n" + rng.choice((b")", b"N\x85", _deep_tuple(rng))) + b"R"


def _number(rng: Random) -> bytes:
    return pickle.dumps(rng.choice((*INTEGERS, 0.5, float("nan"), True, None, b"", ())), 2)[2:-1]


VALUES: tuple[Callable[[Random], bytes], ...] = (
    _deep_list, _deep_tuple, _deep_dict, _shared, _cycle, _long_integer, _long_text, _record, _number, _number, _number,
)  # fmt: skip


def hostile_value(rng: Random) -> bytes:
    """Opcodes that push a value which a reader does not expect."""
    return rng.choice(VALUES)(rng)


def with_hostile_value(pickled: bytes, placeholder: str, rng: Random) -> bytes:
    """A pickle in which a placeholder, written as a text, is replaced by a hostile value."""
    return pickled.replace(pickle.dumps(placeholder, 2)[2:-1].replace(b"q\x00", b""), hostile_value(rng))
