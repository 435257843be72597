"""What the server takes, and how a request is refused: always JSON with a sentence, `{"error": "..."}`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.exceptions import HTTPException

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds on what a client may ask for, and on what the server keeps.

    upload_bytes and pixels of a photo; json_bytes of any other request; held_bytes of all requests under way, and the
    number of these; images kept at once, each for idle_seconds after its last use; places in the queue before each kind
    of work, of which one image may hold image_places; stall_seconds without a byte from a client, and upload_seconds
    for a whole request.
    """

    upload_bytes: int = 64 * MIB
    held_bytes: int = 512 * MIB
    pixels: int = 64_000_000
    json_bytes: int = 8 * MIB
    images: int = 16
    idle_seconds: float = 3600.0
    requests: int = 128
    places: int = 32
    image_places: int = 8
    stall_seconds: float = 20.0
    upload_seconds: float = 300.0


class Refused(HTTPException):
    """A request that is answered with this status and sentence."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, sentence, headers)


class Overloaded(Refused):
    """503: nothing wrong with the request, but too many others came first."""

    def __init__(self, what: str, seconds: int = 1) -> None:
        super().__init__(503, f"{what}; try again in {seconds} s", {"Retry-After": str(seconds)})
