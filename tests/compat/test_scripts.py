"""Scripts for the reference run after `install()`, and the functions of utils.amg that they call."""

import sys

import numpy as np
import pytest
from processes import output, run

from mobilesam import rle
from mobilesam.compat.utils import amg

SCRIPT = """
import mobilesam.compat
mobilesam.compat.install()
mobilesam.compat.install()

import numpy as np
import mobile_sam, segment_anything
from mobile_sam import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry
from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator as other_generator
from mobile_sam.build_sam import build_sam_vit_t
from mobile_sam.predictor import SamPredictor as other_predictor
from mobile_sam.utils.amg import rle_to_mask
from mobile_sam.utils.transforms import ResizeLongestSide
from segment_anything import SamPredictor as third_predictor, build_sam
from segment_anything.utils import amg
import segment_anything.utils.transforms
import mobilesam

assert other_generator is SamAutomaticMaskGenerator is mobilesam.SamAutomaticMaskGenerator
assert build_sam is build_sam_vit_t is mobile_sam.build_sam
assert other_predictor is SamPredictor is third_predictor is mobilesam.SamPredictor
sam = sam_model_registry["vit_t"](checkpoint=None).to("cpu").float().eval()
predictor = SamPredictor(sam)
predictor.set_image(np.zeros((40, 60, 3), np.uint8))
masks, scores, logits = predictor.predict(point_coords=np.array([[20, 20]]), point_labels=np.array([1]))
assert masks.shape == (3, 40, 60)
assert (logits > sam.mask_threshold).shape == (3, 256, 256)
print("ran")
"""


def test_a_script_for_the_reference_runs():
    assert output(SCRIPT) == "ran"


def test_another_package_of_the_name_is_not_replaced():
    done = run("import sys, types; sys.modules['mobile_sam'] = types.ModuleType('mobile_sam')\n" + SCRIPT)
    assert done.returncode == 1
    assert "mobile_sam is imported already: call mobilesam.compat.install() before this import" in done.stderr


MASKS = np.zeros((3, 20, 30), bool)
MASKS[0, 2:7, 3:9] = True
MASKS[1, :, 29] = True


def test_masks_as_run_lengths_and_back():
    encoded = amg.mask_to_rle_pytorch(MASKS)
    for runs, mask in zip(encoded, MASKS, strict=True):
        assert runs == rle.encode(mask)
        assert amg.area_from_rle(runs) == mask.sum()
        np.testing.assert_array_equal(amg.rle_to_mask(runs), mask)
        assert amg.coco_encode_rle(runs) == rle.compress(runs)


def test_boxes():
    boxes = amg.batched_mask_to_box(MASKS)
    assert boxes.tolist() == [[3, 2, 8, 6], [29, 0, 29, 19], [0, 0, 0, 0]]
    assert amg.batched_mask_to_box(MASKS[:, None]).shape == (3, 1, 4)
    assert amg.batched_mask_to_box(MASKS[0]).tolist() == [3, 2, 8, 6]
    assert amg.box_xyxy_to_xywh(boxes).tolist() == [[3, 2, 5, 4], [29, 0, 0, 19], [0, 0, 0, 0]]
    assert boxes.tolist()[0] == [3, 2, 8, 6]  # not changed


def test_stability():
    logits = np.array([[[-2.0, 0.5], [1.5, 3.0]], [[-9, -9], [-9, -9]]])
    score = amg.calculate_stability_score(logits, 0.0, 1.0)
    np.testing.assert_array_equal(score, np.array([2 / 3, np.nan], np.float32))


def test_grids_and_crops():
    assert amg.build_point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert [len(grid) for grid in amg.build_all_layer_point_grids(8, 2, 2)] == [64, 16, 4]
    boxes, layers = amg.generate_crop_boxes((300, 451), 1, 512 / 1500)
    assert (boxes[0], layers) == ([0, 0, 451, 300], [0, 1, 1, 1, 1])


def test_batches():
    assert list(amg.batch_iterator(2, [1, 2, 3], "abc")) == [[[1, 2], "ab"], [[3], "c"]]
    with pytest.raises(AssertionError, match="same size"):
        next(amg.batch_iterator(2, [1, 2], "abc"))


def test_small_regions():
    mask = MASKS[0].copy()
    mask[15, 15] = True
    cleaned, changed = amg.remove_small_regions(mask, 5, "islands")
    assert changed
    np.testing.assert_array_equal(cleaned, MASKS[0])


def test_tensors_give_tensors(monkeypatch):
    class Tensor(np.ndarray):
        pass

    torch = type(sys)("torch")
    torch.Tensor, torch.from_numpy = Tensor, lambda array: array.view(Tensor)
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert isinstance(amg.batched_mask_to_box(MASKS.view(Tensor)), Tensor)
    assert not isinstance(amg.batched_mask_to_box(MASKS), Tensor)
