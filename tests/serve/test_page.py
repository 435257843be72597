"""The web page of `mobilesam serve` in a headless Chromium. Exports must equal the library's results."""

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from golden import PHOTOS
from PIL import Image
from serving import picture

from mobilesam import results
from mobilesam.bench import page
from mobilesam.bench.page import PATIENCE, browser, on_screen, open_photo, run_server
from mobilesam.masks import rle

pytest.importorskip("fastapi", reason="the extra serve is not installed")

pytestmark = pytest.mark.extras

CHELSEA = str(PHOTOS["chelsea"])  # 451x300 pixels
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium():
    """The installed Chromium. If there is none, tests are skipped, or fail if MOBILESAM_REQUIRE_BROWSER is set."""
    with ExitStack() as stack:
        try:
            started = stack.enter_context(browser())
        except (ImportError, FileNotFoundError) as error:
            (pytest.fail if os.environ.get("MOBILESAM_REQUIRE_BROWSER") else pytest.skip)(str(error))
        yield started


@pytest.fixture(scope="module")
def address():
    with run_server() as (address, _):
        yield address


class Visit:
    """A browser tab with the page, and methods for a user's actions.

    Attributes:
        tab: Playwright's page.
        errors: JavaScript errors and console errors.
        requested: URLs of all requests.
    """

    def __init__(self, tab, address: str) -> None:
        self.tab, self.errors, self.requested = tab, [], []
        tab.set_default_timeout(PATIENCE)
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        tab.on("request", lambda request: self.requested.append(request.url))
        tab.goto(address)

    def open(self, path) -> "Visit":
        open_photo(self.tab, path)
        return self

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Convert a position in pixels of the photo to a position on the screen."""
        return on_screen(self.tab, x, y)

    def click(self, x, y, **options) -> None:
        self.tab.mouse.click(*self.at(x, y), **options)
        self.settle()

    def drag(self, x0, y0, x1, y1) -> None:
        self.tab.mouse.move(*self.at(x0, y0))
        self.tab.mouse.down()
        self.tab.mouse.move(*self.at((x0 + x1) / 2, (y0 + y1) / 2))
        self.tab.mouse.move(*self.at(x1, y1))
        self.tab.mouse.up()
        self.settle()

    def press(self, key: str) -> None:
        self.tab.keyboard.press(key)
        self.settle()

    def settle(self) -> None:
        """Move the mouse off the photo and wait until the page is up to date."""
        self.tab.mouse.move(2, 400)
        self.tab.wait_for_selector("#stage[aria-busy=false]")

    def ink(self, layer: str) -> int:
        """Return the number of pixels that are not transparent in the canvas element with the id `layer`."""
        return self.tab.evaluate(
            "(id) => { const { width, height } = document.getElementById(id);"
            " const { data } = document.getElementById(id).getContext('2d').getImageData(0, 0, width, height);"
            " let drawn = 0; for (let i = 3; i < data.length; i += 4) drawn += data[i] > 0; return drawn; }",
            layer,
        )

    def names(self) -> list[str]:
        return self.tab.eval_on_selector_all("#list .name", "(inputs) => inputs.map((input) => input.value)")

    def export(self, form: str) -> tuple[str, bytes]:
        """Export the objects in the format `form`, and return the downloaded file's name and content."""
        self.tab.click("#export")
        with self.tab.expect_download() as download:
            self.tab.click(f"[data-format={form}]")
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    def exported_masks(self) -> list[np.ndarray]:
        _, content = self.export("coco")
        return [rle.decode(one["segmentation"]) for one in json.loads(content)["annotations"]]


@pytest.fixture
def visit(chromium, address):
    context = chromium.new_context(viewport=DESKTOP)
    visit = Visit(context.new_page(), address)
    yield visit
    context.close()
    assert visit.errors == []
    assert {url for url in visit.requested if not url.startswith((address, "blob:"))} == set()


