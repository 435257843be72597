"""All targets."""

from .checkpoint_targets import TARGETS as CHECKPOINTS
from .http_target import TARGETS as HTTP
from .image_targets import TARGETS as IMAGES
from .kernel_targets import TARGETS as KERNELS
from .text_targets import TARGETS as TEXTS
from .volume_targets import TARGETS as VOLUMES

TARGETS = (*KERNELS, *CHECKPOINTS, *IMAGES, *TEXTS, *VOLUMES, *HTTP)
