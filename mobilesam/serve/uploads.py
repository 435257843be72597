"""The three forms of an upload: the bytes of the file, a form with the file, and JSON with the file in base64."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.requests import Request

from .limits import Refused

FORMS = (
    "the bytes of the file as the body (curl --data-binary @photo.jpg), a form (curl -F file=@photo.jpg), or JSON "
    '{"image": "<base64 or data URL>"}'
)
_DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
_MOST_MARKS = 1000  # more brackets, commas or quotes in JSON would take much memory


@dataclass(frozen=True)
class Upload:
    """An uploaded file.

    Attributes:
        read: returns the bytes of the file. It decodes base64, so it runs in a worker thread. Raises Refused.
        name: file name, without folders. Empty if the client sent none.
        declared: whether the request's Content-Type says that the body is an image file.
    """

    read: Callable[[], bytes]
    name: str = ""
    declared: bool = False


async def receive(request: Request) -> Upload:
    """Receive an upload in the form that the request's Content-Type names. Every other type is taken as bytes.

    Raises:
        Refused: 422 if a form has no file.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form(max_files=1, max_fields=100) as form:
            file = next((value for value in form.values() if isinstance(value, UploadFile)), None)
            if file is None:
                raise Refused(422, "the form has no file: send one, such as with curl -F file=@photo.jpg")
            data = await file.read()
            return Upload(lambda: data, re.split(r"[/\\]", file.filename or "")[-1])
    body = await request.body()
    if kind == "application/json":
        return Upload(lambda: _from_json(body))
    return Upload(lambda: body, declared=kind == "application/octet-stream" or kind.startswith("image/"))


def _from_json(body: bytes) -> bytes:
    """The bytes of the file in JSON. Raises Refused, 400 if the body is not JSON and 422 if it is not as expected."""
    if sum(map(body.count, (b"{", b"[", b",", b'"'))) > _MOST_MARKS:
        raise Refused(400, 'the JSON has too many parts: expected {"image": "<base64 or data URL>"}')
    try:
        content = json.loads(body)
    except (RecursionError, ValueError):
        raise Refused(400, "the body is not JSON, as its Content-Type says") from None
    text = content.get("image") if isinstance(content, dict) else None
    if not isinstance(text, str):
        raise Refused(422, 'expected {"image": "<base64 or data URL>"}')
    try:
        start = _DATA_URL.match(text := text.lstrip())
        plain = text[start.end() if start else 0 :].encode("ascii").translate(None, b" \t\n\r")
        return base64.b64decode(plain, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, "image: expected the file in base64, or a data URL with ;base64") from None
