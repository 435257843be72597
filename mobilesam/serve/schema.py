"""The JSON of the API: models that check the requests and document the responses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

MOST_POINTS = 1000
MOST_OBJECTS = 2000

Pixel = Annotated[FiniteFloat, Field(ge=0)]


class Strict(BaseModel):
    """A request. An unknown field is an error, so that a misspelled field is noticed."""

    model_config = ConfigDict(extra="forbid")


class PromptRequest(Strict):
    """Points, a box, or both, in pixels of the upright image."""

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
        default=None, description="(x0, y0, x1, y1) of a box around the object"
    )
    multimask: bool | None = Field(
        default=None,
        description="true: three candidate masks, of the model's tokens 1 to 3; false: the mask of token 0; null: the "
        "mode that the model was trained for, which is true for MobileSAM",
    )


class MasksRequest(PromptRequest):
    """A prompt, and the form of the masks in the answer."""

    format: Literal["rle", "polygons", "png"] = Field(
        default="rle",
        description="rle: COCO's compressed run lengths; polygons: outlines with holes; png: a 1-bit PNG in base64",
    )
    candidates: Literal["best", "all"] = Field(
        default="best", description="only the mask with the highest score, or all"
    )
    max_side: int | None = Field(
        default=None,
        ge=16,
        le=65535,
        description="longest side of the masks, which are never larger than the image. None: the image's own size",
    )


class RunLengths(BaseModel):
    """COCO's compressed run-length encoding, column by column, as pycocotools reads it."""

    size: tuple[int, int] = Field(description="(height, width) of the mask")
    counts: str


class Mask(BaseModel):
    """One mask, in the requested form."""

    index: int = Field(description="index of the candidate, from 0")
    score: float = Field(description="the mask's IoU with the object, as the model predicts it")
    area: int = Field(description="number of pixels inside the mask, at the mask's own size")
    bbox: tuple[int, int, int, int] = Field(description="(x, y, width, height), in the mask's own pixels")
    rle: RunLengths | None = None
    polygons: list[list[list[tuple[float, float]]]] | None = Field(
        default=None, description="each polygon is a list of rings of (x, y): the outer ring, then its holes"
    )
    png: str | None = None


class Masks(BaseModel):
    """The answer to a prompt."""

    width: int = Field(description="width of the masks")
    height: int = Field(description="height of the masks")
    best: int = Field(description="the index of the candidate with the highest score")
    masks: list[Mask]


class EverythingRequest(Strict):
    """The parameters of the reference's SamAutomaticMaskGenerator, with its defaults."""

    points_per_side: int = Field(default=32, ge=1, le=64, description="the grid has points_per_side² points")
    pred_iou_thresh: float = Field(default=0.88, ge=0, le=2, description="lower bound of a mask's predicted IoU")
    stability_score_thresh: float = Field(default=0.95, ge=0, le=1, description="lower bound of a mask's stability")
    box_nms_thresh: float = Field(
        default=0.7, ge=0, le=1, description="if the boxes of two masks have a higher IoU, the worse mask is dropped"
    )
    crop_n_layers: int = Field(
        default=0, ge=0, le=2, description="number of layers of crops; layer i searches 4^i crops"
    )
    crop_n_points_downscale_factor: int = Field(
        default=1, ge=1, le=8, description="layer i divides points_per_side by this factor to the power i"
    )
    min_mask_region_area: float = Field(
        default=0, ge=0, le=1e9, description="holes and islands of fewer pixels are removed"
    )
    drafts: bool = Field(
        default=False,
        description="also send each mask as soon as it is found, as `draft`; the masks that remain follow as `mask`",
    )
    adaptive: bool = Field(
        default=False,
        description="ask fewer points, and compute only masks that can become results: about a third of the time, and "
        "a few masks in a hundred differ",
    )
    max_side: int | None = Field(
        default=None,
        ge=16,
        le=65535,
        description="also send a smaller copy of each mask, `display`, with at most this longest side",
    )


class Found(BaseModel):
    """A mask that the search has found, at the image's size."""

    score: float = Field(description="the mask's IoU with an object, as the model predicts it")
    stability: float = Field(description="IoU of the mask at a higher and at a lower threshold")
    area: int = Field(description="number of pixels inside the mask")
    bbox: tuple[int, int, int, int] = Field(description="(x, y, width, height)")
    rle: RunLengths
    display: RunLengths | None = None


class EverythingLine(BaseModel):
    """One line of the response to a search for all masks. Exactly one field is present."""

    progress: tuple[int, int] | None = Field(
        default=None, description="number of points searched, and number of all points"
    )
    draft: Found | None = Field(default=None, description="a mask that may be replaced by a better one at the end")
    mask: Found | None = None
    error: str | None = Field(default=None, description="why the search ended early")


class ExportObject(Strict):
    """An object to export, given by a prompt or by its mask."""

    name: str = Field(default="object", max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
    colour: str | None = Field(
        default=None, pattern="^#[0-9a-fA-F]{6}$", description="colour of the object in drawings", examples=["#2f86ff"]
    )
    prompt: PromptRequest | None = None
    choice: int | None = Field(
        default=None, ge=0, le=2, description="index of the candidate mask. None: the candidate with the highest score"
    )
    rle: RunLengths | None = Field(default=None, description="the mask, at the image's size, in place of a prompt")


class ExportRequest(Strict):
    """A request to export objects of an image as one file."""

    format: Literal["cutout", "labels", "coco", "geojson", "svg"] = Field(
        description=(
            "cutout: a PNG with a transparent background, or for several objects a ZIP of such PNGs; labels: a 16-bit "
            "PNG of object numbers, from 1 in the order of the list; coco: JSON with run lengths; geojson and svg: "
            "outlines"
        )
    )
    objects: list[ExportObject] = Field(min_length=1, max_length=MOST_OBJECTS)
    crop: bool = Field(default=False, description="crop cut-outs to the box around the object")
    file_name: str | None = Field(
        default=None, max_length=1000, description="file name of the image, for COCO. None: the name of the upload"
    )


class Image(BaseModel):
    """An image that the server has encoded and keeps."""

    id: str
    width: int = Field(description="width of the upright image, in pixels")
    height: int = Field(description="height of the upright image, in pixels")
    idle_seconds: float = Field(
        description="how long the image is kept after its last use, unless newer images replace it"
    )


class Error(BaseModel):
    """The reason why a request was refused."""

    error: str = Field(description="a sentence to show to the user")