def test_click_exclude_undo_next_box_export(visit, embedding):
    """A user's actions with mouse and keyboard give the same masks as the library for these prompts."""
    visit.open(CHELSEA)
    visit.click(220, 140)
    assert [mask.tobytes() for mask in visit.exported_masks()] == [embedding.segment([(220, 140)]).mask.tobytes()]

    visit.click(420, 40, button="right")
    two = embedding.segment([(220, 140), (420, 40)], [1, 0]).mask
    np.testing.assert_array_equal(visit.exported_masks()[0], two)

    visit.press("Backspace")
    assert visit.tab.text_content("#now-text").startswith("From 1 point")
    visit.tab.keyboard.down("Alt")
    visit.click(30, 30)
    visit.tab.keyboard.up("Alt")
    visit.press("n")
    assert visit.names() == ["Object 1"]
    assert visit.ink("live") == 0 < visit.ink("kept")

    visit.drag(100, 90, 230, 200)
    visit.press("1")
    visit.press("Enter")
    assert visit.names() == ["Object 1", "Object 2"]

    cat = embedding.segment([(220, 140), (30, 30)], [1, 0]).mask
    eye = embedding.segment(box=(100, 90, 230, 200)).masks[0]
    for exported, expected in zip(visit.exported_masks(), [cat, eye], strict=True):
        np.testing.assert_array_equal(exported, expected)


def test_each_export_is_the_librarys(visit, embedding):
    visit.open(CHELSEA)
    visit.click(220, 140)
    visit.press("n")
    visit.click(420, 40)
    first, second = embedding.segment([(220, 140)]), embedding.segment([(420, 40)])

    name, content = visit.export("labels")
    assert name == "chelsea.labels.png"
    with Image.open(io.BytesIO(content)) as labels:
        np.testing.assert_array_equal(np.asarray(labels), np.where(second.mask, 2, np.where(first.mask, 1, 0)))

    name, content = visit.export("cutout")
    assert name == "chelsea.cutouts.zip"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["001 Object 1.png", "002 Object 2.png"]
        with Image.open(archive.open("001 Object 1.png")) as cut:
            expected = results.cutout(CHELSEA, [first.as_object()], crop=True)
            np.testing.assert_array_equal(np.asarray(cut), np.asarray(expected))

    name, content = visit.export("svg")
    assert name == "chelsea.svg"
    assert content.count(b"<path") == 2
    name, content = visit.export("geojson")
    assert name == "chelsea.geojson"
    assert len(json.loads(content)["features"]) == 2


def test_the_preview_shows_what_a_click_would_select(visit):
    visit.open(CHELSEA)
    assert visit.ink("live") == 0
    for at in [(200, 150), (220, 140)]:
        assert page.preview(visit.tab, *at) > 0
    previewed = visit.ink("live")
    whole = visit.tab.evaluate("live.width * live.height")
    assert 0.2 * whole < previewed
    visit.click(220, 140)
    assert abs(visit.ink("live") - previewed) < 0.01 * whole
    visit.press("Escape")
    assert visit.ink("live") == 0


@pytest.mark.parametrize("inside", [0.1, 0.5, 0.9, 1.0])
def test_the_outlines_drawn_are_the_masks(visit, inside):
    """For random masks, a pixel's centre is inside the drawn path if and only if the mask contains the pixel."""
    rng = np.random.default_rng(int(inside * 10))
    masks = [rng.random((int(h), int(w))) < inside for h, w in rng.integers(1, 30, (40, 2))]
    drawn = visit.tab.evaluate(
        """async (rles) => {
          const { toPath } = await import(new URL("mask.js", location));
          const context = document.createElement("canvas").getContext("2d");
          return rles.map((rle) => {
            const path = toPath(rle), [height, width] = rle.size;
            const within = (x, y) => context.isPointInPath(path, x + 0.5, y + 0.5, "evenodd");
            return Array.from({ length: height * width }, (_, i) => within(i % width, Math.floor(i / width)));
          });
        }""",
        [rle.compress(rle.encode(mask)) for mask in masks],
    )
    for pixels, mask in zip(drawn, masks, strict=True):
        np.testing.assert_array_equal(np.reshape(pixels, mask.shape), mask)


def test_a_newer_preview_cancels_an_older_one_that_is_slow(visit):
    visit.open(CHELSEA)
    held = []
    visit.tab.route("**/masks", lambda route: route.continue_() if held else held.append(route))
    with visit.tab.expect_request("**/masks"):
        visit.tab.mouse.move(*visit.at(420, 40))
    visit.tab.wait_for_timeout(500)  # the page cancels requests that take longer than 250 ms
    with visit.tab.expect_event("requestfailed") as failed:
        assert page.preview(visit.tab, 220, 140) > 0
    assert failed.value == held[0].request
    assert visit.ink("live") > 0


