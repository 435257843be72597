"""The encoded images that clients may ask about: bounded in number and in time."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from mobilesam.api.model import Embedding

from .limits import Refused


@dataclass(frozen=True, eq=False)
class Photo:
    """An image as uploaded, `data`, and encoded."""

    data: bytes
    embedding: Embedding

    @property
    def width(self) -> int:
        return self.embedding.original_size[1]

    @property
    def height(self) -> int:
        return self.embedding.original_size[0]


class PhotoStore:
    """At most `images` photos, each until `idle_seconds` after its last use; the one used longest ago goes first.

    Ids cannot be guessed: whoever has one may use the photo. For one thread, the event loop's.
    """

    def __init__(self, images: int, idle_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.images, self.idle_seconds, self._clock = images, idle_seconds, clock
        self._kept: OrderedDict[str, tuple[float, Photo]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, photo: Photo) -> str:
        """Keep the photo; its id."""
        self.expire()
        while len(self._kept) >= self.images:
            self._kept.popitem(last=False)
        identity = secrets.token_urlsafe(16)
        self._kept[identity] = (self._clock(), photo)
        return identity

    def get(self, identity: str) -> Photo:
        """The photo, used now. Raises Refused (404)."""
        self.expire()
        if identity not in self._kept:
            raise self._unknown()
        _, photo = self._kept[identity]
        self._kept[identity] = (self._clock(), photo)
        self._kept.move_to_end(identity)
        return photo

    def remove(self, identity: str) -> None:
        """Let go of the photo. Raises Refused (404)."""
        self.expire()
        if self._kept.pop(identity, None) is None:
            raise self._unknown()

    def expire(self) -> None:
        """Let go of the photos whose time is over."""
        oldest = self._clock() - self.idle_seconds
        while self._kept and next(iter(self._kept.values()))[0] < oldest:
            self._kept.popitem(last=False)

    def _unknown(self) -> Refused:
        kept = f"the last {self.images} images are kept, each for {self.idle_seconds / 60:g} min after its last use"
        return Refused(404, f"no image of this id is held ({kept}): upload it again")
