"""A server in this process, and a photo that it keeps."""

import pytest
from serving import CHELSEA, connect


@pytest.fixture(scope="module")
def client(model):
    with connect(model) as client:
        yield client


@pytest.fixture(scope="module")
def chelsea(client):
    """Upload the photo chelsea. The fixture's value is the URL path of the uploaded image."""
    answer = client.post("/api/images", content=CHELSEA)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/api/images/{answer.json()['id']}"
    assert (answer.json()["width"], answer.json()["height"]) == (451, 300)
    return answer.headers["location"]
