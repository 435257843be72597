"""The reference's classes and functions under the same names, for scripts that were written for the reference.

Modules have the reference's names too. After `install()`, the imports of such a script find this package. Imports `api`
and the layers below it.
"""

import sys
from importlib import import_module

from .automatic_mask_generator import SamAutomaticMaskGenerator, SamHierarchicalMaskGenerator
from .build_sam import build_sam, build_sam_vit_t, sam_model_registry  # `build_sam` names the function, not the module
from .predictor import SamPredictor

__all__ = [
    "SamAutomaticMaskGenerator",
    "SamHierarchicalMaskGenerator",
    "SamPredictor",
    "build_sam",
    "build_sam_vit_t",
    "install",
    "sam_model_registry",
]
PACKAGES = ("mobile_sam", "segment_anything")  # the import names of the reference and of SAM
_SUBMODULES = ("automatic_mask_generator", "build_sam", "predictor", "utils", "utils.amg", "utils.transforms")


def install() -> None:
    """Make `import mobile_sam` and `import segment_anything` find this package, for the rest of the process.

    Calling `install` again has no effect.

    Raises:
        RuntimeError: Another package of this name is imported already.
    """
    ours = sys.modules[__name__]
    for package in PACKAGES:
        if sys.modules.get(package, ours) is not ours:
            raise RuntimeError(f"{package} is imported already: call mobilesam.compat.install() before this import")
    for package in PACKAGES:
        sys.modules[package] = ours
        for name in _SUBMODULES:
            sys.modules[f"{package}.{name}"] = import_module(f".{name}", __name__)