def test_an_overloaded_server_is_asked_again_after_retry_after(visit, embedding):
    visit.open(CHELSEA)
    refusals = iter([{"status": 503, "headers": {"Retry-After": "1"}, "json": {"error": "busy"}}] * 2)

    def answer(route) -> None:
        refusal = next(refusals, None)
        if refusal:
            route.fulfill(**refusal)
        else:
            route.continue_()

    visit.tab.route("**/masks", answer)
    visit.click(220, 140)
    np.testing.assert_array_equal(visit.exported_masks()[0], embedding.segment([(220, 140)]).mask)
    assert next(refusals, None) is None
    assert {"503" in error for error in visit.errors} == {True}  # the browser logs responses with status 503
    visit.errors.clear()


def test_a_photo_of_12_megapixels(visit, model, tmp_path):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(picture(4000, 3000))
    visit.open(photo)
    visit.click(2000, 1500)
    with visit.tab.expect_response("**/masks") as answered:
        visit.click(400, 300, button="right")
    prompt = answered.value.request.post_data_json
    assert prompt["max_side"] == 1024
    expected = model.encode(photo).segment(prompt["points"], prompt["labels"]).mask
    np.testing.assert_array_equal(visit.exported_masks()[0], expected)


def test_names_hiding_and_removing(visit):
    visit.open(CHELSEA)
    for x, y in [(220, 140), (420, 40)]:
        visit.click(x, y)
        visit.press("n")
    visit.tab.fill("#list li:first-child .name", "cat n b m")  # n and b are also keyboard shortcuts
    visit.press("Enter")
    assert visit.names() == ["cat n b m", "Object 2"]
    _, content = visit.export("coco")
    assert [one["name"] for one in json.loads(content)["categories"]] == ["cat n b m", "Object 2"]

    both = visit.ink("kept")
    visit.tab.click("[aria-label='Hide Object 2']")
    visit.settle()
    assert 0 < visit.ink("kept") < both
    visit.tab.click("[aria-label='Remove cat n b m']")
    visit.settle()
    assert visit.ink("kept") == 0
    for expected in (2, 2, 2):  # undoes removing, hiding and renaming
        visit.press("Backspace")
        assert len(visit.names()) == expected
    assert visit.names() == ["Object 1", "Object 2"]
    visit.press("Control+Shift+Z")
    assert visit.names() == ["cat n b m", "Object 2"]


def test_everything_streams_in_and_is_taken_back_at_once(visit):
    visit.open(CHELSEA)
    visit.tab.click("#everything")
    visit.tab.wait_for_selector("#stop")
    visit.tab.wait_for_selector("#progress", state="hidden")
    names = visit.names()
    assert len(names) >= 3
    assert visit.ink("kept") > 0
    masks = visit.exported_masks()
    assert [mask.shape for mask in masks] == [(300, 451)] * len(names)
    visit.press("Backspace")
    assert visit.names() == []
    visit.press("Control+Shift+Z")
    assert visit.names() == names


def test_everything_can_be_stopped(visit):
    visit.open(CHELSEA)
    visit.press("m")
    visit.tab.click("#stop")
    visit.tab.wait_for_selector("#progress", state="hidden")
    visit.click(220, 140)
    assert visit.ink("live") > 0


def test_a_dropped_and_a_pasted_photo(visit):
    content = list(Path(CHELSEA).read_bytes())
    for event in ("drop", "paste"):
        visit.tab.evaluate(
            "([event, bytes]) => { const data = new DataTransfer();"
            " data.items.add(new File([new Uint8Array(bytes)], `${event}.png`, { type: 'image/png' }));"
            " document.getElementById('file').textContent = '';"
            " dispatchEvent(event === 'drop' ? new DragEvent('drop', { dataTransfer: data, cancelable: true })"
            " : new ClipboardEvent('paste', { clipboardData: data })); }",
            [event, content],
        )
        visit.tab.wait_for_function(
            "(name) => document.getElementById('file').textContent === `${name}.png451 × 300`", arg=event
        )
    visit.click(220, 140)
    assert visit.ink("live") > 0


