"""Uploads to `mobilesam serve` as bytes, as a form and as JSON. All forms give the same masks."""

import base64
import io
import json
import socket
import struct
import time

import pytest
from golden import PHOTOS
from PIL import Image, features
from serving import CHELSEA, JSON, picture, said

from mobilesam.bench.page import run_server
from mobilesam.masks import rle

pytest.importorskip("fastapi", reason="the extra serve is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")
from fastapi.testclient import TestClient  # noqa: E402

from mobilesam.serve.app import create_app  # noqa: E402
from mobilesam.serve.decoding import FORMATS  # noqa: E402

THREE_FORMS = ("curl --data-binary @photo.jpg", "curl -F file=@photo.jpg", '{"image": "<base64 or data URL>"}')
CAT = {"points": [[220, 140]]}


@pytest.fixture(scope="module")
def client(model):
    app = create_app(model)
    with TestClient(app, base_url="http://127.0.0.1:8642", raise_server_exceptions=False) as client:
        yield client


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def form(data: bytes, name: str = "photo.jpg", field: str = "file") -> dict:
    return {"files": {field: (name, data)}}


# For each form of an upload, the arguments of the client's method `post`.
FORMS = {
    "bytes": lambda data: {"content": data},
    "form": form,
    "base64": lambda data: {"json": {"image": base64_of(data)}},
    "base64 in lines": lambda data: {"json": {"image": base64.encodebytes(data).decode()}},
    "data URL": lambda data: {"json": {"image": f"data:image/png;base64,{base64_of(data)}"}},
}
each_form = pytest.mark.parametrize("arguments", FORMS.values(), ids=list(FORMS))


@each_form
def test_every_form_gives_the_same_masks(client, embedding, arguments):
    expected = embedding.segment([(220, 140)])
    answer = client.post("/api/images", **arguments(CHELSEA))
    assert answer.status_code == 201, answer.text
    assert (answer.json()["width"], answer.json()["height"]) == (451, 300)
    found = client.post(f"{answer.headers['location']}/masks", json={**CAT, "candidates": "all"}).json()["masks"]
    assert [mask["rle"] for mask in found] == [rle.compress(rle.encode(mask)) for mask in expected.masks]


