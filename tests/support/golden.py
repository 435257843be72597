"""The photos in data/ and the PyTorch reference's outputs for them (data/README.md)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

import mobilesam
from mobilesam import kernels

DATA = Path(__file__).parents[1] / "data"
PHOTOS = {path.stem: path for path in sorted(DATA.iterdir()) if path.suffix in (".png", ".jpg")}
PROMPTS = ("centre", "upper_left", "lower_right_plus_minus", "box", "box_and_point", "single_mask")


def iou(a: np.ndarray, b: np.ndarray, *, except_at: np.ndarray | bool = False) -> np.ndarray:
    """Intersection over union of bool masks (C, H, W).

    Args:
        a: Masks.
        b: Masks of the same shape.
        except_at: Pixels to leave out, of the masks' shape.

    Returns:
        IoU of each mask, (C,). Two empty masks have an IoU of 1.
    """
    union = ((a | b) & ~np.asarray(except_at)).sum(axis=(1, 2))
    return np.where(union, (a & b & ~np.asarray(except_at)).sum(axis=(1, 2)) / np.maximum(union, 1), 1.0)


def relative_l2(got: np.ndarray, expected: np.ndarray) -> float:
    """Relative error ‖got − expected‖ / ‖expected‖ in the L2 norm."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


class Golden:
    """One photo's golden outputs, and checks that results agree with them."""

    def __init__(self, photo: str) -> None:
        with np.load(DATA / f"{photo}.npz") as arrays:
            self.embedding = arrays["embedding"]
            self.prompts = {prompt: _under(prompt, arrays) for prompt in PROMPTS}

    def check_embedding(self, features: np.ndarray) -> None:
        """Check features (64, 64, 256) at every 61st value, which the golden file holds."""
        assert relative_l2(features.ravel()[::61], self.embedding) <= 1e-4

    def check_prompt(self, embedding: mobilesam.Embedding, prompt: str) -> mobilesam.Segmentation:
        """Check the masks, scores and logits of the prompt, and of the prompt refined with its best logits.

        Returns:
            The result of the prompt without refinement.
        """
        golden = self.prompts[prompt]
        given = {
            "points": golden.get("point_coords"),
            "labels": golden.get("point_labels"),
            "box": golden.get("box"),
        }
        result = embedding.segment(**given, multimask=bool(golden.get("multimask_output", True)))
        self._check_masks(embedding, result, golden["masks"], golden["iou"])
        assert relative_l2(result.low_res[:, ::8, ::8], golden["low_res"]) <= 1e-4
        refined = embedding.segment(**given, mask_input=result.low_res[result.best], multimask=False)
        self._check_masks(embedding, refined, golden["refined_mask"], golden["refined_iou"])
        return result

    @staticmethod
    def _check_masks(
        embedding: mobilesam.Embedding, result: mobilesam.Segmentation, packed: np.ndarray, scores: np.ndarray
    ) -> None:
        expected = np.unpackbits(packed, axis=-1, count=result.masks.shape[-1]).astype(bool)
        assert result.masks.shape == expected.shape
        assert iou(result.masks, expected, except_at=undecided(embedding, result)).min() >= 0.9995
        np.testing.assert_allclose(result.scores, scores, rtol=0, atol=5e-4)


def undecided(embedding: mobilesam.Embedding, result: mobilesam.Segmentation) -> np.ndarray:
    """Pixels whose logit is within its rounding error of 0, so that its sign is arbitrary in float32.

    A logit is a sum of 32 products, so its error is at most about 32·2⁻²⁴ times the largest logit.
    The golden outputs contain one undecided pixel: in the refined box prompt on the photo rocket, a logit is 1e-6 in
    the reference's float32 and -3e-6 in float64. The mask has 761 pixels, so one different pixel lowers the IoU to
    0.9987.

    Returns:
        Bool array of the masks' shape (C, H, W).
    """
    logits = kernels.resize_logits(result.low_res, crop=embedding.input_size, size=embedding.original_size)
    pixels = abs(logits) <= 32 * 2.0**-24 * abs(result.low_res).max()
    assert pixels.mean() <= 1e-4
    return pixels


def _under(prompt: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays whose keys begin with `prompt`, and remove the prompt from their keys."""
    return {name.partition("/")[2]: value for name, value in arrays.items() if name.startswith(f"{prompt}/")}
