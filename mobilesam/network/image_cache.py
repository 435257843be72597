"""The maps of the images that were last used, which the low-rank form starts from."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import cast

from ..util.deferred import ForkSafeLock, Once
from .parameters import F32


class ImageCache:
    """Maps of images by their features, at most ``limit`` of them, 27 MB each.

    The maps of an image are made once, by the first thread that asks for them, while others wait. They are let go with
    the features, or when others have taken their place, and made again when they are wanted again.
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
        # No lock: the interpreter may call this in a thread that holds it.
        found = self._images.get(key)
        if found is not None and found[0]() is None:
            self._images.pop(key, None)
