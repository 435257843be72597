"""Random changes to the bytes of a file, and checksums that fit the changed bytes."""

import re
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random

MOST_BYTES = 1 << 20  # size of the largest input, unless the valid file is larger
INTEGERS = (0, 1, -1, 127, 128, 255, 256, 32767, 32768, 65535, 65536)
INTEGERS += tuple(sign * (1 << bits) + step for bits in (31, 32, 62, 63) for sign in (1, -1) for step in (-1, 0, 1))
TEXTS = tuple(map(str, INTEGERS))
TEXTS += ("1e308", "-1e999", "0.5", "NaN", "Infinity", "9" * 400, "9" * 5000, "", "true", "null", '"', "[", "{}", "-0")
_NUMBER = re.compile(rb"-?\d+(\.\d+)?")

Mutation = Callable[[bytearray, Sequence[bytes], Random], None]


def mutate(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """Change data at one to eight places.

    Args:
        data: A valid file.
        others: Files whose parts may be inserted.
        rng: The random numbers. They decide everything.
    """
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 8))):
        rng.choice(MUTATIONS)(changed, others, rng)
        del changed[max(MOST_BYTES, len(data)) :]
    return bytes(changed)


def _place(data: bytearray, rng: Random) -> int:
    """A position, half of the time among the first 256, where most files have their header."""
    end = min(len(data), 256) if rng.random() < 0.5 else len(data)
    return rng.randrange(end) if end else 0


def _block(data: bytearray, rng: Random) -> slice:
    start = _place(data, rng)
    return slice(start, start + rng.choice((1, 2, 4, 8, 16, 64, 256, 4096)))


def _flip_bit(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    if data:
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _set_byte(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    if data:
        data[_place(data, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 10, 32, 34, rng.randrange(256)))


def _write_integer(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    size, start = rng.choice((1, 2, 4, 8)), _place(data, rng)
    value = rng.choice(INTEGERS) % (1 << 8 * size)
    data[start : start + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _delete(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    del data[_block(data, rng)]


def _truncate(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    del data[_place(data, rng) :]


def _insert(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    start = _place(data, rng)
    data[start:start] = rng.randbytes(rng.choice((1, 2, 4, 16, 200)))


def _fill(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    block = _block(data, rng)
    data[block] = bytes([rng.choice((0, 0xFF, 0x80, rng.randrange(256)))]) * len(data[block])


def _copy(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    block, start = data[_block(data, rng)], _place(data, rng)
    data[start : start + len(block) * rng.randrange(2)] = block  # inserted, or written over what is there


def _repeat(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    block = data[_block(data, rng)]
    if block:
        start, count = _place(data, rng), rng.choice((2, 10, 1000, 100_000))
        data[start:start] = block * min(count, MOST_BYTES // len(block))


def _splice(data: bytearray, others: Sequence[bytes], rng: Random) -> None:
    """Go on with the end of another file."""
    other = bytearray(rng.choice(others)) if others else data
    data[_place(data, rng) :] = other[_place(other, rng) :]


def _change_number(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    """Replace a number that is written as text."""
    numbers = list(_NUMBER.finditer(data[:65536]))
    if numbers:
        first, end = rng.choice(numbers).span()
        data[first:end] = rng.choice(TEXTS).encode()


MUTATIONS: tuple[Mutation, ...] = (
    _flip_bit, _set_byte, _write_integer, _write_integer, _delete, _truncate, _insert, _fill, _copy, _repeat, _splice,
    _change_number,
)  # fmt: skip


def with_png_checksums(data: bytes) -> bytes:
    """A PNG file with the checksums of its chunks, as far as the chunks can be followed."""
    fixed, place = bytearray(data), 8
    while place + 12 <= len(fixed):
        end = place + 8 + int.from_bytes(fixed[place : place + 4], "big")
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = zlib.crc32(fixed[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(fixed)


def with_zip_checksums(data: bytes) -> bytes:
    """A zip file with the checksums of its stored records, as far as its directory can be followed."""
    fixed, entry = bytearray(data), data.find(b"PK\1\2")
    while entry >= 0 and entry + 46 <= len(fixed):
        size, place = struct.unpack_from("<I", fixed, entry + 20)[0], struct.unpack_from("<I", fixed, entry + 42)[0]
        if place + 30 <= len(fixed) and fixed[place : place + 4] == b"PK\3\4":
            names = struct.unpack_from("<HH", fixed, place + 26)
            start = place + 30 + sum(names)
            checksum = zlib.crc32(fixed[start : start + size]).to_bytes(4, "little")
            fixed[entry + 16 : entry + 20] = fixed[place + 14 : place + 18] = checksum
        entry = data.find(b"PK\1\2", entry + 4)
    return bytes(fixed)
