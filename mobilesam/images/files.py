"""Decoding of image files. Pillow decodes, with `pillow-heif` for HEIC and `tifffile` for unusual TIFF files.

This module does not import NumPy.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from ..util.messages import plain
from . import limits
from .errors import DamagedImage, NotAnImage, TooManyPixels
from .value_range import FEW_LEVELS, USED_SHARE, Bands, ValueRange

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PIXELS_VARIABLE = "MOBILESAM_MAX_PIXELS"
KINDS = {".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF"}  # formats that Pillow may not know
NEEDED = {"AVIF": "AVIF needs Pillow 11.3 or newer", "HEIF": "HEIC needs pillow-heif: pip install 'mobilesam[heif]'"}
SAMPLE_FORMAT = 339  # TIFF's tag; 1 means unsigned
_SIGNATURE = 12  # bytes at the start of a file that tell TIFF and HEIF apart
_EPS = (b"%!PS", b"\xc5\xd0\xd3\xc6")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TRANSPOSE = {  # by the EXIF orientation; all other values are taken as upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    file: str | IO[bytes],
    name: str,
    value_range: ValueRange = "dtype",
    bands: Bands | None = None,
    *,
    formats: Iterable[str] | None = None,
    most_pixels: int | None = None,
) -> Image.Image | NDArray[np.generic]:
    """Decode the first frame of an image file, upright.

    Args:
        file: The path, or a file object.
        name: Name of the file, for messages.
        value_range: The caller's value range. It decides whether Pillow's 8 bits of a 16-bit colour TIFF are enough.
        bands: The caller's bands. They are bands of the file, so a TIFF file with chosen bands is read by `tifffile`.
        formats: Pillow's names of the accepted formats. None for all formats.
        most_pixels: The largest number of pixels accepted. None for Pillow's limit alone.

    Returns:
        A loaded PIL image of any mode, or the array of a TIFF file that Pillow cannot read.

    Raises:
        OSError: The file cannot be opened.
        NotAnImage, TooManyPixels, DamagedImage: These errors are ValueErrors.
    """
    if not isinstance(file, str) and not _can_seek(file):
        file = io.BytesIO(file.read())
    try:
        return _decode(file, name, value_range, bands, formats, most_pixels)
    except (NotAnImage, TooManyPixels):
        raise
    except MemoryError:
        raise MemoryError(f"no memory to decode image {name}") from None
    except Image.DecompressionBombError as error:
        limit = f"to allow it, raise PIL.Image.MAX_IMAGE_PIXELS, or on the command line {MAX_PIXELS_VARIABLE}"
        raise TooManyPixels(f"cannot decode image {name}: {str(error).rstrip('.')}; {limit}") from None
    except Exception as error:  # decoders raise errors of a dozen types for damaged data
        if isinstance(file, str) and isinstance(error, OSError) and error.filename is not None:
            raise  # an error of the operating system, whose message names the file
        raise DamagedImage(f"cannot decode image {name}: {plain(str(error)) or type(error).__name__}") from error


def _can_seek(file: IO[bytes]) -> bool:
    try:
        file.seek(0)
    except (AttributeError, OSError):  # a file object needs no method seek
        return False
    return True


def ignore_logged_errors() -> None:
    """Let Pillow and tifffile log no errors to stderr, for commands and the server. The errors are raised too."""
    for name in ("PIL", "tifffile"):
        logging.getLogger(name).addHandler(logging.NullHandler())


def _decode(
    file: str | IO[bytes],
    name: str,
    value_range: ValueRange,
    bands: Bands | None,
    formats: Iterable[str] | None,
    most_pixels: int | None,
) -> Image.Image | NDArray[np.generic]:
    if _start(file).startswith(_EPS):
        raise NotAnImage(f"{name}: EPS is a program for Ghostscript, which is not run; convert the file to PNG")
    try:
        picture = _open(file, None if formats is None else tuple(formats))
    except UnidentifiedImageError:
        start = _start(file)
        if start.startswith(_TIFF) and (formats is None or "TIFF" in formats):
            return _read_tiff(file, name, bands, most_pixels)
        raise NotAnImage(f"not an image that Pillow can read: {name}{_remedy(start)}") from None
    with picture:  # a file object of the caller stays open
        if most_pixels is not None and picture.width * picture.height > most_pixels:
            size = f"{picture.width}x{picture.height} pixels"
            raise TooManyPixels(f"{name}: the image has {size}, more than {most_pixels}, the limit")
        reduced = _is_reduced(picture)
        if picture.format == "TIFF" and _needs_tifffile(picture, reduced and value_range != "dtype", bands):
            return _read_tiff(file, name, bands, most_pixels)
        if reduced and value_range != "dtype":
            raise NotAnImage(
                f"{name}: Pillow reads 8 bits of each colour in {picture.format}, and a value range needs all bits: "
                "convert the file to TIFF, or pass an array"
            )
        _check_work(picture, name, limits.pixel_limit(most_pixels))
        # Without a file name, Pillow does not map the file into memory.
        # If another process truncates a mapped file, reading the map kills this process.
        picture.filename = ""
        upright = _load_upright(picture)
        if reduced and value_range == "dtype":
            colours = 1 if upright.mode == "LA" else 3
            lows, highs = zip(*upright.getextrema()[:colours])  # without alpha
            if 0 < max(highs) - min(lows) < 256 // USED_SHARE:
                warnings.warn(FEW_LEVELS.format(name), UserWarning, stacklevel=2)
        return upright


def _open(file: str | IO[bytes], formats: tuple[str, ...] | None) -> ImageFile.ImageFile:
    """Open a file with Pillow, and if no plugin knows the format, once more with pillow-heif's plugin."""
    try:
        return Image.open(file, formats=formats)  # for a path, Pillow first tries the plugin for the extension
    except UnidentifiedImageError:
        if _start(file)[4:8] != b"ftyp" or not register_heif():
            raise
        return Image.open(file, formats=formats)


