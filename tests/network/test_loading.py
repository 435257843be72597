"""The network's parts are loaded in any order with the same result. Loading errors are raised when a part is used."""

import copy
import pickle
import sys
import threading

import numpy as np
import pytest
from checkpoint_files import write_legacy
from golden import PHOTOS

from mobilesam import architecture, kernels
from mobilesam.api.loading import load as load_model
from mobilesam.api.model import MobileSAM
from mobilesam.architecture import MOBILE_SAM
from mobilesam.checkpoints.fused import open_checkpoint
from mobilesam.cli import main as cli
from mobilesam.network import image_encoder, loading
from mobilesam.network import mask_decoder as decoder

DECODERS_OWN = "mask_decoder.iou_token.weight"


class Lacking(dict):
    """A checkpoint that lacks a tensor of the decoder, so loading the decoder raises an error."""

    path, metadata, sha256, architecture = None, {}, "", MOBILE_SAM


@pytest.fixture
def lacking():
    checkpoint = open_checkpoint()
    return Lacking({name: checkpoint[name] for name in checkpoint if name != DECODERS_OWN})


def answer(model):
    return model.encode(np.zeros((64, 48, 3), np.uint8)).segment([(20, 20)])


def test_parts_loaded_in_order_make_the_same_model():
    in_order = loading.load_network(None, 2, None, in_order=True)
    model = MobileSAM(in_order)
    result = answer(model)
    np.testing.assert_array_equal(result.low_res, answer(load_model(threads=2)).low_res)
    assert in_order.loaded() is in_order


def test_in_order_the_encoder_is_whole_before_the_decoder_is_begun(monkeypatch):
    steps = []

    class Neck(image_encoder.Neck):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            steps.append("encoder loaded")

    class Decoder(decoder.MaskDecoder):
        def __init__(self, *arguments, **options):
            steps.append("decoder begun")
            super().__init__(*arguments, **options)

    monkeypatch.setattr(image_encoder, "Neck", Neck)
    monkeypatch.setattr(decoder, "MaskDecoder", Decoder)
    loading.load_network(None, 2, None, in_order=True).loaded()
    assert steps == ["encoder loaded", "decoder begun"]


@pytest.mark.parametrize("in_order", [False, True])
def test_the_encoder_begins_with_the_layers_that_are_there(monkeypatch, in_order):
    """The encoder runs its first layers before its last layer, the neck, is loaded."""
    others_used = threading.Event()

    class Neck(image_encoder.Neck):
        def __init__(self, *arguments):
            assert others_used.wait(60)
            super().__init__(*arguments)

    class Layer(image_encoder.EncoderLayer):
        def __call__(self, *arguments):
            y = super().__call__(*arguments)
            if self.downsample is None:
                others_used.set()
            return y

    monkeypatch.setattr(image_encoder, "Neck", Neck)
    monkeypatch.setattr(image_encoder, "EncoderLayer", Layer)
    network = loading.load_network(None, 2, None, in_order=in_order)
    assert not others_used.is_set()
    x = np.zeros((1024, 1024, 3), np.float32)
    np.testing.assert_array_equal(network.image_encoder(x), network.loaded().image_encoder(x))


@pytest.mark.parametrize("in_order", [False, True])
def test_a_layer_that_fails_leaves_no_checkpoint_mapped(monkeypatch, in_order):
    def broken(*arguments):
        raise ValueError("no such layer")

    monkeypatch.setattr(image_encoder, "EncoderLayer", broken)
    network = loading.load_network(None, 2, None, in_order=in_order)
    with pytest.raises(ValueError, match="no such layer"):
        network.loaded()
    assert "_file" not in network.checkpoint.__dict__
    assert network.mask_decoder is network.mask_decoder


def test_the_command_loads_in_order_with_a_short_switch_interval(monkeypatch, tmp_path, capsys):
    calls = []

    def load(*arguments, in_order=False):
        calls.append((in_order, sys.getswitchinterval()))
        raise ValueError("no network here")

    monkeypatch.setattr(loading, "load_network", load)
    before = sys.getswitchinterval()
    words = ["segment", "photo.png", "--point", "1,1", "--output", str(tmp_path / "mask.png")]
    assert cli.main(words) == 2
    assert "no network here" in capsys.readouterr().err
    assert calls == [(True, pytest.approx(50e-6))]
    assert sys.getswitchinterval() == before


@pytest.mark.parametrize("in_order", [False, True])
def test_an_error_in_a_part_is_raised_when_the_part_is_used(lacking, in_order):
    broken = loading.Network(lacking, 2, in_order=in_order)
    assert broken.image_encoder is broken.image_encoder
    with pytest.raises(KeyError, match=DECODERS_OWN):
        broken.mask_decoder  # noqa: B018 (the property raises)
    with pytest.raises(KeyError, match=DECODERS_OWN):
        broken.loaded()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))])
def test_models_and_results_can_be_copied_and_pickled(copied):
    result = answer(load_model(threads=2))
    twin = copied(result)
    np.testing.assert_array_equal(twin.masks, result.masks)
    again = twin.embedding.segment([(20, 20)])
    np.testing.assert_array_equal(again.low_res, result.low_res)


def test_any_checkpoint_is_loaded_as_it_is(tmp_path, monkeypatch, capsys):
    """A state dict with a prefix beside other objects, in a `.pt` file, is converted in memory."""
    packaged = open_checkpoint()
    named = {f"module.{name}": packaged[name].astype(np.float32) for name in packaged}
    path = write_legacy(tmp_path / "tuned.pt", named, lambda state: {"epoch": 3, "model_state": state})
    model = load_model(path)
    assert (model.checkpoint.path, len(model.checkpoint.sha256)) == (path, 64)
    np.testing.assert_array_equal(answer(model).low_res, answer(load_model()).low_res)
    monkeypatch.chdir(tmp_path)
    photo = str(PHOTOS["chelsea"])
    assert cli.main(["segment", photo, "--point", "220,140", "--output", "a.png", "--weights", "tuned.pt"]) == 0
    assert cli.main(["segment", photo, "--point", "220,140", "--output", "b.png"]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_kernels_have_as_many_heads_as_the_decoder():
    assert kernels.HEADS == architecture.DECODER_HEADS
