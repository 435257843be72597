"""Writes hostile checkpoint files of less than 1 MB: each aims at quadratic time, much memory, or recursion in C."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import processes
from checkpoint_files import (
    EXPECTED,
    TWELVE,
    Global,
    Storage,
    dump,
    encode,
    rebuild,
    write_legacy,
    write_zip,
)

SECONDS, MEGABYTES = 2, 200  # of a CPU, and of memory beyond that of the imports
READ = """
import json, resource, sys, time, warnings
{imports}
from mobilesam.checkpoints import reader
from mobilesam.checkpoints.errors import CheckpointError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)

warnings.simplefilter("ignore")
before, start = peak(), time.process_time()
try:
    reader.read({source!r})
except CheckpointError as error:
    print(json.dumps([str(error), time.process_time() - start, peak() - before]))
"""

SIZE = 900_000  # bytes, for the part of a file that is as long as the limit allows
ANCHOR = "mask_decoder.iou_token.weight"  # a name for which a mapping counts as a model


def read(*paths: Path, first: str = "") -> tuple[str, float, float]:
    """Read a checkpoint in a new process, which must raise CheckpointError.

    Args:
        paths: The file, or the two files of an ONNX pair.
        first: A module to import before the measurement.

    Returns:
        The message, the time of the CPU in seconds, and the growth of the peak memory in MB.
    """
    source = str(paths[0]) if len(paths) == 1 else list(map(str, paths))
    message, seconds, megabytes = json.loads(
        processes.output(READ.format(source=source, imports=f"import {first}" if first else ""))
    )
    return message, seconds, megabytes


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


TENSOR = encode(rebuild(Storage("0", TWELVE), 0, (12,), (1,)))
START = b"\x80\x02"
OPCODES = 95_000  # about as many as a small file may have


def nested_key(path: Path) -> Path:
    """A dict's key is a deeply nested tuple, whose hash overflows the C stack."""
    return write_zip(path, START + b"}(N" + b"\x85" * OPCODES + b"K\x01u.", {})


def nested_storage_key(path: Path) -> Path:
    """The same as one of the storages' keys in the legacy format."""
    keys = START + b"](N" + b"\x85" * OPCODES + b"e."
    path.write_bytes(write_legacy(path, {}).read_bytes().replace(pickle.dumps([], 2), keys))
    return path


