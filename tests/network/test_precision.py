"""Models in bf16 and int8: choosing a precision, errors, and the effect on masks."""

import os
import subprocess
import sys

import numpy as np
import pytest
from golden import PHOTOS, iou
from PIL import Image
from precisions import HERE, here, narrow

import mobilesam
from mobilesam import kernels
from mobilesam.cli.main import main
from mobilesam.network.precision import PRECISIONS, _faster, decoder_precision, fastest

CHELSEA = str(PHOTOS["chelsea"])
CAT = (220, 140)


@pytest.fixture(scope="module")
def models() -> dict[str, mobilesam.MobileSAM]:
    """One model for each precision that this CPU supports."""
    return {precision: mobilesam.load(precision=precision) for precision in HERE}


@pytest.fixture
def lacking(monkeypatch) -> str:
    """Select an ISA that supports neither bf16 nor int8. The fixture's value is the name of the ISA."""
    name = kernels.isa.available()[-1]
    assert kernels.isa.precisions(name) == ("fp32",)
    with kernels.isa.use(name):
        yield name


# --- choosing a precision ---


def test_fp32_is_the_default(monkeypatch):
    monkeypatch.delenv("MOBILESAM_PRECISION", raising=False)
    assert mobilesam.load().precision == "fp32"


@pytest.mark.parametrize("precision", here(*PRECISIONS))
def test_each_precision_of_this_cpu(models, precision):
    model = models[precision]
    assert model.precision == precision
    score = model.encode(CHELSEA).segment([CAT]).scores.max()
    assert score > 0.9


def test_auto_is_a_precision_of_this_cpu():
    assert fastest() in HERE
    assert mobilesam.load(precision="auto").precision == fastest()


@pytest.mark.parametrize(
    ("seconds", "expected"), [({"fp32": 1.0, "bf16": 2.0}, "fp32"), ({"fp32": 2.0, "bf16": 1.0}, "bf16")], ids=str
)
def test_auto_is_bf16_where_that_is_faster(monkeypatch, seconds, expected):
    """The test replaces the supported precisions and the measured times, so its result does not depend on the CPU."""
    monkeypatch.setattr(kernels.isa, "precisions", lambda name=None: PRECISIONS)
    monkeypatch.setattr(kernels, "pack", lambda x, *, precision, **_: precision)
    monkeypatch.setattr("mobilesam.network.precision._seconds", lambda x, weight: seconds[weight])
    _faster.cache_clear()
    try:
        assert fastest() == expected
    finally:
        _faster.cache_clear()


def test_auto_without_narrow_products(lacking):
    assert fastest() == "fp32"
    assert mobilesam.load(precision="auto").precision == "fp32"


@pytest.mark.parametrize("precision", here(*PRECISIONS))
def test_the_environment_sets_it(monkeypatch, precision):
    monkeypatch.setenv("MOBILESAM_PRECISION", precision)
    assert mobilesam.load().precision == precision
    assert mobilesam.load(precision="fp32").precision == "fp32"  # the argument overrides the environment variable
    monkeypatch.setenv("MOBILESAM_PRECISION", "auto")
    assert mobilesam.load().precision == fastest()


def test_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv("MOBILESAM_PRECISION", "")
    assert mobilesam.load().precision == "fp32"


def test_the_registry_follows_the_environment(monkeypatch, models):
    """Constructors of `sam_model_registry` have no argument `precision`. They read MOBILESAM_PRECISION instead."""
    monkeypatch.setenv("MOBILESAM_PRECISION", fastest())
    model = mobilesam.sam_model_registry["vit_t"]()
    assert model.precision == fastest()


@narrow
def test_the_decoder_has_no_int8(precision):
    assert decoder_precision(precision) == ("bf16" if "bf16" in HERE else "fp32")
    assert decoder_precision("fp32") == "fp32"


# --- errors ---


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


def test_an_error_in_the_environment_names_the_variable(monkeypatch):
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
def test_an_unavailable_precision_ends_the_command_in_one_line(tmp_path, variables):
    """MOBILESAM_PRECISION is invalid, or names a precision that the forced ISA does not support."""
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


# --- effect on masks ---


@narrow
def test_the_command_line_writes_nearly_the_same_mask(tmp_path, monkeypatch, embedding, precision):
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND, "--precision", precision]) == 0
    with Image.open("mask.png") as mask:
        got = np.asarray(mask) > 0
    exact = embedding.segment([CAT]).mask
    assert iou(got[None], exact[None])[0] >= 0.99
    assert (got != exact).any()  # equal masks would mean that the precision was ignored


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
    """Models in bf16 and int8 do not change the results of fp32 models in the same process."""
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
    """A model with packed weights runs on the ISA for which its weights were packed, whatever the current ISA is."""
    expected = models[precision].encode(CHELSEA).segment([CAT]).masks
    for name in kernels.isa.available():
        with kernels.isa.use(name):
            got = models[precision].encode(CHELSEA).segment([CAT]).masks
        assert iou(got, expected).min() >= 0.99
