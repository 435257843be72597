"""Small files that claim much work: they are refused before they are decoded, and usual files near them are read."""

import io
import struct
import zlib

import numpy as np
import pytest
from noise import noise
from PIL import Image

from mobilesam.images.errors import DamagedImage, NotAnImage, TooManyPixels
from mobilesam.images.limits import MOST_MARKERS, MOST_SCANS, MOST_SEGMENTS, check_jpeg
from mobilesam.images.photo import open_rgb

tifffile = pytest.importorskip("tifffile")

LIMIT = 1_000_000  # pixels
NONE, JPEG, DEFLATE, PNG = 1, 7, 8, 34933  # compressions of TIFF
EMPTY_SCAN = bytes.fromhex("ffda0008 010100 013f00")  # coefficients 1 to 63 of the first component, without data


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LIMIT // 2)  # Pillow's limit is twice this value


def tiff(
    size: tuple[int, int],
    segments: list[bytes],
    tile: tuple[int, int] | None = None,
    *,
    compression: int = DEFLATE,
    bits: int = 8,
    big: bool = False,
    order: str = "<",
    rows: int = 2**32 - 1,
    shared: int = 1,
    claimed: int | None = None,
    extra: tuple[tuple[int, int], ...] = (),
) -> bytes:
    """A gray TIFF file of a width and height, with tiles of a width and height, or strips of `rows`.

    Each segment is used `shared` times, with `claimed` bytes. `extra` are further tags with their values.
    """
    word, start = ("Q", 16) if big else ("I", 8)
    offsets = [start + sum(map(len, segments[:i])) for i in range(len(segments))] * shared
    counts = [len(segment) if claimed is None else claimed for segment in segments] * shared
    tags = [(256, [size[0]]), (257, [size[1]]), (258, [bits]), (259, [compression]), (262, [1]), (277, [1])]
    if tile:
        tags += [(322, [tile[0]]), (323, [tile[1]]), (324, offsets), (325, counts)]
    else:
        tags += [(273, offsets), (278, [rows]), (279, counts)]
    tags = sorted([*tags, (339, [3 if bits > 16 else 1]), *((tag, [value]) for tag, value in extra)])
    body = b"".join(segments)
    directory = start + len(body)
    entries, arrays = b"", b""
    far = (
        directory + struct.calcsize(order + ("Q" if big else "H")) + len(tags) * (20 if big else 12) + (8 if big else 4)
    )
    for tag, values in tags:
        data = struct.pack(f"{order}{len(values)}I", *values)
        if len(data) > struct.calcsize(word):
            data, arrays = struct.pack(order + word, far + len(arrays)), arrays + data
        entries += struct.pack(f"{order}HH{word}", tag, 4, len(values)) + data.ljust(struct.calcsize(word), b"\0")
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}HHHQ", 43, 8, 0, directory) if big else struct.pack(f"{order}HI", 42, directory)
    number = struct.pack(order + ("Q" if big else "H"), len(tags))
    return mark + head + body + number + entries + bytes(struct.calcsize(word)) + arrays


def zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


def jpeg(*, progressive: bool = True) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(32, 32)).save(file, "JPEG", progressive=progressive)
    return file.getvalue()


