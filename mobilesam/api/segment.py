"""Encoding an image and segmenting one prompt, in one call."""

from numpy.typing import ArrayLike

from ..checkpoints.models import DEFAULT_MODEL, MODELS
from ..images.arrays import ImageLike
from ..images.photo import as_photo
from ..images.value_range import Bands, ValueRange
from .embedding import Segmentation, answer
from .model import MobileSAM, default_model
from .prompts import check_prompt


def segment(
    image: ImageLike,
    points: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    *,
    box: ArrayLike | None = None,
    mask_input: ArrayLike | None = None,
    multimask: bool | None = None,
    hq_token_only: bool = False,
    image_format: str = "RGB",
    value_range: ValueRange | None = None,
    bands: Bands | None = None,
    model: MobileSAM | None = None,
) -> Segmentation:
    """Encode an image and segment one prompt. For several prompts on one image use `load().encode(image)`.

    `image`, `image_format`, `value_range` and `bands` are those of `MobileSAM.encode`. The prompt is that of
    `Embedding.segment` and is checked before the image is encoded. The result equals that of `Embedding.segment` up to
    rounding.

    Args:
        model: The model. None for the packaged checkpoint, which is loaded once per process.
    """
    kind = MODELS[DEFAULT_MODEL] if model is None else model.kind  # the packaged checkpoint is loaded after the checks
    kind.multimask(multimask)
    kind.check_hq(hq_token_only)
    value_range = kind.value_range if value_range is None else value_range
    photo = as_photo(image, image_format, value_range=value_range, bands=bands)
    prompt = check_prompt(photo.original_size, points, labels, box, mask_input)
    model = default_model() if model is None else model
    embedding = model.encode(photo, value_range=value_range)
    return answer(embedding, prompt, multimask, hq_token_only, once=True)
