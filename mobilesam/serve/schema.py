"""The JSON of the API: what comes in is checked here, what goes out is documented here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

MOST_POINTS = 1000

Pixel = Annotated[FiniteFloat, Field(ge=0)]


class Strict(BaseModel):
    """A request: a field that is not known is an error, not a silent typing mistake."""

    model_config = ConfigDict(extra="forbid")


class Prompt(Strict):
    """Where the object is, in pixels of the upright image. Points, a box, or both."""

    points: list[tuple[Pixel, Pixel]] | None = Field(
        None, min_length=1, max_length=MOST_POINTS, description="(x, y) of each point", examples=[[[220, 140]]]
    )
    labels: list[Literal[0, 1]] | None = Field(
        None,
        max_length=MOST_POINTS,
        description="for each point, 1 on the object (the default) or 0 not on it",
        examples=[[1]],
    )
    box: tuple[Pixel, Pixel, Pixel, Pixel] | None = Field(None, description="(x0, y0, x1, y1) around the object")
    multimask: bool = Field(True, description="three candidate masks, the model's tokens 1 to 3, rather than token 0")


class MasksRequest(Prompt):
    """A prompt, and the form of the answer."""

    format: Literal["rle", "png"] = Field(
        "rle", description="rle: COCO's compressed run lengths; png: a 1-bit PNG in base64"
    )
    candidates: Literal["best", "all"] = Field("best", description="the mask of the highest score, or all")
    max_side: int | None = Field(
        None,
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
    png: str | None = None


class Masks(BaseModel):
    """The answer to a prompt."""

    width: int = Field(description="of the masks")
    height: int
    best: int = Field(description="the index of the candidate with the highest score")
    masks: list[Mask]


class Image(BaseModel):
    """An image that the server holds, encoded."""

    id: str
    width: int = Field(description="of the upright image, in pixels")
    height: int
    idle_seconds: float = Field(description="how long after its last use the image is held, unless newer ones need room")


class Error(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="a sentence to show")
