"""How much masks in bf16 and int8 differ from masks in fp32, and the script that measures the difference."""

from pathlib import Path

import numpy as np
import pytest
import related_models
from golden import PHOTOS
from PIL import Image
from precisions import HERE, narrow

import mobilesam
from mobilesam.architecture import HQ_SAM
from mobilesam.bench import loss
from mobilesam.images.photo import open_rgb

CHELSEA = str(PHOTOS["chelsea"])


@pytest.fixture(scope="module")
def models() -> dict[str, mobilesam.MobileSAM]:
    """One model for each precision that this CPU supports."""
    return {precision: mobilesam.load(precision=precision) for precision in HERE}


@pytest.fixture(scope="module")
def losses(models) -> dict[str, list[loss.Loss]]:
    """For bf16 and int8, the differences from fp32 for each photo in data/: 25 points with three masks each."""
    photos = [open_rgb(path) for path in PHOTOS.values()]
    return {name: [loss.measure(p, models["fp32"], models[name]) for p in photos] for name in HERE if name != "fp32"}


BARS = {"bf16": (0.998, 0.993), "int8": (0.99, 0.975)}  # least median and mean IoU with the fp32 masks


@narrow
def test_documented_loss(losses, precision):
    ious = np.concatenate([one.ious for one in losses[precision]])
    assert ious.shape == (len(PHOTOS) * 25, 3)
    median, mean = BARS[precision]
    assert np.median(ious) >= median, loss.summary(ious)
    assert ious.mean() >= mean, loss.summary(ious)


@narrow
def test_embedding_loss(losses, precision):
    """A rounding has a relative error of 2⁻⁹ in bf16. More than ten layers add up their errors."""
    assert all(0 < one.embedding < {"bf16": 0.03, "int8": 0.15}[precision] for one in losses[precision])


def test_iou():
    a, b = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
    assert loss.iou(a, b) == 1.0  # both masks are empty
    a[:2] = True
    assert (loss.iou(a, b), loss.iou(b, a), loss.iou(a, a)) == (0.0, 0.0, 1.0)
    b[1:3] = True
    assert loss.iou(a, b) == pytest.approx(1 / 3)


def test_a_model_loses_nothing_against_itself(models):
    photo = open_rgb(CHELSEA)
    same = loss.measure(photo, models["fp32"], models["fp32"], 2)
    assert same.embedding == 0
    np.testing.assert_array_equal(same.ious, np.ones((4, 3)))
    assert same.worst.iou == 1.0
    assert same.worst.click == (451 / 4, 300 / 4)


def test_one_mask_of_a_click_is_compared_for_a_model_with_one_mask(tmp_path):
    model = mobilesam.load(related_models.write(tmp_path / "weights.safetensors", HQ_SAM))
    same = loss.measure(open_rgb(CHELSEA), model, model, 2)
    assert (same.ious.shape, same.worst.index) == ((4, 1), 0)


@narrow
def test_the_worst_mask_has_the_lowest_iou(losses, models, precision):
    for one in losses[precision]:
        assert one.worst.iou == one.ious.min()
        exact, got = one.worst.masks
        assert loss.iou(exact, got) == one.worst.iou
        width, height = one.worst.photo.size
        assert exact.shape == (height, width)
        click, index = np.unravel_index(one.ious.argmin(), one.ious.shape)
        assert index == one.worst.index
        assert one.worst.click == ((click % 5 + 0.5) * width / 5, (click // 5 + 0.5) * height / 5)
    again = models["fp32"].encode(one.worst.photo).segment([one.worst.click])
    np.testing.assert_array_equal(again.masks[one.worst.index], exact)


def test_the_overlay_shows_what_changed():
    exact, other = np.zeros((40, 50), bool), np.zeros((40, 50), bool)
    exact[:20, 10:], other[10:30, 10:] = True, True
    grey = Image.new("RGB", (50, 40), (100, 100, 100))
    picture = np.asarray(loss.Worst(0.5, grey, (1.2, 38.6), 1, (exact, other)).overlay())
    for where, colour in (((15, 30), loss.BOTH), ((5, 30), loss.LOST), ((25, 30), loss.GAINED)):
        np.testing.assert_array_equal(picture[where], [int(40 + 0.6 * value) for value in colour])
    np.testing.assert_array_equal(picture[5, 5], 100)
    np.testing.assert_array_equal(picture[38, 1], 255)
    np.testing.assert_array_equal(np.asarray(grey), 100)


def test_the_summary():
    ious = np.linspace(0, 1, 101).reshape(-1, 1)
    assert loss.summary(ious).split() == ["0.50000", "0.50000", "0.05000", "0.00000"]
    assert len(loss.summary(ious)) == len(loss.HEADER)


@narrow
def test_measure_loss_prints_a_line_a_photo(tmp_path, capsys, precision):
    small = tmp_path / "small.png"
    Image.open(CHELSEA).resize((90, 60)).save(small)
    picture = tmp_path / "worst.png"
    command = [CHELSEA, str(small), "--grid", "1", "--precision", precision, "--overlay", str(picture)]
    assert loss.main(command) == 0
    said = capsys.readouterr()
    first, header, *photos, total = said.out.splitlines()
    assert first == f"{precision} against fp32, IoU of 3 masks a photo"
    assert header == f"{'':11}  embedding  {loss.HEADER}"
    assert [line.split()[0] for line in photos] == ["chelsea.png", "small.png"]
    assert total.split()[0] == "all"
    worst = min(float(line.split()[-1]) for line in photos)
    assert float(total.split()[-1]) == worst
    assert f"IoU {worst:.5f}: {picture}" in said.err
    with Image.open(picture) as drawn:
        assert drawn.size in ((451, 300), (90, 60))


REFUSED = {
    "No such file": ["no.png"],
    "--grid must be at least 1, got 0": [CHELSEA, "--grid", "0"],
    "its own input or output file": ["cat.png", "--overlay", "cat.png"],
    "cannot write an image as '.txt'": [CHELSEA, "--overlay", "worst.txt"],
    "no such folder to write into: gone": [CHELSEA, "--overlay", "gone/worst.png"],
    "no such checkpoint: no.safetensors": [CHELSEA, "--weights", "no.safetensors"],
    "invalid choice: 'fp32'": [CHELSEA, "--precision", "fp32"],
    "threads: expected": [CHELSEA, "--threads", "0"],
    "not an image": [__file__],
}


@pytest.mark.parametrize("message", REFUSED)
def test_measure_loss_refuses(tmp_path, capsys, monkeypatch, message):
    if message in ("No such file", "not an image") and "bf16" not in HERE:
        pytest.skip("this CPU lacks bf16, so the command reports the missing precision instead")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.png").write_bytes(Path(CHELSEA).read_bytes())
    with pytest.raises(SystemExit) as stop:
        loss.main(REFUSED[message])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["cat.png"]
