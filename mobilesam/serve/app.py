"""The ASGI application: its routes and error responses."""

from __future__ import annotations

import asyncio
import functools
import logging
import mimetypes
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, StringConstraints
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from mobilesam.api.model import MobileSAM
from mobilesam.images.rgb_photo import Photo
from mobilesam.version import __version__

from . import answers, uploads
from .decoders import Decoders
from .decoding import FORMATS, Opening, ignore_warnings
from .everything import Search
from .export import FORMS, File, export
from .guard import Guard
from .lanes import ClientGone, Lane, Task
from .limits import Limits, Overloaded, Refused
from .schema import Error, EverythingLine, EverythingRequest, ExportRequest, Image, Masks, MasksRequest
from .store import PhotoStore, StoredPhoto

T = TypeVar("T")

PAGE = Path(__file__).parent / "page"
PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SEARCHES = 4  # searches for all masks at once: one runs, at most three wait
EXPIRY_SECONDS = 30.0
NDJSON = "application/x-ndjson"
GONE = 499  # "client closed request": nobody reads the response

ImageId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]

logger = logging.getLogger("mobilesam.serve")


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of these error statuses, and of 421 and 503, which every route may return."""
    descriptions = {
        400: "The request cannot be parsed",
        403: "The request changes something and comes from another site's page",
        404: "No such image",
        408: "The request came too slowly",
        413: "The request or the image is too large",
        415: "Not an image in an accepted format",
        421: "The Host header does not name this server",
        422: "The request can be parsed but is invalid",
        503: "The server is overloaded: try again after Retry-After seconds",
    }
    return {status: {"model": Error, "description": descriptions[status]} for status in (*statuses, 421, 503)}


class Service:
    """A model, the images that it has encoded, and the threads that work for the requests."""

    def __init__(self, model: MobileSAM, limits: Limits, opening: Opening) -> None:
        self.model, self.limits, self.opening = model, limits, opening
        self.photos = PhotoStore(limits.images, limits.idle_seconds)
        self.decoders = Decoders(limits, opening)
        # Each worker decodes and then encodes, so that at most `decoders` decoded uploads are in memory.
        self.encoding = Lane("encode", workers=limits.decoders, places=limits.places, share=limits.places)
        self._encoder = threading.Lock()
        self.segmenting = Lane("segment", workers=2, places=limits.places, share=limits.image_places)
        self.exporting = Lane("export", workers=1, places=limits.places, share=limits.image_places)
        self.searching = Lane("find everything", workers=1, places=SEARCHES, share=SEARCHES)

    async def upload(self, request: Request) -> tuple[str, StoredPhoto]:
        """Read, decode and encode the image in the request's body. Returns its id and the photo."""
        try:
            upload = await uploads.receive(request)
        except ClientDisconnect:
            raise ClientGone from None
        photo = await self.encoding.run(request, "", lambda task: self._encode(upload, task))
        return self.photos.add(photo), photo

    def _encode(self, upload: uploads.Upload, task: Task) -> StoredPhoto:
        data = upload.read()
        if not data:
            raise Refused(422, f"the request has no image: send {uploads.FORMS}")
        try:
            picture = self.decoders.picture(data, task)
        except Refused as refused:
            if refused.status_code != 415 or upload.declared:
                raise
            raise Refused(415, f"{refused.detail}. Send {uploads.FORMS}") from None
        with self._encoder:
            task.check()
            embedding = self.model.encode(Photo(picture, upload.name), value_range=self.opening.value_range)
        return StoredPhoto(data, embedding)

    async def on(self, lane: Lane, request: Request, identity: str, work: Callable[[StoredPhoto, Task], T]) -> T:
        """Run `work` for a kept image in a thread of the lane, and return its result."""
        photo = self.photos.get(identity)
        return await lane.run(request, identity, lambda task: work(photo, task))

    def search(self, identity: str, parameters: EverythingRequest) -> AsyncIterator[str]:
        """Start to search a kept image for all masks, and return the lines of the response."""
        photo, search = self.photos.get(identity), Search(self.model, parameters)
        decode = functools.partial(self.decoders.picture, photo.data)
        return search.lines(self.searching.submit(identity, lambda: search.run(decode, photo.embedding)))

    async def keep_expiring(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_SECONDS)
            self.photos.expire()

    def close(self) -> None:
        for lane in (self.encoding, self.segmenting, self.exporting, self.searching):
            lane.close()
        self.decoders.close()


def create_app(
    model: MobileSAM,
    limits: Limits | None = None,
    *,
    hosts: Iterable[str] = (),
    root_path: str = "",
    opening: Opening | None = None,
) -> ASGIApp:
    """The application, for any ASGI server.

    Args:
        model: the model.
        limits: bounds on requests and kept images, None for the defaults.
        hosts: further host names of the server. IP addresses and localhost are always accepted.
        root_path: path at which a proxy shows the server, such as "/sam". Empty for the root.
        opening: how photos are opened, None for the defaults.
    """
    ignore_warnings()
    limits = limits or Limits()
    root_path = f"/{root_path.strip('/')}" if root_path.strip("/") else ""
    service = Service(model, limits, opening or Opening(model.kind.value_range))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.decoders.start()
        expiring = asyncio.create_task(service.keep_expiring())
        yield
        expiring.cancel()
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="mobilesam",
        version=__version__,
        summary="Segment anything in a photo, on a CPU.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=refusals(),
    )
    _add_error_handlers(app)
    _add_routes(app, service)
    for extension, media_type in PAGE_TYPES.items():  # other programs may have changed these types in Windows' registry
        mimetypes.add_type(media_type, extension)
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return Guard(app, limits, hosts, root_path)


