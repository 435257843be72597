"""The HTTP API of `mobilesam serve`: the same results as the library, and errors with a one-sentence message."""

import base64
import io
import json
import mimetypes
import threading
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest
import related_models
from golden import PHOTOS
from PIL import Image
from serving import CHELSEA, JSON, LOCAL, connect, picture, said

import mobilesam
from mobilesam import kernels
from mobilesam.architecture import HQ_SAM, LITE_MEDSAM
from mobilesam.compat.automatic_mask_generator import SamAutomaticMaskGenerator
from mobilesam.masks import rle

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from mobilesam.serve import answers
from mobilesam.serve.limits import Limits, Refused
from mobilesam.serve.store import PhotoStore

PROMPTS = {
    "a point": {"points": [[220, 140]]},
    "points": {"points": [[220, 140], [400, 40.5]], "labels": [1, 0]},
    "a box": {"box": [60, 20, 430, 290]},
    "one mask": {"points": [[220, 140]], "box": [60, 20, 430, 290], "multimask": False},
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=list(PROMPTS))
def test_masks_are_the_librarys(client, chelsea, embedding, prompt):
    expected = embedding.segment(**prompt)
    answer = client.post(f"{chelsea}/masks", json={**prompt, "candidates": "all"}).json()
    assert (answer["width"], answer["height"], answer["best"]) == (451, 300, expected.best)
    assert [mask["index"] for mask in answer["masks"]] == list(range(len(expected.scores)))
    for mask, pixels, score in zip(answer["masks"], expected.masks, expected.scores):
        np.testing.assert_array_equal(rle.decode(mask["rle"]), pixels)
        assert mask["score"] == pytest.approx(float(score), abs=1e-6)
        assert mask["area"] == pixels.sum()
        assert mask["bbox"] == rle.bbox(mask["rle"])


def test_the_best_mask_alone_as_png(client, chelsea, embedding):
    expected = embedding.segment([(220, 140)])
    answer = client.post(f"{chelsea}/masks", json={"points": [[220, 140]], "format": "png"}).json()
    (mask,) = answer["masks"]
    assert mask["index"] == expected.best
    assert "rle" not in mask
    with Image.open(io.BytesIO(base64.b64decode(mask["png"]))) as png:
        assert png.mode == "1"
        np.testing.assert_array_equal(np.asarray(png), expected.mask)


@pytest.mark.parametrize(("max_side", "size"), [(100, (67, 100)), (1024, (300, 451))])
def test_masks_for_a_display(client, chelsea, embedding, max_side, size):
    low_res = embedding.segment([(220, 140)]).low_res
    candidates = kernels.resize_logits(low_res, crop=embedding.input_size, size=size, threshold=0.0)
    answer = client.post(f"{chelsea}/masks", json={"points": [[220, 140]], "max_side": max_side}).json()
    assert (answer["height"], answer["width"]) == size
    np.testing.assert_array_equal(rle.decode(answer["masks"][0]["rle"]), candidates[answer["best"]])


def test_everything_is_the_generators(client, chelsea, model):
    parameters = {"points_per_side": 5, "pred_iou_thresh": 0.8}
    records = SamAutomaticMaskGenerator(model, output_mode="coco_rle", **parameters).generate(PHOTOS["chelsea"])
    answer = client.post(f"{chelsea}/everything", json={**parameters, "max_side": 100})
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert {key for line in lines for key in line} == {"progress", "mask"}
    assert [line["progress"] for line in lines if "progress" in line][-1] == [25, 25]
    found = [line["mask"] for line in lines if "mask" in line]
    assert found
    assert [(mask["rle"]["counts"], mask["area"]) for mask in found] == [
        (record["segmentation"]["counts"], record["area"]) for record in records
    ]
    for mask in found:
        shown = rle.decode(mask["display"])
        assert shown.shape == (67, 100)
        assert abs(shown.mean() - mask["area"] / (300 * 451)) < 0.01


def test_the_picture_is_upright(client):
    photo = Image.open(io.BytesIO(CHELSEA)).convert("RGB")
    exif = photo.getexif()
    exif[0x0112] = 6  # Exif orientation 6: rotated by 90 degrees
    file = io.BytesIO()
    photo.save(file, "JPEG", exif=exif)
    held = client.post("/api/images", content=file.getvalue()).json()
    assert (held["width"], held["height"]) == (300, 451)
    answer = client.get(f"/api/images/{held['id']}/picture")
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as shown:
        assert shown.size == (300, 451)


def test_a_deleted_image_is_gone(client):
    place = client.post("/api/images", content=CHELSEA).headers["location"]
    assert client.get(place).status_code == 200
    assert client.delete(place).status_code == 204
    for answer in (client.get(place), client.delete(place), client.post(f"{place}/masks", json=PROMPTS["a point"])):
        assert answer.status_code == 404
        assert "upload it again" in said(answer)


