# The kernels' signatures for type checkers; kernels/ is installed as mobilesam.kernels.
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from .low_rank import Update
from .mixed import MixedUpdate
from .once import OnceAttention, OnceUpdate

F32: TypeAlias = NDArray[np.float32]
Activation: TypeAlias = Literal["gelu", "relu"] | None
Pair: TypeAlias = int | tuple[int, int]
Weight: TypeAlias = F32 | Panels

class _Isa(ModuleType):
    def available(self) -> tuple[str, ...]: ...
    def current(self) -> str: ...
    def precisions(self, name: str | None = None) -> tuple[str, ...]: ...
    def index(self, name: str | None = None, precision: str = "fp32") -> int: ...
    def name_of(self, table: int) -> str: ...
    def precision_of(self, table: int) -> str: ...
    def panel_width(self, name: str | None = None) -> int: ...
    def register_tile(self, name: str | None = None) -> tuple[int, int, int]: ...
    def openmp(self) -> bool: ...
    def cpu_features(self) -> tuple[str, ...]: ...

    class use:
        def __init__(self, name: str) -> None: ...
        def __enter__(self) -> str: ...
        def __exit__(self, *_: object) -> None: ...

class _Threads(ModuleType):
    def default_threads(self) -> int: ...
    def checked(self, threads: object, name: str = "threads") -> int: ...
    def resolve(self, threads: int | None) -> int: ...

