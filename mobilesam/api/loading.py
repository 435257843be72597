"""Loading a model from a checkpoint."""

import os

from ..network.loading import IMAGES, load_network
from .model import MobileSAM


def load(
    weights: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    precision: str | None = None,
    images: int = IMAGES,
    model: str | None = None,
    decoder: str | os.PathLike[str] | None = None,
) -> MobileSAM:
    """Load a model: MobileSAM, or another SAM with MobileSAM's encoder (docs/models.md).

    Args:
        weights: A checkpoint: a safetensors file that `mobilesam convert` wrote, or any other file that it reads, which
            is then converted in memory. Or the name of a published model that `mobilesam download` fetched, such as
            "mobile_sam" or "lite_medsam". None for the packaged checkpoint.
        threads: Number of threads that a call uses. The results do not depend on this number. None for
            MOBILESAM_NUM_THREADS or, if this variable is not set, the number of CPUs that the process may use.
        precision: "fp32", "bf16", "int8", or "auto" for bf16 if it is faster on this CPU, else fp32. None for
            MOBILESAM_PRECISION or, if this variable is not set, "fp32". docs/precision.md tells how much masks change
            in bf16 and int8, and `scripts/measure_loss.py` measures the change.
        images: Number of images whose feature maps the decoder caches, 27 MB each. The first prompt on an image
            computes the maps, and further prompts reuse them. The maps of the least recently used image are dropped
            first.
        model: Name of the published model that the file is, or was trained from: "tinysam", "vit_t_lm",
            "vit_t_em_organelles", "mobile_sam", "mobilesamv2", "lite_medsam" or "sam_hq_vit_tiny". Some models have the
            same tensors, but another value range or number of masks. None recognises downloaded and converted files and
            published checksums, and otherwise takes the tensors' architecture.
        decoder: A file with a prompt encoder and a mask decoder that replace those of `weights`, such as MobileSAMv2's
            `Prompt_guided_Mask_Decoder.pt`.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is not a checkpoint of these models, has not the architecture of `model`, or does not
            fit `decoder`. CheckpointError is a ValueError.
        ValueError: The number of threads or of images is invalid, the CPU does not support the precision, or there is
            no such model.
    """
    return MobileSAM(load_network(weights, threads, precision, images=images, model=model, decoder=decoder).loaded())