def with_scans(count: int, *, sides: tuple[int, int] = (32, 32), between: bytes = b"") -> bytes:
    """A progressive JPEG file with 10 usual scans and then `count` without data. `sides` is what its header claims."""
    data = jpeg()
    frame = data.index(b"\xff\xc2") + 5
    data = data[:frame] + struct.pack(">HH", *sides) + data[frame + 4 :]
    return data[:-2] + (EMPTY_SCAN + between) * count + data[-2:]


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 64])  # Pillow reads 8 bits, tifffile 64
def test_a_tile_counts_as_pixels(big, order, bits):
    side = 1024
    with pytest.raises(TooManyPixels, match="1 tile of 1024x1024 pixels, and the limit is 1000000"):
        open_rgb(tiff((1, 1), [zeros(side * side * bits // 8)], (side, side), bits=bits, big=big, order=order))
    side = 512
    small = tiff((1, 1), [zeros(side * side * bits // 8)], (side, side), bits=bits, big=big, order=order)
    assert open_rgb(small).size == (1, 1)


@pytest.mark.parametrize("bits", [8, 64])
def test_all_tiles_together_count_as_pixels(bits):
    wide = tiff((16 * 2000, 1), [zeros(16 * 1024 * bits // 8)], (16, 1024), bits=bits, shared=2000, claimed=8)
    with pytest.raises(TooManyPixels, match="2000 tiles of 16x1024 pixels"):
        open_rgb(wide)


def test_tiles_may_extend_beyond_the_image():
    image = noise(990, 1000)[..., 0]
    file = io.BytesIO()
    tifffile.imwrite(file, image, tile=(256, 512), compression="zlib")  # 1024x1024 pixels with the border
    np.testing.assert_array_equal(np.asarray(open_rgb(file))[..., 0], image)


@pytest.mark.parametrize("bits", [8, 64])
def test_rows_of_a_strip_beyond_the_image_are_no_pixels(bits):
    assert open_rgb(tiff((1000, 2), [zeros(2000 * bits // 8)], bits=bits)).size == (1000, 2)


@pytest.mark.parametrize("tag", [322, 323])
def test_a_tag_of_the_layout_that_occurs_twice(tag):
    with pytest.raises(DamagedImage, match=f"the TIFF tag {tag} occurs twice"):
        open_rgb(tiff((1, 1), [zeros(1 << 22)], (2048, 2048), extra=((tag, 16),)))


def test_strips_that_overlap_in_the_file():
    row = zlib.compress(bytes(80)).ljust(1000)
    with pytest.raises(DamagedImage, match="tiles or strips overlap: they have 600000 bytes"):
        open_rgb(tiff((10, 600), [row], bits=64, rows=1, shared=600, claimed=1000))


def test_very_many_strips():
    count = MOST_SEGMENTS + 1
    with pytest.raises(DamagedImage, match=f"{count} tiles or strips; at most {MOST_SEGMENTS}"):
        open_rgb(tiff((1, count), [bytes(8)], bits=64, rows=1, shared=count, claimed=8))


@pytest.mark.parametrize("tiled", [False, True])
def test_pictures_in_a_tiff_file_count_with_their_own_size(tiled):
    file = io.BytesIO()
    Image.new("L", (1000, 900)).save(file, "PNG")
    tile = (16, 16) if tiled else None
    with pytest.raises(TooManyPixels, match="2700000 pixels"):
        open_rgb(tiff((16, 48), [file.getvalue()] * 3, tile, compression=PNG, rows=16))


@pytest.mark.parametrize("scans", [MOST_SCANS - 11, MOST_SCANS - 9])  # libtiff itself refuses 100
@pytest.mark.parametrize("kind", ["file", "bytes", "tiff", "float tiff", "mpo"])
def test_scans_of_a_jpeg_file(tmp_path, kind, scans):
    data = with_scans(scans)
    if kind == "tiff":
        data = (
            tiff((32, 32), [data], compression=JPEG, extra=((284, 1),))
            .replace(struct.pack("<HHII", 262, 4, 1, 1), struct.pack("<HHII", 262, 4, 1, 6))
            .replace(struct.pack("<HHII", 277, 4, 1, 1), struct.pack("<HHII", 277, 4, 1, 3))
        )
    elif kind == "float tiff":
        data = tiff((32, 32), [data], compression=JPEG, bits=64)
    elif kind == "mpo":
        file = io.BytesIO()
        Image.new("RGB", (32, 32)).save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
        header = file.getvalue()
        data = header[: header.index(b"\xff\xdb")] + data[data.index(b"\xff\xdb") :]
    (tmp_path / "a").write_bytes(data)
    image = tmp_path / "a" if kind == "file" else data
    if scans == MOST_SCANS - 9:
        with pytest.raises(DamagedImage, match=f"{MOST_SCANS + 1} scans in JPEG data of 32x32 pixels; at most 100 are"):
            open_rgb(image)
    else:
        assert open_rgb(image, value_range=(0, 255)).size == (32, 32)


def test_a_large_image_may_have_fewer_scans():
    assert check_jpeg(with_scans(10, sides=(1000, 1000)), LIMIT) == (1000, 1000, 20)
    with pytest.raises(DamagedImage, match="21 scans in JPEG data of 1000x1000 pixels; at most 20 are"):
        open_rgb(with_scans(11, sides=(1000, 1000)))


def test_scans_are_counted_as_a_decoder_reads_them():
    assert check_jpeg(jpeg(), LIMIT) == (32, 32, 10)
    assert check_jpeg(jpeg(progressive=False), LIMIT) == (32, 32, 1)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 3000) + b"\xff\xda\xff" * 1000
    data = jpeg()
    assert check_jpeg(data[:2] + comment + data[2:], LIMIT)[2] == 10  # bytes in a segment are no markers
    assert check_jpeg(data + data, LIMIT)[2] == 10  # a second picture in the file
    assert check_jpeg(data + EMPTY_SCAN * 1000, LIMIT)[2] == 10  # the end of the image ends the scans
    single = jpeg(progressive=False)
    assert check_jpeg(single[:-2] + EMPTY_SCAN * 1000, LIMIT)[2] == 1  # a sequential scan of all components is the last
    # A first scan of one component means further scans, of which a later one may have all components.
    start = single.index(b"\xff\xda")
    first = bytes.fromhex("ffda0008 010100 003f00")
    with pytest.raises(DamagedImage, match="scans"):
        check_jpeg(single[:start] + first + single[start:-2] + first * 1000, LIMIT)


def test_very_many_markers():
    with pytest.raises(DamagedImage, match=f"more than {MOST_MARKERS} markers"):
        open_rgb(with_scans(1, between=b"\xff\xfe\0\2" * MOST_MARKERS))


def test_without_a_limit_on_pixels(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    side = 1024
    for bits in (8, 64):
        assert open_rgb(tiff((1, 1), [zeros(side * side * bits // 8)], (side, side), bits=bits)).size == (1, 1)
    with pytest.raises(DamagedImage, match="scans"):
        open_rgb(with_scans(MOST_SCANS))


def with_tag(data: bytes, tag: int, kind: int, value: bytes) -> bytes:
    """The TIFF file with another type and value of a tag that has one value."""
    directory = struct.unpack_from("<I", data, 4)[0]
    for i in range(struct.unpack_from("<H", data, directory)[0]):
        entry = directory + 2 + 12 * i
        if struct.unpack_from("<H", data, entry)[0] == tag:
            return data[: entry + 2] + struct.pack("<HI", kind, 1) + value.ljust(4, b"\0") + data[entry + 12 :]
    raise AssertionError(tag)


def test_a_side_of_a_tile_in_bytes_is_refused():
    """Pillow reads a tag of the type BYTE as bytes, and libtiff as a number."""
    data = with_tag(tiff((1, 1), [zeros(256)], (16, 16)), 322, 1, b"\x10")
    with pytest.raises(DamagedImage, match="tiles of "):
        open_rgb(data)


@pytest.mark.parametrize("tag", [324, 325])
def test_negative_places_and_sizes_of_tiles_are_refused(tag):
    file = jpeg(progressive=False)
    data = with_tag(tiff((32, 32), [file], (32, 32), compression=JPEG), tag, 9, struct.pack("<i", -1))
    with pytest.raises(ValueError, match="negative"):
        open_rgb(data)


@pytest.mark.parametrize(
    "start", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xc5\xd0\xd3\xc6" + bytes(26)]
)
def test_eps_is_refused_because_ghostscript_would_run_it(start, tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    (tmp_path / "photo.png").write_bytes(start)
    for file in (tmp_path / "photo.png", start, io.BytesIO(start)):
        with pytest.raises(NotAnImage, match="EPS is a program"):
            open_rgb(file)


@pytest.mark.parametrize("high", [1e-310, 1e-307])
def test_values_that_hardly_differ_are_refused(high):
    with pytest.raises(ValueError, match="must differ by at least"):
        open_rgb(np.array([[0.0, high]]), value_range="minmax")


def test_values_that_span_more_than_float64_are_refused():
    with pytest.raises(ValueError, match="must span a finite float64 range"):
        open_rgb(np.array([[-1.7e308, 1.7e308]]), value_range="minmax")
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        open_rgb(np.array([[0, 1e300]]))
