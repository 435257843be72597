"""Photos to upload to a server, and readers of its responses."""

import io

from golden import PHOTOS
from PIL import Image

CHELSEA = PHOTOS["chelsea"].read_bytes()  # 451x300
LOCAL = "http://127.0.0.1:8642"
JSON = {"Content-Type": "application/json"}


def picture(width: int, height: int, form: str = "JPEG") -> bytes:
    """Return the photo rocket, resized to this width and height, as the bytes of an image file."""
    file = io.BytesIO()
    with Image.open(PHOTOS["rocket"]) as photo:
        photo.convert("RGB").resize((width, height)).save(file, form)
    return file.getvalue()


def said(answer) -> str:
    """Return the message of an error response, and check that the response holds nothing else."""
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    return answer.json()["error"]


def connect(model, limits=None, **options):
    """Return an HTTP client that is connected to a new server in this process."""
    from fastapi.testclient import TestClient

    from mobilesam.serve.app import create_app

    return TestClient(create_app(model, limits, **options), base_url=LOCAL, raise_server_exceptions=False)
