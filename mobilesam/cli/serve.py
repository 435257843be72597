"""mobilesam serve: serves a local web page to segment photos by clicking, and its HTTP API."""

import argparse
import contextlib
import re
import webbrowser
from types import ModuleType

from ..util.options import add_model
from .image_options import add_image_options

DEFAULT_PORT = 8642
_HOST = re.compile(r"[\w.-]+(:\d+)?", re.ASCII)
_PATH = re.compile(r"(/[\w.~-]+)*", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on (default: %(default)s, this machine only)",
    )
    add(
        "--port",
        type=int,
        metavar="N",
        help=f"port to listen on (default: {DEFAULT_PORT}, or a free port if {DEFAULT_PORT} is taken)",
    )
    add("--open", action="store_true", help="open the page in a browser")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="also answer requests to host NAME, besides those to IP addresses and to localhost; repeatable",
    )
    add(
        "--root-path",
        default="",
        metavar="PATH",
        help="path at which a proxy shows the server, such as /sam (default: the root)",
    )
    add("--images", type=int, default=16, metavar="N", help="encoded images to keep in memory (default: %(default)s)")
    add_image_options(parser)
    add_model(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.port is not None and not 0 <= arguments.port <= 65535:
        raise ValueError(f"--port: expected 0 to 65535, got {arguments.port}")
    if arguments.images < 1:
        raise ValueError(f"--images: expected at least 1, got {arguments.images}")
    for host in arguments.allow_host:
        if not _HOST.fullmatch(host):
            raise ValueError(f"--allow-host: expected a host name such as sam.example.org, got {host!r}")
    root_path = "/" + arguments.root_path.strip("/") if arguments.root_path.strip("/") else ""
    if not _PATH.fullmatch(root_path):
        raise ValueError(f"--root-path: expected a path such as /sam, got {arguments.root_path!r}")
    if root_path == "/api" or root_path.startswith("/api/"):
        raise ValueError(f"--root-path: expected a path outside /api, where the HTTP API is, got {root_path!r}")
    app_module, server = _modules()

    from ..api.loading import load
    from ..serve.decoding import Opening
    from ..serve.limits import Limits

    with server.listen(arguments.host, arguments.port, DEFAULT_PORT) as listener:
        model = load(
            arguments.weights, threads=arguments.threads, precision=arguments.precision, images=arguments.images
        )
        app = app_module.create_app(
            model,
            Limits(images=arguments.images),
            hosts=arguments.allow_host,
            root_path=root_path,
            opening=Opening(arguments.value_range or model.kind.value_range, arguments.bands),
        )
        address = server.address(listener)

        def announce() -> None:
            if arguments.port is None and listener.getsockname()[1] != DEFAULT_PORT:
                print(f"port {DEFAULT_PORT} is taken, using port {listener.getsockname()[1]}")
            print(f"mobilesam is at {address} (Ctrl-C to stop)", flush=True)
            if arguments.open:
                webbrowser.open(address)

        with contextlib.suppress(KeyboardInterrupt):
            server.create(app, announce).run(sockets=[listener])
    return 0


def _modules() -> tuple[ModuleType, ModuleType]:
    try:
        from ..serve import app, server
    except ModuleNotFoundError as error:
        if error.name not in ("contourpy", "fastapi", "python_multipart", "uvicorn"):
            raise
        raise ImportError(f"serve needs {error.name}: pip install 'mobilesam[serve]'") from None
    return app, server
