"""Models in bf16 and int8: what may be asked for, what is said of the rest, and what it costs in masks."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden import PHOTOS, iou
from PIL import Image

import mobilesam
from mobilesam import kernels
from mobilesam.bench import loss
from mobilesam.cli.main import main
from mobilesam.images.photo import open_rgb
from mobilesam.network.precision import PRECISIONS, decoder_precision, fastest

HERE = kernels.isa.precisions()
CHELSEA = str(PHOTOS["chelsea"])
CAT = (220, 140)


def here(*precisions: str) -> list[object]:
    """Parameters, skipped in words where this CPU has no such precision under the ISA in force."""
    reason = f"this CPU has only {', '.join(HERE)} under {kernels.isa.current()}"
    return [
        pytest.param(name, marks=() if name in HERE else pytest.mark.skip(reason=f"{reason}, not {name}"))
        for name in precisions
    ]


narrow = pytest.mark.parametrize("precision", here("bf16", "int8"))


@pytest.fixture(scope="module")
def models() -> dict[str, mobilesam.MobileSAM]:
    """One of each precision that this CPU has."""
    return {precision: mobilesam.load(precision=precision) for precision in HERE}


@pytest.fixture
def lacking(monkeypatch) -> str:
    """An ISA without narrow products in force."""
    name = kernels.isa.available()[-1]
    assert kernels.isa.precisions(name) == ("fp32",)
    with kernels.isa.use(name):
        yield name


# --- what may be asked for ---


def test_fp32_is_the_default(monkeypatch):
    monkeypatch.delenv("MOBILESAM_PRECISION", raising=False)
    assert mobilesam.load().precision == "fp32"


@pytest.mark.parametrize("precision", here(*PRECISIONS))
def test_each_that_the_cpu_has(models, precision):
    model = models[precision]
    assert model.precision == precision
    score = model.encode(CHELSEA).segment([CAT]).scores.max()
    assert score > 0.9


def test_auto_is_the_fastest_here():
    assert fastest() in HERE
    assert mobilesam.load(precision="auto").precision == fastest()
    assert fastest() == ("bf16" if "bf16" in HERE else "int8" if "int8" in HERE else "fp32")


def test_auto_without_narrow_products(lacking):
    assert fastest() == "fp32"
    assert mobilesam.load(precision="auto").precision == "fp32"


@pytest.mark.parametrize("precision", here(*PRECISIONS))
def test_the_environment_sets_it(monkeypatch, precision):
    monkeypatch.setenv("MOBILESAM_PRECISION", precision)
    assert mobilesam.load().precision == precision
    assert mobilesam.load(precision="fp32").precision == "fp32"  # what is asked for comes first
    monkeypatch.setenv("MOBILESAM_PRECISION", "auto")
    assert mobilesam.load().precision == fastest()


def test_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv("MOBILESAM_PRECISION", "")
    assert mobilesam.load().precision == "fp32"


def test_the_registry_follows_the_environment(monkeypatch, models):
    """SAM's own constructors take no precision."""
    monkeypatch.setenv("MOBILESAM_PRECISION", fastest())
    model = mobilesam.sam_model_registry["vit_t"]()
    assert model.precision == fastest()


@narrow
def test_the_decoder_has_no_int8(precision):
    assert decoder_precision(precision) == ("bf16" if "bf16" in HERE else "fp32")
    assert decoder_precision("fp32") == "fp32"


# --- what is said of the rest ---


@pytest.mark.parametrize("precision", ["fp16", "BF16", "float32", " "])
def test_unknown_precisions(precision):
    with pytest.raises(ValueError, match=f"^precision: {precision!r}: not a precision; available here: ") as error:
        mobilesam.load(precision=precision)
    assert str(error.value).endswith(", ".join((*HERE, "auto")))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_precision_that_the_isa_lacks(lacking, precision):
    with pytest.raises(ValueError, match=f"^precision: {precision!r}: this CPU lacks it ") as error:
        mobilesam.load(precision=precision)
    assert f"(ISA {lacking}); available here: fp32, auto" in str(error.value)


def test_the_environments_mistake_names_the_variable(monkeypatch):
    monkeypatch.setenv("MOBILESAM_PRECISION", "fp8")
    with pytest.raises(ValueError, match=r"^MOBILESAM_PRECISION: 'fp8': not a precision; available here: fp32, "):
        mobilesam.load()


COMMAND = ["segment", CHELSEA, "--point", "220,140", "--output", "mask.png"]


def test_the_command_line_refuses_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND, "--precision", "fp8"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("mobilesam: error: precision: 'fp8': not a precision; available here: fp32, ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variables", [{"MOBILESAM_PRECISION": "fp8"}, {"MOBILESAM_PRECISION": "bf16"}], ids=str)
def test_a_process_that_cannot_have_its_precision(tmp_path, variables):
    """Under an ISA without narrow products."""
    variables = variables | {"MOBILESAM_ISA": kernels.isa.available()[-1]}
    command = [sys.executable, "-m", "mobilesam", *COMMAND]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"mobilesam: error: MOBILESAM_PRECISION: {variables['MOBILESAM_PRECISION']!r}: ")
    assert done.stderr.endswith("; available here: fp32, auto\n")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_info_names_the_precisions(capsys):
    assert main(["info"]) == 0
    _, *lines, _ = capsys.readouterr().out.splitlines()
    facts = dict(line.split(maxsplit=1) for line in lines)
    assert facts["precisions"] == f"{', '.join(HERE)} (auto: {fastest()})"


