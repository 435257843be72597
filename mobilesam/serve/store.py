"""The store of encoded images. Their number and their time in the store are limited."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from mobilesam.api.embedding import Embedding

from .limits import Refused


@dataclass(frozen=True, eq=False)
class StoredPhoto:
    """An uploaded image.

    Attributes:
        data: bytes of the uploaded file.
        embedding: the encoded image.
    """

    data: bytes
    embedding: Embedding

    @property
    def width(self) -> int:
        return self.embedding.original_size[1]

    @property
    def height(self) -> int:
        return self.embedding.original_size[0]


class PhotoStore:
    """A store of photos. Only the thread of the event loop may use the store.

    A photo's id cannot be guessed. Any client that knows the id may use the photo.

    Args:
        images: largest number of photos. If the store is full, the least recently used photo is removed.
        idle_seconds: how long a photo is kept after its last use.
        clock: returns the time in seconds.
    """

    def __init__(self, images: int, idle_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.images, self.idle_seconds, self._clock = images, idle_seconds, clock
        self._kept: OrderedDict[str, tuple[float, StoredPhoto]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, photo: StoredPhoto) -> str:
        """Keep a photo, and return its id."""
        self.expire()
        while len(self._kept) >= self.images:
            self._kept.popitem(last=False)
        identity = secrets.token_urlsafe(16)
        self._kept[identity] = (self._clock(), photo)
        return identity

    def get(self, identity: str) -> StoredPhoto:
        """Return a photo, and count this as a use of the photo. Raises Refused (404) if there is no such photo."""
        self.expire()
        if identity not in self._kept:
            raise self._unknown()
        _, photo = self._kept[identity]
        self._kept[identity] = (self._clock(), photo)
        self._kept.move_to_end(identity)
        return photo

    def remove(self, identity: str) -> None:
        """Remove a photo. Raises Refused (404) if there is no such photo."""
        self.expire()
        if self._kept.pop(identity, None) is None:
            raise self._unknown()

    def expire(self) -> None:
        """Remove the photos that were last used more than `idle_seconds` ago."""
        oldest = self._clock() - self.idle_seconds
        while self._kept and next(iter(self._kept.values()))[0] < oldest:
            self._kept.popitem(last=False)

    def _unknown(self) -> Refused:
        minutes = self.idle_seconds / 60
        kept = f"the server keeps the last {self.images} images, each for {minutes:g} min after its last use"
        return Refused(404, f"the server has no image of this id: upload it again ({kept})")
