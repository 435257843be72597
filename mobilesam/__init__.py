"""Segment anything in a photo, on a CPU, without PyTorch: MobileSAM in NumPy and compiled kernels."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .api.embedding import Embedding, ScoredRLE, Segmentation
    from .api.everything import everything
    from .api.loading import load
    from .api.model import MobileSAM
    from .api.segment import segment
    from .compat.automatic_mask_generator import SamAutomaticMaskGenerator, SamHierarchicalMaskGenerator
    from .compat.build_sam import build_sam_vit_t, sam_model_registry
    from .compat.predictor import SamPredictor
    from .volumes.segment import segment_volume

__all__ = [
    "Embedding",
    "MobileSAM",
    "SamAutomaticMaskGenerator",
    "SamHierarchicalMaskGenerator",
    "SamPredictor",
    "ScoredRLE",
    "Segmentation",
    "__version__",
    "build_sam_vit_t",
    "everything",
    "load",
    "sam_model_registry",
    "segment",
    "segment_volume",
]
_MODULES = {  # the module of each public name
    "Embedding": "api.model",  # not api.embedding, because api.model sets the default model of Embedding.load
    "MobileSAM": "api.model",
    "SamAutomaticMaskGenerator": "compat.automatic_mask_generator",
    "SamHierarchicalMaskGenerator": "compat.automatic_mask_generator",
    "SamPredictor": "compat.predictor",
    "ScoredRLE": "api.embedding",
    "Segmentation": "api.embedding",
    "build_sam_vit_t": "compat.build_sam",
    "everything": "api.everything",
    "load": "api.loading",
    "sam_model_registry": "compat.build_sam",
    "segment": "api.segment",
    "segment_volume": "volumes.segment",
}

if find_spec(f"{__name__}.kernels") is None:
    raise ImportError(
        f"mobilesam was imported from the source folder {__path__[0]}, which has no compiled kernels: run from another "
        "folder if mobilesam is installed, else install it with `pip install -e .`"
    )


def __getattr__(name: str) -> Any:
    # NumPy, Pillow and the kernels load on first use, because `mobilesam --help` and usage errors do not need them.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