@pytest.mark.parametrize("kind", [None, "image/png", "text/plain", "application/x-www-form-urlencoded", "nonsense"])
def test_the_bytes_may_have_any_other_content_type(client, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    assert client.post("/api/images", content=picture(64, 48), headers=headers).status_code == 201


@each_form
def test_bytes_that_are_no_image_are_refused_with_a_list_of_the_forms(client, arguments):
    answer = client.post("/api/images", **arguments(b"hello"))
    assert answer.status_code == 415
    assert [wanted for wanted in (*THREE_FORMS, *FORMATS) if wanted not in said(answer)] == []


@each_form
def test_an_empty_file_is_refused_with_a_list_of_the_forms(client, arguments):
    answer = client.post("/api/images", **arguments(b""))
    assert answer.status_code == 422
    assert [wanted for wanted in THREE_FORMS if wanted not in said(answer)] == []


def test_a_form_may_name_its_fields_as_it_likes(client):
    photo = picture(64, 48)
    assert client.post("/api/images", **form(photo, field="upload[]")).status_code == 201
    assert client.post("/api/images", data={"comment": "a rocket"}, **form(photo)).status_code == 201


def test_a_form_without_a_file_is_refused(client):
    answer = client.post("/api/images", files={"file": (None, "photo.jpg")})
    assert answer.status_code == 422
    assert "curl -F file=@photo.jpg" in said(answer)


WRONG_FORMS = {
    "no boundary": {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
    "no parts": {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=abc"}},
    "two files": {"files": [("a", ("a.jpg", CHELSEA)), ("b", ("b.jpg", CHELSEA))]},
}


@pytest.mark.parametrize("arguments", WRONG_FORMS.values(), ids=list(WRONG_FORMS))
def test_a_form_that_cannot_be_read_is_refused(client, arguments):
    answer = client.post("/api/images", **arguments)
    assert answer.status_code == 400
    assert said(answer)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 100_000, b'{"image":' * 100_000, b'{"image": "\xff"}', b"1" * 100_000, CHELSEA],
    ids=["nothing", "unfinished", "deep list", "deep object", "not UTF-8", "large number", "the file itself"],
)
def test_json_that_does_not_parse_is_refused(client, body):
    answer = client.post("/api/images", content=body, headers=JSON)
    assert answer.status_code == 400
    assert "JSON" in said(answer)


WRONG_JSON = {
    "no image": {},
    "a list": [base64_of(CHELSEA)],
    "another field": {"file": base64_of(CHELSEA)},
    "null": {"image": None},
    "a list of numbers": {"image": [137, 80, 78, 71]},
    "not base64": {"image": "photo.jpg"},
    "base64 without padding": {"image": "abc"},
    "not ASCII": {"image": "é"},
    "a lone surrogate": {"image": "\ud800"},
    "a data URL without base64": {"image": "data:image/png,abc"},
    "a URL": {"image": "https://sam.example.org/photo.jpg"},
}


@pytest.mark.parametrize("content", WRONG_JSON.values(), ids=list(WRONG_JSON))
def test_json_without_an_image_is_refused(client, content):
    answer = client.post("/api/images", content=json.dumps(content), headers=JSON)
    assert answer.status_code == 422
    assert "image" in said(answer)


@pytest.mark.parametrize("text", [" " * 100_000, "data:" * 20_000, "data:;base64" * 10_000], ids=lambda text: text[:12])
def test_the_time_to_read_json_is_proportional_to_its_size(client, text):
    start = time.monotonic()
    assert client.post("/api/images", json={"image": text}).status_code == 422
    assert time.monotonic() - start < 5


NAMES = {
    "cat.jpg": "cat.jpg",
    "photos/cat.jpg": "cat.jpg",
    "C:\\fakepath\\cat.jpg": "cat.jpg",
    "../../cat.jpg": "cat.jpg",
    "eine Katze ä.jpg": "eine Katze ä.jpg",
}


@pytest.mark.parametrize("name", NAMES)
def test_coco_has_the_file_name_of_the_form(client, name):
    place = client.post("/api/images", **form(CHELSEA, name)).headers["location"]
    assert coco_name(client, place) == NAMES[name]
    assert coco_name(client, place, file_name="other.png") == "other.png"


@pytest.mark.parametrize("kind", ["bytes", "base64", "data URL"])
def test_coco_without_a_file_name(client, kind):
    place = client.post("/api/images", **FORMS[kind](CHELSEA)).headers["location"]
    assert coco_name(client, place) == "image"
    assert coco_name(client, place, file_name="other.png") == "other.png"


def coco_name(client, place: str, **more) -> str:
    """Export an object of the image at this URL path as COCO JSON, and return the image's file name in the JSON."""
    answer = client.post(f"{place}/export", json={"format": "coco", "objects": [{"prompt": CAT}], **more})
    assert answer.status_code == 200, answer.text
    (image,) = answer.json()["images"]
    return image["file_name"]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_a_damaged_avif_is_refused(client):
    data = picture(64, 48, "AVIF")
    pixels = data.index(b"mdat") + 4
    damaged = data[:pixels] + bytes(len(data) - pixels)
    with pytest.raises(RuntimeError, match="Failed to decode"), Image.open(io.BytesIO(damaged)) as image:
        image.load()
    answer = client.post("/api/images", content=damaged)
    assert answer.status_code == 422
    assert "damaged" in said(answer)


def exif_block(orientation: int) -> bytes:
    """An EXIF block with this orientation, and with a text in XResolution, which must be a number."""
    text = b"seventy-two\0"
    place = 8 + 2 + 2 * 12 + 4  # the header, the number of entries, two entries, the offset of the next directory
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + struct.pack("<HHII", 0x011A, 2, len(text), place)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0) + text


@pytest.mark.parametrize(
    ("exif", "size"),
    [(b"Exif\0\0" + b"\x00\xffgarbage" * 5, (451, 300)), (exif_block(6), (300, 451)), (exif_block(1), (451, 300))],
    ids=["garbage", "turned", "upright"],
)
def test_a_photo_with_damaged_exif_is_accepted(client, exif, size):
    file = io.BytesIO()
    with Image.open(PHOTOS["chelsea"]) as photo:
        photo.convert("RGB").save(file, "JPEG", exif=exif)
    answer = client.post("/api/images", content=file.getvalue())
    assert answer.status_code == 201, answer.text
    assert (answer.json()["width"], answer.json()["height"]) == size
    shown = client.get(f"{answer.headers['location']}/picture")
    with Image.open(io.BytesIO(shown.content)) as upright:
        assert upright.size == size


def test_a_client_that_disconnects_during_an_upload_leaves_no_traceback():
    """`run_server` raises RuntimeError if the server writes to stderr."""
    with run_server() as (address, _):
        host, port = address.removeprefix("http://").split(":")
        for kind in ("image/jpeg", "application/json", "multipart/form-data; boundary=abc"):
            with socket.create_connection((host, int(port))) as connection:
                head = f"POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 1000"
                connection.sendall(f"{head}\r\n\r\n--abc\r\n".encode())
                assert httpx.get(address).status_code == 200
        assert httpx.get(address).status_code == 200