class _Memory(ModuleType):
    def empty(self, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> NDArray[Any]: ...
    def lasting(self, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> NDArray[Any]: ...

isa: _Isa
memory: _Memory
threads: _Threads

class Panels(NamedTuple):
    words: NDArray[np.uint32]
    shape: tuple[int, ...]
    isa: int
    @property
    def n(self) -> int: ...
    @property
    def k(self) -> int: ...

class ImageMaps(NamedTuple):
    data: F32
    n: int

class MapRows(NamedTuple):
    rows: F32
    operand: NDArray[np.uint8]
    isa: int

class MixedImage(NamedTuple):
    n: int
    rank: int
    data: F32

class UpdatedImage(NamedTuple):
    n: int
    rank: int
    data: F32
    values: tuple[F32, ...]
    rows: MapRows | None

class steps:  # a module
    class Linear(NamedTuple):
        y: str
        x: str
        weight: Weight
        bias: F32 | None = None
        activation: str | None = None
        residual: str | None = None
        scale: float = 1.0

    class Attention(NamedTuple):
        y: str
        q: str
        k: str
        v: str
        heads: int

    class Norm(NamedTuple):
        y: str
        x: str
        weight: F32
        bias: F32
        eps: float = 1e-5
        moved: str | None = None
        by: str | None = None

    class Take(NamedTuple):
        y: str
        x: str
        rows: tuple[int, ...]

    class Stack(NamedTuple):
        y: str
        xs: tuple[str, ...]

    Step: TypeAlias = Linear | Attention | Norm | Take | Stack

class Queue:
    def __init__(self) -> None: ...
    def add(self, name: str, work_: object, storage: NDArray[np.uint8], kept: object) -> None: ...
    def run(self, *, threads: int | None = None) -> None: ...

class Slot:
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def array(self) -> F32: ...
    @property
    def place(self) -> object: ...
    def __init__(self, shape: tuple[int, ...]) -> None: ...
    def take(self) -> F32: ...

class TokenSteps:
    inputs: Mapping[str, int]
    phases: tuple[tuple[steps.Step, ...], ...]
    outputs: tuple[str, ...]
    def __init__(
        self, inputs: Mapping[str, int], phases: Sequence[Sequence[steps.Step]], outputs: Sequence[str]
    ) -> None: ...
    def __call__(self, *arrays: F32, queue: Queue | None = None, threads: int | None = None) -> list[F32]: ...

class WinogradPanels(NamedTuple):
    data: F32
    shape: tuple[int, int, int, int]
    isa: int

def pack_winograd(weight: F32, *, threads: int | None = None) -> WinogradPanels: ...
def winograd_conv3x3(
    x: F32, weight: F32 | WinogradPanels, *, out: F32 | None = None, threads: int | None = None
) -> F32: ...
def pack(
    weight: F32 | NDArray[np.generic],
    *,
    precision: str = "fp32",
    isa: str | None = None,
    lasting: bool = True,
    threads: int | None = None,
) -> Panels: ...
def pack_attention_bias(table: F32, index: NDArray[np.intp]) -> F32: ...
def pack_transpose(weight: F32, *, threads: int | None = None) -> Panels: ...
def linear(
    x: F32,
    weight: Weight,
    bias: F32 | None = None,
    *,
    activation: Activation = None,
    residual: F32 | None = None,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
def conv2d(
    x: F32,
    weight: Weight,
    bias: F32 | None = None,
    *,
    stride: Pair = 1,
    pad: Pair = 0,
    dilation: Pair = 1,
    activation: Activation = None,
    residual: F32 | None = None,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
def depthwise_conv2d(
    x: F32,
    weight: F32,
    bias: F32 | None = None,
    *,
    stride: Pair = 1,
    pad: Pair = 0,
    dilation: Pair = 1,
    activation: Activation = None,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
def conv_transpose2d(
    x: F32,
    weight: Weight,
    bias: F32 | None = None,
    *,
    activation: Activation = None,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
def layer_norm(
    x: F32,
    weight: F32,
    bias: F32,
    *,
    eps: float = 1e-5,
    activation: Activation = None,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
def normalize(
    image: NDArray[np.uint8], mean: F32, std: F32, *, size: tuple[int, int], threads: int | None = None
) -> F32: ...
def gelu(x: F32, *, out: F32 | None = None, threads: int | None = None) -> F32: ...
def softmax(x: F32, *, out: F32 | None = None, threads: int | None = None) -> F32: ...
def window_attention(
    x: F32,
    norm_weight: F32,
    norm_bias: F32,
    qkv_weight: Weight,
    qkv_bias: F32 | None,
    proj_weight: Weight,
    proj_bias: F32 | None,
    attention_bias: F32,
    *,
    window: int,
    eps: float = 1e-5,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
def cross_attention(
    q: F32,
    k: F32,
    v: F32,
    *,
    heads: int,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
def patch_embed(
    x: F32,
    w1: Weight,
    b1: F32 | None,
    w2: Weight,
    b2: F32 | None,
    *,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
def mbconv(
    x: F32,
    w1: Weight,
    b1: F32 | None,
    w2: F32,
    b2: F32,
    w3: Weight,
    b3: F32 | None,
    *,
    stride: int = 1,
    residual: bool = False,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
def local_mlp(
    x: F32,
    conv_weight: F32,
    conv_bias: F32,
    norm_weight: F32,
    norm_bias: F32,
    fc1_weight: Weight,
    fc1_bias: F32 | None,
    fc2_weight: Weight,
    fc2_bias: F32 | None,
    *,
    eps: float = 1e-5,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
def project_image(
    x: F32,
    shift: F32 | None,
    scale: F32 | None,
    rows: F32 | MapRows,
    added: tuple[ImageMaps, int] | None = None,
    *,
    precision: str = "fp32",
    isa: str | None = None,
    threads: int | None = None,
) -> ImageMaps: ...
def attend_image(
    maps: ImageMaps,
    at: tuple[int, int],
    queries: F32,
    bias: F32,
    *,
    isa: str | None = None,
    queue: Queue | None = None,
    threads: int | None = None,
) -> F32: ...
def update_image(
    maps: ImageMaps,
    pe: ImageMaps,
    update: Update,
    keys: F32,
    values: F32,
    queries: F32,
    before: Sequence[UpdatedImage] | None = None,
    *,
    channels: int = 256,
    eps: float = 1e-5,
    isa: str | None = None,
    queue: Queue | None = None,
    threads: int | None = None,
) -> tuple[list[UpdatedImage], F32]: ...
def turn_image(
    x: F32,
    added: F32 | None = None,
    *,
    isa: str | None = None,
    queue: Queue | None = None,
    threads: int | None = None,
) -> ImageMaps: ...
def update_image_once(
    x: ImageMaps,
    pe: ImageMaps,
    attention: OnceAttention,
    queries: F32,
    update: OnceUpdate | None = None,
    keys: F32 | None = None,
    values: F32 | None = None,
    *,
    eps: float = 1e-5,
    isa: str | None = None,
    queue: Queue | None = None,
    threads: int | None = None,
) -> tuple[ImageMaps, F32]: ...
def update_image_mixed(
    maps: ImageMaps,
    pe: ImageMaps,
    update: MixedUpdate,
    keys: F32,
    values: F32,
    queries: F32,
    before: MixedImage | None = None,
    *,
    channels: int = 256,
    eps: float = 1e-5,
    queue: Queue | None = None,
    threads: int | None = None,
) -> tuple[MixedImage, F32]: ...
def pack_rows(rows: F32, *, precision: str = "fp32", isa: str | None = None) -> MapRows: ...
def encode_positions(
    xy: F32,
    size: int,
    gaussian: F32,
    kinds: NDArray[np.intp] | None = None,
    embeddings: F32 | None = None,
    *,
    threads: int | None = None,
) -> F32: ...
def fma_peak(*, repeats: int = 5, threads: int | None = None) -> float: ...
def upscale_masks(
    x: F32 | tuple[ImageMaps, int, tuple[int, int]],
    norm_weight: F32,
    norm_bias: F32,
    w2: F32 | MapRows,
    b2: F32,
    hyper: F32,
    *,
    update: UpdatedImage | MixedImage | None = None,
    rows: MapRows | None = None,
    shift: F32 | None = None,
    eps: float = 1e-6,
    precision: str = "fp32",
    isa: str | None = None,
    out: F32 | Slot | None = None,
    queue: Queue | None = None,
    threads: int | None = None,
) -> F32: ...
@overload
def resize_logits(
    x: F32,
    *,
    padded: tuple[int, int] = (1024, 1024),
    crop: tuple[int, int],
    size: tuple[int, int],
    threshold: None = None,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
@overload
def resize_logits(
    x: F32,
    *,
    padded: tuple[int, int] = (1024, 1024),
    crop: tuple[int, int],
    size: tuple[int, int],
    threshold: float,
    out: NDArray[np.bool_] | None = None,
    threads: int | None = None,
) -> NDArray[np.bool_]: ...
def mask_runs(
    x: F32,
    *,
    padded: tuple[int, int] = (1024, 1024),
    crop: tuple[int, int],
    size: tuple[int, int],
    threshold: float = 0.0,
    offset: float = 1.0,
    threads: int | None = None,
) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]: ...
