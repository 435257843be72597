"""All targets, the longest first, so that two jobs end at about the same time."""

from .checkpoint_targets import TARGETS as CHECKPOINTS
from .http_target import TARGETS as HTTP
from .image_targets import TARGETS as IMAGES
from .kernel_targets import TARGETS as KERNELS
from .text_targets import TARGETS as TEXTS
from .volume_targets import TARGETS as VOLUMES

TARGETS = (*HTTP, *KERNELS, *CHECKPOINTS, *IMAGES, *TEXTS, *VOLUMES)