def nested_persistent_id(path: Path) -> Path:
    """Persistent ids and objects in one another, whose destructor could recurse."""
    return write_zip(path, START + b"N" + b"\x85Q" * (OPCODES // 2) + b".", {})


def nested_records(path: Path) -> Path:
    """Objects in one another."""
    return write_zip(path, START + b"ca\nb\nq\x000)" + b"q\x010h\x00h\x01R\x85" * (OPCODES // 6) + b".", {})


def duplicates(path: Path) -> Path:
    """Each DUP and TUPLE2 doubles the value's size when it is formatted."""
    return write_zip(path, START + b"N" + b"2\x86" * 60 + b".", {})


def method_of_ordered_dict(path: Path) -> Path:
    return write_zip(path, START + b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.", {})


def equal_hashes(path: Path) -> Path:
    """Numbers of equal hashes as a dict's keys."""
    numbers = b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(1, OPCODES // 2))
    return write_zip(path, START + b"}(" + numbers + b"u.", {})


def deep_dicts(path: Path) -> Path:
    """Deeply nested dicts with a long key each, and a tensor in each."""
    count = OPCODES // 7
    start = START + TENSOR + b"q\x000" + text("k" * 100) + b"q\x010" + text("t") + b"q\x020"
    return write_zip(path, start + b"}h\x02h\x00sh\x01" * count + b"N" + b"s" * count + b".", {})


def long_rebuild_chain(path: Path) -> Path:
    """Many keys refer to one long chain of _rebuild_parameter."""
    chain = (
        b"ctorch._utils\n_rebuild_parameter\nq\x000" + TENSOR + b"q\x010" + b"h\x00h\x01\x85Rq\x010" * (OPCODES // 12)
    )
    keys = b"".join(text(str(i)) + b"h\x01" for i in range(OPCODES // 4))
    return write_zip(path, START + chain + b"}(" + keys + b"u.", {})


def shared_pairs(path: Path) -> Path:
    """Many OrderedDicts share a long list of pairs."""
    pairs = (
        b"](" + text("a") + b"N\x86q\x00" + b"h\x00" * (OPCODES // 4) + b"e\x85q\x010ccollections\nOrderedDict\nq\x020"
    )
    return write_zip(path, START + pairs + b"](" + b"h\x02h\x01R" * (OPCODES // 5) + b"e.", {})


def shared_list_that_is_no_pairs(path: Path) -> Path:
    pairs = (
        b"](" + text("a") + b"N\x86q\x00" + b"h\x00" * (OPCODES // 4) + b"Ne\x85q\x010ccollections\nOrderedDict\nq\x020"
    )
    return write_zip(path, START + pairs + b"](" + b"h\x02h\x01R" * (OPCODES // 5) + b"e.", {})


def shared_shape(path: Path) -> Path:
    """All tensors of the model share a shape with many axes."""
    axes = b"(" + b"K\x01" * (OPCODES // 2) + b"tq\x000"
    storage = encode(Storage("0", TWELVE)) + b"q\x010ctorch._utils\n_rebuild_tensor_v2\nq\x020"
    record = b"h\x02(h\x01K\x00h\x00h\x00\x89NtR"
    names = b"".join(text(name) + record for name in EXPECTED)
    return write_zip(path, START + axes + storage + b"}(" + names + b"u.", {"0": TWELVE.tobytes()})


def many_prefixes(path: Path) -> Path:
    """Each name has a prefix of its own, as if the mapping held many models."""
    names = b"".join(text(f"{i}.{ANCHOR}") + b"h\x00" for i in range(20_000))
    return write_zip(path, START + TENSOR + b"q\x000}(" + names + b"u.", {})


def nested_prefixes(path: Path) -> Path:
    """All names fit each of many prefixes."""
    shared = b"".join(text("a." * i + ANCHOR) + b"h\x00" for i in range(100))
    names = b"".join(text("a." * 100 + str(i)) + b"h\x00" for i in range(3_500))
    return write_zip(path, START + TENSOR + b"q\x000}(" + shared + names + b"u.", {})


def many_mappings(path: Path) -> Path:
    """Many mappings, each with one tensor of the model."""
    start = START + TENSOR + b"q\x000" + text(ANCHOR) + b"q\x010]("
    return write_zip(path, start + b"}h\x01h\x00s" * (OPCODES // 4) + b"e.", {})


def long_shared_name(path: Path) -> Path:
    """Many mappings share a very long name."""
    start = START + TENSOR + b"q\x000" + text(ANCHOR) + b"q\x010" + text(".bn" * 150_000) + b"q\x020]("
    return write_zip(path, start + b"}(h\x01h\x00h\x02h\x00u" * (OPCODES // 7) + b"e.", {})


def legacy_of_many_opcodes(path: Path) -> Path:
    """Each of the pickles has as many opcodes as it may."""
    data = write_legacy(path, {}).read_bytes()
    many = START + b"N0" * (OPCODES // 2) + b"N."
    path.write_bytes(data[: data.index(dump({}), 1)] + many + many)
    return path


def legacy_of_many_keys(path: Path) -> Path:
    """All storages' keys are the same one."""
    data = write_legacy(path, {"x": TWELVE}).read_bytes()
    keys = START + b"](" + text("0") + b"q\x00" + b"h\x00" * (OPCODES - 100) + b"e."
    path.write_bytes(data.replace(pickle.dumps(["0"], 2), keys) + bytes(600_000))
    return path


def long_number(path: Path) -> Path:
    """A number that takes long to format."""
    return write_zip(path, START + b"}" + text("a") + b"\x8b" + struct.pack("<I", SIZE) + b"\x7f" * SIZE + b"s.", {})


def decimal_number(path: Path) -> Path:
    return write_zip(path, b"L" + b"9" * SIZE + b"L\n.", {})


def long_storage_tuple(path: Path) -> Path:
    """A storage's key is a long list, and every tensor refers to it."""
    storage = (
        b"(" + encode("storage") + encode(Global("torch", "FloatStorage")) + b"](" + b"N" * (OPCODES // 2) + b"eK\x01tQ"
    )
    names = b"".join(text(name) + b"h\x00" for name in EXPECTED)
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x01\x85K\x01\x85\x89NtRq\x000"
    return write_zip(path, START + rebuilt + b"}(" + names + b"u.", {})


def every_tensor_from_one_storage(path: Path) -> Path:
    """Tensors of all shapes of the model are views of one storage."""
    storage = Storage("0", np.zeros(600_000, np.int8), kind="CharStorage")
    state = {}
    for name, shape in EXPECTED.items():
        state[name] = rebuild(storage, 0, shape, tuple(np.cumprod((1, *shape[:0:-1]))[::-1].tolist()))
    return write_zip(path, dump(state), {"0": bytes(600_000)})


def overlapping_entries(path: Path) -> Path:
    """The entries of all storages have the same data."""
    write_zip(path, dump({}), {str(i): b"" for i in range(1000)} | {"x": bytes(800_000)})
    data = bytearray(path.read_bytes())
    last = data.rindex(b"PK\x01\x02")
    place = data.index(b"PK\x01\x02")
    while place < last:  # give each entry the sizes, checksum and place of the last one
        after = place + 46 + sum(struct.unpack_from("<3H", data, place + 28))
        if b"/data/" in data[place:after]:
            data[place + 16 : place + 28] = data[last + 16 : last + 28]
            data[place + 42 : place + 46] = data[last + 42 : last + 46]
        place = after
    path.write_bytes(data)
    return path


def entry_over_headers(path: Path) -> Path:
    """An entry's data reaches over the header of the next entry, and not to its data."""
    write_zip(path, dump({}), {"0": TWELVE.tobytes(), "1": TWELVE.tobytes()})
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    first = data.index(b"PK\x01\x02", first + 1)  # of the storage 0
    for field in (20, 24):
        struct.pack_into("<I", data, first + field, 48 + 20)
    path.write_bytes(data)
    return path


def many_entries(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(8_000):
            archive.writestr(f"{i:x}", b"")
    return path


def extra_fields(path: Path) -> Path:
    """Entries with extra fields of 64 KB, in many small parts."""
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(6):
            info = zipfile.ZipInfo(f"{i}/data.pkl")
            info.extra = b"\x99\x99\0\0" * 16_000
            archive.writestr(info, b"")
    return path


def compressed_bomb(path: Path) -> Path:
    return write_zip(path, bytes(500_000_000), {}, zipfile.ZIP_DEFLATED)


def tensor_file(header: bytes, data: bytes = b"") -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(struct.pack("<Q", len(header)) + header + data)
        return path

    return write


def _entries(count: int, entry: str) -> bytes:
    return ("{" + ",".join(f'"{i:x}":{entry}' for i in range(count)) + "}").encode()


def index_of(text: str) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        index = path.with_name("model.safetensors.index.json")
        index.write_text(text)
        return index

    return write


def shards_of_many_tensors(path: Path) -> Path:
    """Every tensor is in one file, and the shapes of this file are wanted for every tensor."""
    names = [f"{i:x}" for i in range(8_000)]
    entry = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    tensor_file(("{" + ",".join(f'"{name}":{entry}' for name in names) + "}").encode())(path.with_name("s"))
    return index_of(json.dumps({"weight_map": dict.fromkeys(names, "s")}))(path)


EMPTY = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
FILES: dict[str, Callable[[Path], Path]] = {
    "nested key": nested_key,
    "nested storage key": nested_storage_key,
    "nested persistent id": nested_persistent_id,
    "nested records": nested_records,
    "duplicates": duplicates,
    "method of OrderedDict": method_of_ordered_dict,
    "equal hashes": equal_hashes,
    "deep dicts": deep_dicts,
    "long rebuild chain": long_rebuild_chain,
    "shared pairs": shared_pairs,
    "shared list that is no pairs": shared_list_that_is_no_pairs,
    "shared shape": shared_shape,
    "many prefixes": many_prefixes,
    "nested prefixes": nested_prefixes,
    "many mappings": many_mappings,
    "long shared name": long_shared_name,
    "legacy of many opcodes": legacy_of_many_opcodes,
    "legacy of many keys": legacy_of_many_keys,
    "long number": long_number,
    "decimal number": decimal_number,
    "long storage tuple": long_storage_tuple,
    "every tensor from one storage": every_tensor_from_one_storage,
    "overlapping entries": overlapping_entries,
    "entry over headers": entry_over_headers,
    "many entries": many_entries,
    "extra fields": extra_fields,
    "compressed bomb": compressed_bomb,
    "deep header": tensor_file(b'{"a":' * 150_000 + b"1" + b"}" * 150_000),
    "many tensors": tensor_file(_entries(15_000, EMPTY)),
    "many lists": tensor_file(b'{"a":[' + b"[]," * 300_000 + b"1]}"),
    "long number in a header": tensor_file(b'{"a":' + b"9" * SIZE + b"}"),
    "header of many prefixes": tensor_file(
        ("{" + ",".join(f'"{i}.{ANCHOR}":{EMPTY}' for i in range(9_000)) + "}").encode()
    ),
    "a name twice": tensor_file(f'{{"a":{EMPTY},"a":{EMPTY}}}'.encode()),
    "overlapping tensors": tensor_file(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    "a shape that overflows": tensor_file(
        f'{{"{ANCHOR}":{{"dtype":"F32","shape":[{2**61},8],"data_offsets":[0,0]}}}}'.encode()
    ),
    "a negative size": tensor_file(b'{"a":{"dtype":"F32","shape":[-1,-1],"data_offsets":[0,4]}}', bytes(4)),
    "a bool as a size": tensor_file(b'{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', bytes(4)),
    "offsets beyond the file": tensor_file(b'{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,900000000000]}}'),
    "shards of many tensors": shards_of_many_tensors,
    "deep index": index_of("[" * 400_000),
    "index with a null byte": index_of('{"weight_map":{"x":"a\\u0000b"}}'),
    "index with a new line": index_of('{"weight_map":{"x":"a\\nb"}}'),
    "index with a surrogate": index_of('{"weight_map":{"x":"\\ud800"}}'),
    "index with a long name": index_of(json.dumps({"weight_map": {"x": "a" * SIZE}})),
}