def test_a_file_that_is_no_photo_is_refused_in_words(visit, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    visit.tab.set_input_files("#chooser", broken)
    visit.tab.wait_for_selector("#toast", state="visible")
    assert "Not an image in an accepted format" in visit.tab.text_content("#toast")
    assert visit.tab.is_visible("#empty")
    visit.errors.clear()  # the browser logs the response with status 415
    visit.open(CHELSEA)
    visit.click(220, 140)
    assert visit.ink("live") > 0


def test_a_photo_that_only_the_server_reads_is_shown(visit, tmp_path):
    photo = tmp_path / "photo.tif"
    photo.write_bytes(picture(300, 200, "TIFF"))
    visit.open(photo)
    assert visit.tab.evaluate("[photo.naturalWidth, photo.naturalHeight]") == [300, 200]
    visit.click(150, 100)
    assert visit.ink("live") > 0


def test_an_image_that_the_server_has_dropped_is_uploaded_again(visit, embedding):
    visit.open(CHELSEA)
    visit.click(30, 30)
    image = next(filter(None, (re.match("(.*/api/images/.+)/masks", url) for url in visit.requested)))[1]
    assert httpx.delete(image).status_code == 204
    visit.press("Backspace")
    visit.click(220, 140)
    np.testing.assert_array_equal(visit.exported_masks()[0], embedding.segment([(220, 140)]).mask)
    assert httpx.get(image).status_code == 404
    assert {"404" in error for error in visit.errors} == {True}  # the browser logs responses with status 404
    visit.errors.clear()


def test_zoom_and_pan_keep_clicks_on_their_pixels(visit, embedding):
    visit.open(CHELSEA)
    visit.tab.mouse.move(*visit.at(220, 140))
    for _ in range(4):
        visit.tab.mouse.wheel(0, -200)
    visit.tab.keyboard.down("Space")
    visit.tab.mouse.down()
    visit.tab.mouse.move(400, 300)
    visit.tab.mouse.up()
    visit.tab.keyboard.up("Space")
    visit.click(221, 143)
    np.testing.assert_array_equal(visit.exported_masks()[0], embedding.segment([(221, 143)]).mask)
    before = visit.at(0, 0)
    visit.press("f")
    assert visit.at(0, 0) != before


def test_keys_are_shown_and_the_theme_follows(visit):
    assert "Backspace" in visit.tab.text_content("#keys")
    visit.tab.keyboard.press("?")
    assert visit.tab.is_visible("#shortcuts")
    visit.tab.keyboard.press("Escape")
    for system in ("dark", "light", "dark"):
        visit.tab.emulate_media(color_scheme=system)
        visit.tab.wait_for_selector(f"html[data-theme={system}]")
    visit.tab.click("#theme")
    visit.tab.wait_for_selector("html[data-theme=light]")
    visit.tab.reload()
    visit.tab.wait_for_selector("html[data-theme=light]")
    visit.tab.goto(f"{visit.tab.url}api.html")
    visit.tab.wait_for_selector("#schemas section")
    assert "/api/images/{identity}/masks" in visit.tab.text_content("#operations")


def test_phone(chromium, address, embedding):
    context = chromium.new_context(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    visit = Visit(context.new_page(), address)
    visit.open(CHELSEA)
    for selector in ("#tools", "#panel", "#export", "#everything", "#open"):
        box = visit.tab.locator(selector).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
        assert box["y"] + box["height"] <= PHONE["height"]
    visit.tab.touchscreen.tap(*visit.at(220, 140))
    visit.tab.wait_for_selector("#stage[aria-busy=false]")
    visit.tab.tap("[data-tool=exclude]")
    visit.tab.touchscreen.tap(*visit.at(420, 40))
    visit.tab.wait_for_selector("#stage[aria-busy=false]")
    visit.tab.tap("#keep")
    expected = embedding.segment([(220, 140), (420, 40)], [1, 0]).mask
    np.testing.assert_array_equal(visit.exported_masks()[0], expected)
    assert visit.errors == []
    context.close()


def test_the_benchmark_measures_the_previews_of_each_size(chromium):
    script = Path(__file__).parents[2] / "scripts" / "benchmark_page.py"
    command = [sys.executable, script, "--moves", "4", "--size", "300x200", "--size", "200x300"]
    machine, _, *rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert f"Chromium {chromium.version}" in machine
    assert [row.split()[:2] for row in rows] == [["300x200", "4"], ["200x300", "4"]]
    for row in rows:
        least, median, most = map(float, row.split()[2:])
        assert 0 < least <= median <= most