def _add_routes(app: FastAPI, service: Service) -> None:
    photo_body = {
        "requestBody": {
            "required": True,
            "description": f"The file: {', '.join(FORMATS)}. EXIF orientation is applied.",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {"schema": _object(file={"type": "string", "format": "binary"})},
                "application/json": {"schema": _object(image={"type": "string", "description": "base64 or data URL"})},
            },
        }
    }

    @app.post(
        "/api/images",
        status_code=201,
        summary="Upload and encode an image",
        responses=refusals(400, 403, 408, 413, 415, 422),
        openapi_extra=photo_body,
    )
    async def add_image(request: Request, response: Response) -> Image:
        identity, photo = await service.upload(request)
        response.headers["Location"] = f"{request.scope['root_path']}/api/images/{identity}"
        return _image(identity, photo)

    @app.get("/api/images/{identity}", summary="The size of a kept image", responses=refusals(404, 422))
    async def get_image(identity: ImageId) -> Image:
        return _image(identity, service.photos.get(identity))

    @app.delete("/api/images/{identity}", status_code=204, summary="Delete an image", responses=refusals(403, 404, 422))
    async def delete_image(identity: ImageId) -> None:
        service.photos.remove(identity)

    @app.get(
        "/api/images/{identity}/picture",
        summary="The upright image as JPEG, for display",
        responses={**refusals(404, 422), 200: {"content": {"image/jpeg": {}}, "description": "JPEG"}},
        response_class=Response,
    )
    async def get_picture(request: Request, identity: ImageId) -> Response:
        def work(photo: StoredPhoto, task: Task) -> bytes:
            return service.decoders.display_jpeg(photo.data, task)

        return Response(await service.on(service.encoding, request, identity, work), media_type="image/jpeg")

    @app.post(
        "/api/images/{identity}/masks",
        summary="The masks for a prompt",
        response_model=Masks,
        responses=refusals(400, 403, 404, 408, 413, 422),
    )
    async def get_masks(request: Request, identity: ImageId, prompt: MasksRequest) -> Response:
        def work(photo: StoredPhoto, task: Task) -> str:
            return _json(answers.masks(photo.embedding, prompt))

        body = await service.on(service.segmenting, request, identity, work)
        return Response(body, media_type="application/json")

    @app.post(
        "/api/images/{identity}/everything",
        summary="All masks, as a stream of JSON lines",
        description="The response starts at once and ends with the search. Close the connection to stop the search.",
        responses={
            **refusals(400, 403, 404, 408, 413, 422),
            200: {
                "content": {NDJSON: {"schema": EverythingLine.model_json_schema()}},
                "description": "One object per line",
            },
        },
        response_class=StreamingResponse,
    )
    async def find_everything(identity: ImageId, parameters: EverythingRequest) -> StreamingResponse:
        return StreamingResponse(service.search(identity, parameters), media_type=NDJSON)

    @app.post(
        "/api/images/{identity}/export",
        summary="Objects as a file: cut-outs, label map, COCO JSON, GeoJSON, SVG",
        responses={
            **refusals(400, 403, 404, 408, 413, 422),
            200: {"content": {form: {} for form in FORMS}, "description": "The file"},
        },
        response_class=StreamingResponse,
    )
    async def export_objects(request: Request, identity: ImageId, wanted: ExportRequest) -> StreamingResponse:
        def work(photo: StoredPhoto, task: Task) -> File:
            return export(photo, wanted, lambda: service.decoders.picture(photo.data, task), task)

        file = await service.on(service.exporting, request, identity, work)
        named = {"Content-Disposition": f'attachment; filename="{file.name}"'}
        return StreamingResponse(file.chunks(), media_type=file.media_type, headers=named)

    def _image(identity: str, photo: StoredPhoto) -> Image:
        return Image(id=identity, width=photo.width, height=photo.height, idle_seconds=service.limits.idle_seconds)


def _object(**properties: dict[str, str]) -> dict[str, Any]:
    """The JSON schema of an object with these properties, all required."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _json(answer: BaseModel) -> str:
    return answer.model_dump_json(exclude_none=True)


def _add_error_handlers(app: FastAPI) -> None:
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    async def wrong(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return JSONResponse({"error": "; ".join(map(_sentence, error.errors()[:3]))}, 422)

    async def gone(_: Request, error: Exception) -> Response:
        return Response(status_code=GONE)

    async def failed(_: Request, error: Exception) -> Response:
        if isinstance(error, MemoryError):
            overloaded = Overloaded("the server is out of memory", seconds=5)
            return JSONResponse({"error": overloaded.detail}, 503, overloaded.headers)
        return JSONResponse({"error": "the server failed on this request; its log has the details"}, 500)

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, wrong)
    app.add_exception_handler(ClientGone, gone)
    app.add_exception_handler(Exception, failed)


def _sentence(problem: dict[str, Any]) -> str:
    """A sentence for one of pydantic's errors, such as `points.0.1: Input should be ...`."""
    if problem["type"] == "json_invalid":
        return f"the body is not JSON: {problem['ctx']['error']}"
    if problem["type"] == "model_attributes_type":
        return "the body must be a JSON object, sent with Content-Type: application/json"
    where = ".".join(str(part) for part in problem["loc"] if part not in ("body", "path", "query"))
    return f"{where or 'the body'}: {problem['msg']}"