def register_heif() -> bool:
    """Register pillow-heif's plugin with Pillow. Returns False if pillow-heif is not installed."""
    try:
        import pillow_heif
    except ModuleNotFoundError:
        return False
    pillow_heif.register_heif_opener()
    with suppress(AttributeError):
        pillow_heif.register_avif_opener()  # exists in versions for a Pillow without AVIF
    return True


def _start(file: str | IO[bytes]) -> bytes:
    """The first bytes of the file. A file object is at its start afterwards."""
    if isinstance(file, str):
        with open(file, "rb") as opened:  # noqa: PTH123 (the path is a string)
            return opened.read(_SIGNATURE)
    file.seek(0)
    start = file.read(_SIGNATURE)
    file.seek(0)
    return start


def _remedy(start: bytes) -> str:
    """What to do about a file that begins with these bytes, if there is something to do."""
    if start[4:8] != b"ftyp" or start[8:12] not in _HEIF_BRANDS:
        return ""
    kind = "AVIF" if start[8:11] == b"avi" else "HEIF"
    return "; the file is damaged" if kind in Image.OPEN else f"; {NEEDED[kind]}"


_HEIF_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def _needs_tifffile(picture: Image.Image, lost_bits: bool, bands: Bands | None) -> bool:
    """Whether Pillow reads other values of a TIFF file than the caller asks for."""
    if picture.mode == "P":
        return False  # the bands of a palette are those of its colours
    unsigned = picture.mode == "I" and getattr(picture, "tag_v2", {}).get(SAMPLE_FORMAT, (1,))[0] == 1
    return bands is not None or lost_bits or unsigned  # Pillow reads unsigned 32-bit values as signed


def _read_tiff(file: str | IO[bytes], name: str, bands: Bands | None, most_pixels: int | None) -> NDArray[np.generic]:
    from . import tiff  # imported here, because it imports NumPy

    if not isinstance(file, str):
        file.seek(0)
    return tiff.read(file, name, bands, limits.pixel_limit(most_pixels))


def _check_work(picture: ImageFile.ImageFile, name: str, limit: int | None) -> None:
    """Check the work of decoding, which the image's size does not bound for TIFF and JPEG."""
    file = picture.fp
    if file is None:
        return
    position = file.tell()
    if picture.format == "TIFF":
        limits.check_tiff(picture, name, limit)  # type: ignore[arg-type]
    elif picture.format in ("JPEG", "MPO"):
        file.seek(0)
        limits.check_jpeg(file.read(), limit)
    file.seek(position)


def _is_reduced(picture: Image.Image) -> bool:
    """Whether Pillow reads only 8 bits of each channel of a colour image with more bits.

    Colour JPEG 2000 files are taken to have more, because Pillow does not tell.
    """
    if picture.mode not in ("RGB", "RGBA", "RGBX", "LA", "CMYK"):
        return False
    tiles = getattr(picture, "tile", ())
    wide_ppm = any(tile[0].startswith("ppm") and tile[3][-1] > 255 for tile in tiles)
    return picture.format == "JPEG2000" or wide_ppm or any(";16" in str(tile[3]) for tile in tiles)


def _load_upright(picture: Image.Image) -> Image.Image:
    """Decode the pixels, and turn them by the EXIF orientation. EXIF that cannot be read means upright."""
    read_exif = type(picture).getexif
    # The EXIF block of a PNG may follow the pixels, but a TIFF file is closed after its pixels.
    before = _orientation(picture, read_exif) if picture.format == "TIFF" else None
    # Pillow's plugins also read and rewrite EXIF while they decode. Damaged EXIF would then end the decoding.
    nothing = Image.Exif()
    picture.getexif = lambda: nothing  # type: ignore[method-assign]
    picture.load()
    orientation = before if picture.format == "TIFF" else _orientation(picture, read_exif)
    return picture.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else picture


def _orientation(picture: Image.Image, read_exif: object) -> int | None:
    try:
        orientation = read_exif(picture).get(ExifTags.Base.Orientation)  # type: ignore[operator]
    except Exception:  # damaged EXIF raises errors of a dozen types
        return None
    return orientation if isinstance(orientation, int) else None


def readable_extensions() -> set[str]:
    """The extensions, with a dot and in lower case, of the image files that can be read here."""
    Image.init()
    register_heif()
    return {extension for extension, name in Image.EXTENSION.items() if name in Image.OPEN}


def why_not_readable(extension: str) -> str:
    """Why a file with this extension cannot be read here."""
    if extension in KINDS:
        return NEEDED[KINDS[extension]]
    return f"{extension or 'no extension'} is not an extension of an image"