WRONG_PROMPTS = {
    "no prompt": {},
    "points": {"points": []},
    "point (452, 140) lies outside the image of 451x300": {"points": [[452, 140]]},
    "box must have x0 <= x1": {"box": [9, 9, 5, 5]},
    "points.0: ": {"points": [[1, 2, 3]]},
    "points.0.1: Input should be greater": {"points": [[1, -2]]},
    "labels without points": {"labels": [1], "box": [1, 1, 5, 5]},
    "labels must be (1,)": {"points": [[1, 1]], "labels": [1, 0]},
    "labels.0: Input should be 0 or 1": {"points": [[1, 1]], "labels": [2]},
    "pionts: Extra": {"pionts": [[1, 1]]},
    "format: ": {"points": [[1, 1]], "format": "jpeg"},
    "max_side: ": {"points": [[1, 1]], "max_side": 0},
    "at most 1000": {"points": [[1, 1]] * 1001},
}


@pytest.mark.parametrize("message", WRONG_PROMPTS)
def test_a_wrong_prompt_is_refused_in_words(client, chelsea, message):
    answer = client.post(f"{chelsea}/masks", json=WRONG_PROMPTS[message])
    assert answer.status_code == 422
    assert message in said(answer)


WRONG_BODIES = {
    "the body is not JSON": b'{"points": [[1',
    "points.0.0: Input should be a finite number": b'{"points": [[1e999, 1]]}',
    "points.0.1: Input should be a finite number": b'{"points": [[1, NaN]]}',
    "must be a JSON object": b"[1]",
}


@pytest.mark.parametrize("message", WRONG_BODIES)
def test_a_wrong_body_is_refused_in_words(client, chelsea, message):
    answer = client.post(f"{chelsea}/masks", content=WRONG_BODIES[message], headers=JSON)
    assert answer.status_code == 422
    assert message in said(answer)
    unlabelled = client.post(f"{chelsea}/masks", content=b'{"points": [[1, 1]]}')
    assert unlabelled.status_code == 422
    assert "Content-Type: application/json" in said(unlabelled)


def test_wrong_parameters_of_everything_are_refused_before_the_stream(client, chelsea):
    answer = client.post(f"{chelsea}/everything", json={"points_per_side": 2, "crop_n_layers": 2,
                                                         "crop_n_points_downscale_factor": 2})  # fmt: skip
    assert answer.status_code == 422
    assert "points_per_side must leave a point" in said(answer)


def bomb() -> bytes:
    """A small PNG file of 30000x30000 pixels."""
    file = io.BytesIO()
    Image.new("1", (30000, 30000)).save(file, "PNG")
    return file.getvalue()


WRONG_PICTURES = {
    "the request has no image: send the bytes": (422, lambda: b""),
    "not an image in an accepted format: save it as one of ": (
        415,
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ),
    "damaged": (422, lambda: CHELSEA[:100_000]),
    "at most 1 megapixels": (413, lambda: picture(1200, 1000)),
    "megapixels are accepted, and the image has more": (413, bomb),
    "larger than 2 MiB": (413, lambda: bytes((2 << 20) + 1)),
}


@pytest.fixture(scope="module")
def strict(model):
    with connect(model, Limits(upload_bytes=2 << 20, json_bytes=1000, pixels=1_000_000, images=2)) as client:
        yield client


@pytest.mark.parametrize("message", WRONG_PICTURES)
def test_a_wrong_picture_is_refused_in_words(strict, message):
    status, content = WRONG_PICTURES[message]
    answer = strict.post("/api/images", content=content())
    assert answer.status_code == status
    assert message in said(answer)


def test_too_many_bytes_at_once_are_an_overload(model):
    with connect(model, Limits(held_bytes=100_000)) as client:
        for _ in range(2):
            answer = client.post("/api/images", content=CHELSEA)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "2"
        assert client.post("/api/images", content=picture(64, 48)).status_code == 201


def test_a_body_without_a_declared_length_is_limited(strict):
    answer = strict.post("/api/images", content=(bytes(1 << 20) for _ in range(3)))
    assert answer.status_code == 413
    assert "larger than 2 MiB" in said(answer)
    answer = strict.post("/api/images/x/masks", content=(b" " * 600 for _ in range(2)), headers=JSON)
    assert answer.status_code == 413
    assert "larger than 0.000953674 MiB" in said(answer)


def test_the_images_used_longest_ago_go_first(strict):
    first, second = (strict.post("/api/images", content=CHELSEA).headers["location"] for _ in range(2))
    assert strict.get(first).status_code == 200
    third = strict.post("/api/images", content=CHELSEA).headers["location"]
    assert [strict.get(place).status_code for place in (first, second, third)] == [200, 404, 200]


def test_an_image_expires_after_its_last_use():
    now = [0.0]
    store = PhotoStore(images=5, idle_seconds=10, clock=lambda: now[0])
    photo = object()
    early, late = store.add(photo), store.add(photo)
    now[0] = 9
    assert store.get(early) is photo
    now[0] = 12
    with pytest.raises(Refused, match="upload it again"):
        store.get(late)
    assert store.get(early) is photo
    now[0] = 23
    store.expire()
    assert len(store) == 0


