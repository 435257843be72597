"""Writes predictor.npz: outputs of MobileSAM's own SamPredictor for the prompts in ../support/predictor_prompts.py.

Needs `torch`, `timm`, `mobile_sam` (github.com/ChaoningZhang/MobileSAM, Apache-2.0) and `mobilesam`. The weights are
those of the packaged checkpoint, in float32. The arrays of each prompt, with keys `<prompt>/<array>`:

- `masks`: every 4th row and column, packed by np.packbits along the last axis
- `iou`: the scores
- `low_res`: every 16th row and column of the low-resolution logits
- `logits` (prompt "point" only): every 16th row and column of the masks with return_logits=True
"""

import sys
from pathlib import Path

import numpy as np
import torch
from mobile_sam import SamPredictor, sam_model_registry
from mobile_sam.modeling.tiny_vit_sam import Conv2d_BN
from PIL import Image

from mobilesam.checkpoints.fused import open_checkpoint

DATA = Path(__file__).parent
sys.path.insert(0, str(DATA.parent / "support"))
from predictor_prompts import BATCHED, SINGLE  # noqa: E402 (needs the path above)
from torch_modules import fuse  # noqa: E402


def reference() -> SamPredictor:
    sam = sam_model_registry["vit_t"]()
    fuse(sam.image_encoder, Conv2d_BN)
    weights = {name: torch.from_numpy(np.float32(values)) for name, values in open_checkpoint().items()}
    missing = sam.load_state_dict(weights, strict=False).missing_keys
    assert all(name.startswith(("image_encoder.head.", "image_encoder.norm_head.")) for name in missing), missing
    sam.train().eval()  # TinyViT's attention caches its biases when it leaves training mode
    return SamPredictor(sam)


def as_tensors(prompt: dict) -> dict:
    tensors = {
        name: torch.from_numpy(np.float32(value)) for name, value in prompt.items() if name != "multimask_output"
    }
    return {"point_coords": None, "point_labels": None, **prompt, **tensors}


predictor = reference()
predictor.set_image(np.array(Image.open(DATA / "chelsea.png")))
arrays = {}
for name, prompt in [*SINGLE.items(), *BATCHED.items()]:
    if name in SINGLE:
        masks, iou, low_res = predictor.predict(**prompt)
    else:
        masks, iou, low_res = (tensor.numpy() for tensor in predictor.predict_torch(**as_tensors(prompt)))
    arrays[f"{name}/masks"] = np.packbits(masks[..., ::4, ::4], axis=-1)
    arrays[f"{name}/iou"] = iou
    arrays[f"{name}/low_res"] = low_res[..., ::16, ::16]
arrays["point/logits"] = predictor.predict(**SINGLE["point"], return_logits=True)[0][:, ::16, ::16]
np.savez_compressed(DATA / "predictor.npz", **arrays)