# --- what it does to masks ---


@narrow
def test_the_command_line_writes_nearly_the_same_mask(tmp_path, monkeypatch, embedding, precision):
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND, "--precision", precision]) == 0
    with Image.open("mask.png") as mask:
        got = np.asarray(mask) > 0
    exact = embedding.segment([CAT]).mask
    assert iou(got[None], exact[None])[0] >= 0.99
    assert (got != exact).any()  # it is not fp32's


@narrow
def test_embeddings_of_another_precision_are_refused(models, tmp_path, precision):
    models[precision].encode(CHELSEA).save(tmp_path / "narrow")
    models["fp32"].encode(CHELSEA).save(tmp_path / "fp32")
    for name, model in (("narrow", models["fp32"]), ("fp32", models[precision])):
        theirs = precision if name == "narrow" else "fp32"
        message = f"made in precision '{theirs}', but the model's is '{model.precision}': encode the image again"
        with pytest.raises(ValueError, match=message):
            mobilesam.Embedding.load(tmp_path / name, model)
    again = mobilesam.Embedding.load(tmp_path / "narrow", models[precision])
    np.testing.assert_array_equal(again.features, models[precision].encode(CHELSEA).features)


def test_fp32_is_the_same_whatever_was_loaded(models, embedding):
    """`embedding` is fp32's, of a model of its own."""
    results = []
    for model in (models["fp32"], *models.values(), mobilesam.load(precision="fp32")):
        if model.precision != "fp32":
            model.encode(CHELSEA).segment([CAT])
            continue
        results.append(model.encode(CHELSEA))
    for other in results:
        np.testing.assert_array_equal(other.features, embedding.features)
        np.testing.assert_array_equal(other.segment([CAT]).low_res, embedding.segment([CAT]).low_res)


@narrow
def test_any_number_of_threads_gives_the_same_bits(models, precision):
    expected = models[precision].encode(CHELSEA)
    for threads in (1, 3):
        got = mobilesam.load(threads=threads, precision=precision).encode(CHELSEA)
        np.testing.assert_array_equal(got.features, expected.features)
        np.testing.assert_array_equal(got.segment([CAT]).low_res, expected.segment([CAT]).low_res)


@narrow
def test_a_model_outlives_a_change_of_isa(models, precision):
    """As an fp32 one does, whose weights keep running under the ISA that they were packed for."""
    expected = models[precision].encode(CHELSEA).segment([CAT]).masks
    for name in kernels.isa.available():
        with kernels.isa.use(name):
            got = models[precision].encode(CHELSEA).segment([CAT]).masks
        assert iou(got, expected).min() >= 0.99


@pytest.fixture(scope="module")
def losses(models) -> dict[str, list[loss.Loss]]:
    """Of every photo of data/, 25 clicks with three masks each, for every narrow precision."""
    photos = [open_rgb(path) for path in PHOTOS.values()]
    return {name: [loss.measure(p, models["fp32"], models[name]) for p in photos] for name in HERE if name != "fp32"}


BARS = {"bf16": (0.998, 0.993), "int8": (0.99, 0.975)}  # median and mean IoU with fp32, token by token


@narrow
def test_documented_loss(losses, precision):
    ious = np.concatenate([one.ious for one in losses[precision]])
    assert ious.shape == (len(PHOTOS) * 25, 3)
    median, mean = BARS[precision]
    assert np.median(ious) >= median, loss.summary(ious)
    assert ious.mean() >= mean, loss.summary(ious)


@narrow
def test_embedding_loss(losses, precision):
    """bf16 rounds to a relative 2⁻⁹, int8 to some hundredths; ten layers and more add up."""
    assert all(0 < one.embedding < {"bf16": 0.03, "int8": 0.15}[precision] for one in losses[precision])


# --- loss.py itself ---


def test_iou():
    a, b = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
    assert loss.iou(a, b) == 1.0  # two empty masks agree
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


@narrow
def test_the_worst_is_the_worst(losses, models, precision):
    for one in losses[precision]:
        assert one.worst.iou == one.ious.min()
        exact, got = one.worst.masks
        assert loss.iou(exact, got) == one.worst.iou
        width, height = one.worst.photo.size
        assert exact.shape == (height, width)
        click, token = np.unravel_index(one.ious.argmin(), one.ious.shape)
        assert token == one.worst.token
        assert one.worst.click == ((click % 5 + 0.5) * width / 5, (click // 5 + 0.5) * height / 5)
    again = models["fp32"].encode(one.worst.photo).segment([one.worst.click])
    np.testing.assert_array_equal(again.masks[one.worst.token], exact)


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
    "a file of this same command": ["cat.png", "--overlay", "cat.png"],
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
        pytest.skip("this CPU lacks bf16, which is what is said first")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.png").write_bytes(Path(CHELSEA).read_bytes())
    with pytest.raises(SystemExit) as stop:
        loss.main(REFUSED[message])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["cat.png"]
