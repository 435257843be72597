"""The JSON of the API: what comes in is checked here, what goes out is documented here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

MOST_POINTS = 1000
MOST_OBJECTS = 2000

Pixel = Annotated[FiniteFloat, Field(ge=0)]


class Strict(BaseModel):
    """A request: a field that is not known is an error, not a silent typing mistake."""

    model_config = ConfigDict(extra="forbid")


class Prompt(Strict):
    """Where the object is, in pixels of the upright image. Points, a box, or both."""

    points: list[tuple[Pixel, Pixel]] | None = Field(
        default=None, min_length=1, max_length=MOST_POINTS, description="(x, y) of each point", examples=[[[220, 140]]]
    )
    labels: list[Literal[0, 1]] | None = Field(
        default=None,
        max_length=MOST_POINTS,
        description="for each point, 1 on the object (the default) or 0 not on it",
        examples=[[1]],
    )
    box: tuple[Pixel, Pixel, Pixel, Pixel] | None = Field(
        default=None, description="(x0, y0, x1, y1) around the object"
    )
    multimask: bool = Field(
        default=True, description="three candidate masks, the model's tokens 1 to 3, rather than token 0"
    )


class MasksRequest(Prompt):
    """A prompt, and the form of the answer."""

    format: Literal["rle", "polygons", "png"] = Field(
        default="rle",
        description="rle: COCO's compressed run lengths; polygons: with holes; png: a 1-bit PNG in base64",
    )
    candidates: Literal["best", "all"] = Field(default="best", description="the mask of the highest score, or all")
    max_side: int | None = Field(
        default=None,
        ge=16,
        le=65535,
        description="longest side of the masks, for a display; never larger than the image. None: the image's own size",
    )


class RunLengths(BaseModel):
    """COCO's run-length encoding, column by column, as pycocotools reads it."""

    size: tuple[int, int] = Field(description="(height, width) of the mask")
    counts: str


class Mask(BaseModel):
    """One mask, in one of the forms."""

    index: int = Field(description="which of the candidates, from 0")
    score: float = Field(description="the mask's IoU with the object, as the model predicts it")
    area: int = Field(description="pixels inside the mask, in the mask's own size")
    bbox: tuple[int, int, int, int] = Field(description="(x, y, width, height), in the mask's own pixels")
    rle: RunLengths | None = None
    polygons: list[list[list[tuple[float, float]]]] | None = Field(
        default=None, description="each a list of rings of (x, y), the outer one first, then its holes"
    )
    png: str | None = None


class Masks(BaseModel):
    """The answer to a prompt."""

    width: int = Field(description="of the masks")
    height: int
    best: int = Field(description="the index of the candidate with the highest score")
    masks: list[Mask]


class EverythingRequest(Strict):
    """The parameters of the reference's SamAutomaticMaskGenerator, with its defaults."""

    points_per_side: int = Field(default=32, ge=1, le=64, description="the grid has its square of points")
    pred_iou_thresh: float = Field(default=0.88, ge=0, le=2, description="a mask's predicted IoU exceeds it")
    stability_score_thresh: float = Field(default=0.95, ge=0, le=1, description="a mask's stability is at least this")
    box_nms_thresh: float = Field(
        default=0.7, ge=0, le=1, description="of masks whose boxes overlap more, the best stays"
    )
    crop_n_layers: int = Field(default=0, ge=0, le=2, description="layer i searches 4^i crops of the image too")
    crop_n_points_downscale_factor: int = Field(
        default=1, ge=1, le=8, description="points a side are divided by it each layer"
    )
    min_mask_region_area: float = Field(default=0, ge=0, le=1e9, description="smaller holes and islands are removed")
    max_side: int | None = Field(
        default=None, ge=16, le=65535, description="also send each mask with at most this longest side, as `display`"
    )


class Found(BaseModel):
    """A mask that was found, in the image's size."""

    score: float = Field(description="the mask's IoU with an object, as the model predicts it")
    stability: float = Field(description="the IoU between the masks of a higher and a lower threshold")
    area: int = Field(description="pixels inside the mask")
    bbox: tuple[int, int, int, int] = Field(description="(x, y, width, height)")
    rle: RunLengths
    display: RunLengths | None = None


class EverythingLine(BaseModel):
    """One line of the stream; one of these is there."""

    progress: tuple[int, int] | None = Field(default=None, description="points searched, of all")
    mask: Found | None = None
    error: str | None = Field(default=None, description="why there is no more")


class ExportObject(Strict):
    """An object to export: the answer to a prompt, or a mask as it is."""

    name: str = Field(default="object", max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
    colour: str | None = Field(
        default=None, pattern="^#[0-9a-fA-F]{6}$", description="to draw it in", examples=["#2f86ff"]
    )
    prompt: Prompt | None = None
    choice: int | None = Field(
        default=None, ge=0, le=2, description="the candidate's index. None: that of the highest score"
    )
    rle: RunLengths | None = Field(default=None, description="in place of a prompt, of the image's size")


class ExportRequest(Strict):
    """Objects of an image, as one file."""

    format: Literal["cutout", "labels", "coco", "geojson", "svg"] = Field(
        description=(
            "cutout: a PNG of one object, transparent around it, or of several a ZIP of these; labels: a 16-bit PNG of "
            "each pixel's object, numbered from 1 in the list's order; coco: JSON with run lengths; geojson and svg: "
            "outlines"
        )
    )
    objects: list[ExportObject] = Field(min_length=1, max_length=MOST_OBJECTS)
    crop: bool = Field(default=False, description="cut-outs: only the box around the object")
    file_name: str = Field(default="", max_length=1000, description="the image's, for COCO")


class Image(BaseModel):
    """An image that the server holds, encoded."""

    id: str
    width: int = Field(description="of the upright image, in pixels")
    height: int
    idle_seconds: float = Field(description="how long after its last use it is held, unless newer ones need room")


class Error(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="a sentence to show")
