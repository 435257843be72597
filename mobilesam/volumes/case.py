"""A case: a medical volume or picture with 8-bit values, its boxes, and the way to write its labels."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..util.console import shortened
from ..util.files import whole_file

Labels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
_LOGGER = "nibabel.global"  # nibabel attaches a handler that prints to stderr


class CaseError(ValueError):
    """A file cannot be read as a case. The message is one line: the file, the problem, and what is accepted."""


@dataclass(frozen=True, eq=False)
class Case:
    """A medical volume or picture.

    Attributes:
        name: The name of the file or folder, without extensions.
        image: (D, H, W) for a volume, (H, W) or (H, W, 3) for a picture.
        shape: The shape of the labels: (D, H, W) for a volume, (H, W) for a picture.
        boxes: The boxes in the file as they were written: (N, 6) with x0 y0 z0 x1 y1 z1 for a volume, (N, 4) with
            x0 y0 x1 y1 for a picture. None if the file has none. See `boxes.checked_boxes`.
        suffix: The extension of the output file, ".npz" or ".nii.gz".
        encode: Converts labels to the bytes of the output file.
    """

    name: str
    image: NDArray[np.uint8]
    shape: tuple[int, ...]
    boxes: NDArray[np.int64] | None
    suffix: str
    encode: Callable[[Labels], bytes]

    @property
    def is_volume(self) -> bool:
        """Whether the case is a volume, and not a picture."""
        return len(self.shape) == 3

    def write(self, labels: Labels, path: Path) -> None:
        """Write labels, in their own dtype, to a file whose name should end in `suffix`. The write is atomic.

        Raises:
            OSError: The file cannot be written.
            ValueError: The labels have another shape than `shape`, or another dtype than uint8 and uint16.
        """
        if labels.shape != self.shape or labels.dtype not in (np.uint8, np.uint16):
            expected = f"labels of shape {self.shape} in uint8 or uint16"
            raise ValueError(f"expected {expected}, got shape {labels.shape} in {labels.dtype}")
        content = self.encode(labels)
        with whole_file(path) as partial:
            partial.write_bytes(content)


def needed(package: str, purpose: str) -> ModuleType:
    """Import an optional package. Raises ModuleNotFoundError with the command that installs the package."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        message = f"{purpose} needs a package: pip install 'mobilesam[medical]'"
        raise ModuleNotFoundError(message, name=package) from None


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn every error inside the block into a CaseError, because readers raise errors of many types for damaged data.

    Errors of the operating system pass through. Warnings are ignored.

    Args:
        path: The file, for the message.
        kind: The expected kind of file, for the message, such as "a NIfTI file".
    """
    logger = logging.getLogger(_LOGGER)
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except CaseError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # an error of the operating system, whose message names the file
        reason = shortened(str(error)) or type(error).__name__
        if isinstance(error, MemoryError):
            raise CaseError(f"{path}: does not fit into memory, or is damaged: {reason}") from None
        raise CaseError(f"{path}: damaged, or not {kind}: {reason}") from None
    finally:
        logger.disabled = disabled