HOSTS = {
    "127.0.0.1:8642": True,
    "localhost": True,
    "[::1]:8642": True,
    "192.168.7.9:8642": True,
    "studio.example": True,
    "evil.example": False,
    "127.0.0.1.evil.example": False,
    "evil.example:8642": False,
    "localhost.evil.example": False,
    "[::1": False,
    "": False,
}


@pytest.mark.parametrize("host", HOSTS)
def test_only_our_own_names_are_answered_to(model, host):
    client = connect(model, hosts=["studio.example"])
    for path in ("/", "/openapi.json", "/api/images/x"):
        answer = client.get(path, headers={"Host": host})
        if HOSTS[host]:
            assert answer.status_code in (200, 404)
        else:
            assert answer.status_code == 421
            assert "--allow-host" in said(answer)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_a_write_from_another_sites_page_is_refused(client, chelsea, headers):
    for answer in (
        client.post("/api/images", content=CHELSEA, headers=headers),
        client.post(f"{chelsea}/masks", json=PROMPTS["a point"], headers=headers),
        client.delete(chelsea, headers=headers),
    ):
        assert answer.status_code == 403
        assert "another site" in said(answer)
    ours = {"Origin": LOCAL, "Sec-Fetch-Site": "same-origin"}
    assert client.post(f"{chelsea}/masks", json=PROMPTS["a point"], headers=ours).status_code == 200


def test_every_answer_says_what_a_page_may_load(client, chelsea):
    for path in ("/", "/main.js", "/openapi.json", chelsea, "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_the_types_of_the_pages_files_do_not_depend_on_the_system(model):
    """On Windows the types come from the registry, and browsers run no script that is served as text/plain."""
    for extension in (".html", ".css", ".js", ".svg"):
        mimetypes.add_type("text/plain", extension)
    client = connect(model)
    for path, kind in (("/", "html"), ("/style.css", "css"), ("/main.js", "javascript")):
        assert client.get(path).headers["content-type"] == f"text/{kind}; charset=utf-8"
    assert client.get("/icon.svg").headers["content-type"] == "image/svg+xml"


def test_the_page_loads_nothing_from_elsewhere(client):
    for path in ("/", "/api.html", "/style.css", "/main.js", "/reference.js", "/icon.svg"):
        answer = client.get(path)
        assert answer.status_code == 200
        text = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "//" not in text.replace("// ", "").replace("${location.origin}", "")


@pytest.mark.parametrize("path", ["/nothing", "/api/nothing", "/../app.py", "/%2e%2e/app.py", "/api/images/a%00b"])
def test_unknown_paths_give_json_errors(client, path):
    answer = client.get(path)
    assert answer.status_code in (404, 422)
    assert said(answer)


def test_an_overload_response_says_when_to_retry(model, monkeypatch):
    """If each image may have one waiting request, the second of two simultaneous prompts is refused.

    A later prompt is accepted.
    """
    entered, leave = threading.Event(), threading.Event()
    answer_masks = answers.masks

    def slow(*arguments):
        entered.set()
        assert leave.wait(30)
        return answer_masks(*arguments)

    monkeypatch.setattr(answers, "masks", slow)
    with connect(model, Limits(image_places=1)) as client, ThreadPoolExecutor() as pool:
        place = client.post("/api/images", content=CHELSEA).headers["location"]
        first = pool.submit(client.post, f"{place}/masks", json=PROMPTS["a point"])
        assert entered.wait(30)
        refused = client.post(f"{place}/masks", json=PROMPTS["a point"])
        leave.set()
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "try again in 1 s" in said(refused)
        assert first.result().status_code == 200
        assert client.post(f"{place}/masks", json=PROMPTS["a point"]).status_code == 200


def test_an_internal_error_is_reported_and_the_next_request_succeeds(model, monkeypatch):
    with connect(model) as client:
        place = client.post("/api/images", content=CHELSEA).headers["location"]
        for error, status in ((ZeroDivisionError("secret"), 500), (MemoryError(), 503)):
            with monkeypatch.context() as patch:
                patch.setattr(answers, "masks", Mock(side_effect=error))
                answer = client.post(f"{place}/masks", json=PROMPTS["a point"])
            assert answer.status_code == status
            assert "secret" not in said(answer)
            assert client.post(f"{place}/masks", json=PROMPTS["a point"]).status_code == 200


@pytest.mark.parametrize("kind", [LITE_MEDSAM, HQ_SAM], ids=lambda kind: kind.name)
def test_other_architectures(kind, tmp_path):
    model = mobilesam.load(related_models.write(tmp_path / "a.safetensors", kind))
    box = {"box": [60, 20, 430, 290]}
    with connect(model) as client:
        url = client.post("/api/images", content=CHELSEA).headers["location"]
        answer = client.post(f"{url}/masks", json=box | {"candidates": "all"}).json()
    expected = model.encode(PHOTOS["chelsea"]).segment(**box)
    assert [mask["index"] for mask in answer["masks"]] == [0]
    np.testing.assert_array_equal(rle.decode(answer["masks"][0]["rle"]), expected.mask)
