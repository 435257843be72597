"""The server's limits, and its errors. The response to a refused request is always JSON: `{"error": "a sentence"}`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.exceptions import HTTPException

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Upper limits for requests, and for the images that the server keeps.

    Attributes:
        upload_bytes: largest size of an uploaded photo, in bytes.
        held_bytes: largest total size of the requests in progress, in bytes.
        pixels: most pixels of an image.
        decoders: number of processes that decode uploads.
        decode_seconds: longest time of decoding an image.
        decode_bytes: largest address space of a process that decodes, in bytes. Not limited on Windows and macOS.
        json_bytes: largest size of a request body that is not a photo, in bytes.
        images: most images that the server keeps.
        idle_seconds: how long the server keeps an image after its last use.
        requests: most requests in progress.
        places: most tasks of one kind that may run or wait.
        image_places: most tasks of one kind for one image that may run or wait.
        stall_seconds: longest wait for the next bytes of a request.
        upload_seconds: longest time for a whole request to arrive.
    """

    upload_bytes: int = 64 * MIB
    held_bytes: int = 512 * MIB
    pixels: int = 64_000_000
    decoders: int = 2
    decode_seconds: float = 20.0
    decode_bytes: int = 2048 * MIB
    json_bytes: int = 8 * MIB
    images: int = 16
    idle_seconds: float = 3600.0
    requests: int = 128
    places: int = 32
    image_places: int = 8
    stall_seconds: float = 20.0
    upload_seconds: float = 300.0


class Refused(HTTPException):
    """A refused request, with the status and the sentence of the response."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, sentence, headers)


class Overloaded(Refused):
    """A request that is refused (503) because the server has too many requests. The client should try again later."""

    def __init__(self, what: str, seconds: int = 1) -> None:
        super().__init__(503, f"{what}; try again in {seconds} s", {"Retry-After": str(seconds)})
