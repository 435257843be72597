"""Writes hq.npz: outputs of Light HQ-SAM's own SamPredictor for the prompts in ../support/hq_prompts.py.

Needs `torch`, `timm`, `segment-anything-hq` 0.3 (github.com/SysCV/sam-hq, Apache-2.0) and `mobilesam`. The weights are
those of ../support/related_models.py: the packaged checkpoint's, and random ones for the HQ token. The arrays:

- `embedding`: every 61st value of the embedding (64, 64, 256), in the order (y, x, channel)
- `<prompt>/<multimask><hq_token_only>/<array>`, such as `box/10/low_res`: `iou`, the score, and `low_res`, every 8th
  row and column of the low-resolution logits
- `<prompt>/refined/<array>`: the same for the prompt with the logits of `<prompt>/10` as mask_input, and one mask
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from segment_anything_hq import SamPredictor, sam_model_registry
from segment_anything_hq.modeling.tiny_vit_sam import Conv2d_BN

from mobilesam.architecture import HQ_SAM

DATA = Path(__file__).parent
sys.path.insert(0, str(DATA.parent / "support"))
import related_models  # noqa: E402 (needs the path above)
from hq_prompts import PROMPTS  # noqa: E402
from torch_modules import fuse  # noqa: E402

sam = sam_model_registry["vit_tiny"]()
fuse(sam.image_encoder, Conv2d_BN)
tensors = {name: torch.from_numpy(values) for name, values in related_models.weights(HQ_SAM).items()}
missing = sam.load_state_dict(tensors, strict=False).missing_keys
assert all(name.startswith(("image_encoder.head.", "image_encoder.norm_head.")) for name in missing), missing
sam.train().eval()  # TinyViT's attention caches its biases when it leaves training mode
predictor = SamPredictor(sam)
predictor.set_image(np.array(Image.open(DATA / "chelsea.png").convert("RGB")))
arrays = {"embedding": predictor.features[0].permute(1, 2, 0).numpy().ravel()[::61]}
for name, prompt in PROMPTS.items():
    named = {"points": "point_coords", "labels": "point_labels"}
    given = {named.get(key, key): np.array(value) for key, value in prompt.items()}
    for multimask in (True, False):
        for hq_token_only in (True, False):
            _, iou, low_res = predictor.predict(
                **given, multimask_output=multimask, hq_token_only=hq_token_only, return_logits=True
            )
            key = f"{name}/{int(multimask)}{int(hq_token_only)}"
            arrays |= {f"{key}/iou": iou, f"{key}/low_res": low_res[:, ::8, ::8]}
            if multimask and not hq_token_only:
                best = low_res
    _, iou, low_res = predictor.predict(**given, mask_input=best, multimask_output=False, return_logits=True)
    arrays |= {f"{name}/refined/iou": iou, f"{name}/refined/low_res": low_res[:, ::8, ::8]}
np.savez_compressed(DATA / "hq.npz", **arrays)
