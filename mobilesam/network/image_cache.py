"""A cache of the maps (channel-major projections) of recently used images."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import cast

from ..util.deferred import ForkSafeLock, Once
from .parameters import F32


class ImageCache:
    """The low-rank form's maps (linear projections) of up to ``limit`` images, by the identity of the features array.

    The maps of an image take 27 MB. The first thread that needs the maps of an image computes them, while other threads
    wait. The maps are freed when the features are freed, or when ``limit`` other images were used more recently. Freed
    maps are computed again when a prompt needs them.

    Attributes:
        limit: maximum number of images whose maps are kept.
    """

    def __init__(self, limit: int, make: Callable[[F32], F32]) -> None:
        self.limit, self._make, self._lock = limit, make, ForkSafeLock()
        self._images: OrderedDict[int, tuple[weakref.ref[F32], Once[F32]]] = OrderedDict()

    def __call__(self, features: F32) -> F32:
        key = id(features)
        with self._lock:
            found = self._images.get(key)
            if found is None or found[0]() is not features:
                kept = weakref.ref(features, lambda _: self._forget(key))
                found = self._images[key] = kept, Once(lambda: self._make(cast(F32, kept())))
            self._images.move_to_end(key)
            while len(self._images) > self.limit:
                self._images.popitem(last=False)
        return found[1]()

    def _forget(self, key: int) -> None:
        # Takes no lock, because the interpreter may call this method in a thread that holds the lock.
        found = self._images.get(key)
        if found is not None and found[0]() is None:
            self._images.pop(key, None)
