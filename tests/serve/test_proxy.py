"""`mobilesam serve` behind a proxy: host names, the Origin of the page, the root path, and a real nginx."""

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from typing import NamedTuple
from urllib.parse import urljoin

import pytest
from serving import CHELSEA, picture

from mobilesam.bench.page import run_server
from mobilesam.cli.main import main
from mobilesam.masks import rle

pytest.importorskip("fastapi", reason="the extra serve is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")
from fastapi.testclient import TestClient  # noqa: E402

from mobilesam.serve.app import create_app  # noqa: E402
from mobilesam.serve.limits import Limits  # noqa: E402

NAME = "sam.example.org"
ORIGIN = f"https://{NAME}"
CAT = {"points": [[220, 140]]}
NGINX = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")


def connect(model, limits=None, **options):
    """Return an HTTP client that is connected to a new server in this process."""
    app = create_app(model, limits, **options)
    return TestClient(app, base_url="http://127.0.0.1:8642", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(model):
    """A client of a server that accepts two host names, one of them with a port."""
    with connect(model, hosts=[NAME, "lab.example.org:8443"]) as client:
        yield client


def status(client, **headers: str) -> int:
    """The status of a request that changes something. It is 404 if the server accepts the headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = client.post("/api/images/none/masks", json=CAT, headers=named)
    assert list(answer.json()) == ["error"]
    return answer.status_code


HOSTS = ["127.0.0.1:8642", "localhost", "[::1]:8642", NAME, f"{NAME}:443"]
OURS = [ORIGIN, f"{ORIGIN}:443", f"http://{NAME}", f"http://{NAME}:80", f"https://{NAME.upper()}"]
OTHERS = [
    "https://evil.example",
    "https://evil.sam.example.org",
    "https://sam.example.org.evil.example",
    "https://sam.example.org@evil.example",
    "https://evil.example/sam.example.org",
    "https://sam.example.org:8443",
    "https://sam.example.org:80",
    "https://sam.example.org:0",
    "ftp://sam.example.org",
    "://sam.example.org",
    "null",
    "",
    "http://[",
    "https://sam.example.org:abc",
    "https://sam.example.org:99999",
    "sam.example.org",
    "https://",
]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("origin", OURS)
def test_the_page_of_an_allowed_host_may_write(client, host, origin):
    assert status(client, Host=host, Origin=origin) == 404
    assert status(client, Host=host, Origin=origin, Sec_Fetch_Site="same-origin") == 404
    assert status(client, Host=host, Origin=origin, Sec_Fetch_Site="cross-site") == 403


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("origin", OTHERS)
def test_a_page_of_another_host_may_not_write(client, host, origin):
    assert status(client, Host=host, Origin=origin) == 403


def test_an_allowed_host_may_have_a_port(client):
    for host in ("127.0.0.1:8642", "lab.example.org", "lab.example.org:8443"):
        assert status(client, Host=host, Origin="https://lab.example.org:8443") == 404
    assert status(client, Host="127.0.0.1:8642", Origin="https://lab.example.org") == 403


def test_a_host_that_is_not_allowed_gets_no_answer(model):
    with connect(model) as client:
        assert status(client, Host="127.0.0.1:8642", Origin=ORIGIN) == 403
        assert status(client, Host=NAME, Origin=ORIGIN) == 421


FORWARDED = {
    (NAME, ORIGIN): 404,
    (f"{NAME}, 10.0.0.1", ORIGIN): 404,
    (f"{NAME}:8443", f"{ORIGIN}:8443"): 404,
    ("192.168.7.9", "https://192.168.7.9"): 404,
    ("192.168.7.9", ORIGIN): 404,
    (NAME, "https://evil.example"): 403,
    (f"{NAME}:8443", f"{ORIGIN}:8444"): 403,
    ("evil.example", "https://evil.example"): 421,
    ("evil.example", ORIGIN): 421,
    (f"evil.example, {NAME}", ORIGIN): 421,
    ("", ORIGIN): 421,
    ("[", ORIGIN): 421,
}


@pytest.mark.parametrize(("host", "origin"), FORWARDED)
def test_the_host_of_a_proxy_must_be_allowed(client, host, origin):
    assert status(client, X_Forwarded_Host=host, Origin=origin) == FORWARDED[host, origin]


@pytest.fixture(scope="module", params=["/sam", "sam", "/sam/"])
def below_sam(model, request):
    """A client of a server with the root path /sam and low limits."""
    with connect(model, Limits(upload_bytes=1 << 20, json_bytes=1000), root_path=request.param) as client:
        yield client


each_prefix = pytest.mark.parametrize("prefix", ["", "/sam"], ids=["prefix removed", "prefix kept"])


@each_prefix
def test_the_page_below_a_root_path(below_sam, prefix):
    for path in ("/", "/style.css", "/main.js", "/api.html"):
        assert below_sam.get(f"{prefix}{path}").status_code == 200
    described = below_sam.get(f"{prefix}/openapi.json").json()
    assert described["servers"] == [{"url": "/sam"}]
    assert "/api/images" in described["paths"]


@each_prefix
def test_the_api_below_a_root_path(below_sam, embedding, prefix):
    answer = below_sam.post(f"{prefix}/api/images", content=CHELSEA)
    assert answer.status_code == 201, answer.text
    place = answer.headers["location"]
    assert place == f"/sam/api/images/{answer.json()['id']}"
    expected = rle.compress(rle.encode(embedding.segment([(220, 140)]).mask))
    for path in (place, place.removeprefix("/sam")):
        assert below_sam.get(path).json() == answer.json()
        assert below_sam.post(f"{path}/masks", json=CAT).json()["masks"][0]["rle"] == expected


@each_prefix
def test_the_limits_below_a_root_path(below_sam, prefix):
    assert below_sam.post(f"{prefix}/api/images", content=bytes(1 << 20)).status_code == 415
    assert below_sam.post(f"{prefix}/api/images", content=bytes((1 << 20) + 1)).status_code == 413
    assert below_sam.post(f"{prefix}/api/images/none/masks", content=bytes(1001)).status_code == 413


def test_the_root_path_without_a_slash(below_sam):
    answer = below_sam.get("/sam", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "/sam/")
    assert below_sam.get("/sam").text == below_sam.get("/").text
    assert below_sam.get("/samples").status_code == 404


def test_the_options_of_the_command():
    """`run_server` raises RuntimeError if the server writes to stderr."""
    with run_server("--allow-host", NAME, "--root-path", "sam/") as (address, _):
        assert httpx.get(f"{address}/sam/", headers={"Host": NAME}).status_code == 200
        sent = httpx.post(f"{address}/sam/api/images", content=picture(64, 48), headers={"Origin": ORIGIN})
        assert sent.status_code == 201
        assert httpx.get(urljoin(address, sent.headers["location"])).status_code == 200


WRONG_OPTIONS = [
    ("--allow-host", "https://x", "a host name such as sam.example.org"),
    ("--allow-host", "x/y", "a host name such as sam.example.org"),
    ("--allow-host", "*", "a host name such as sam.example.org"),
    ("--allow-host", "", "a host name such as sam.example.org"),
    ("--root-path", "a b", "a path such as /sam"),
    ("--root-path", "https://x/sam", "a path such as /sam"),
    ("--root-path", "/sam?x", "a path such as /sam"),
    ("--root-path", "/säm", "a path such as /sam"),
    ("--root-path", "/api", "a path outside /api, where the HTTP API is"),
]


@pytest.mark.parametrize(("option", "value", "expected"), WRONG_OPTIONS)
def test_a_wrong_option_ends_in_one_line(capsys, option, value, expected):
    # If the server accepted the option, the missing checkpoint would still end the command.
    assert main(["serve", "--port", "0", "--weights", "no.safetensors", option, value]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"mobilesam: error: {option}: expected {expected}, got {value!r}\n")


NGINX_CONF = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/client_body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    client_max_body_size 64m;

    server {{
        listen 127.0.0.1:{first};
        location / {{
            proxy_pass {at_root};
        }}
        location /sam/ {{
            proxy_pass {below_sam}/;
            proxy_set_header X-Forwarded-Host $host;
            proxy_set_header X-Forwarded-Proto https;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
    server {{
        listen 127.0.0.1:{second};
        location /sam/ {{
            proxy_pass {below_sam};
            proxy_set_header Host $host;
            proxy_buffering off;
        }}
    }}
}}
"""


class Site(NamedTuple):
    """A place at which nginx shows a mobilesam server."""

    port: int
    path: str


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """A running nginx, and the places of mobilesam on it by name."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    first, second = free_ports(2)
    with (
        run_server("--allow-host", NAME) as (at_root, _),
        run_server("--allow-host", NAME, "--root-path", "/sam") as (below_sam, _),
    ):
        conf = folder / "nginx.conf"
        conf.write_text(
            NGINX_CONF.format(folder=folder, first=first, second=second, at_root=at_root, below_sam=below_sam)
        )
        with subprocess.Popen([NGINX, "-p", folder, "-c", conf], stderr=subprocess.PIPE, text=True) as nginx:
            try:
                while nginx.poll() is None and not (listens(first) and listens(second)):
                    time.sleep(0.05)
                assert nginx.poll() is None, nginx.stderr.read()
                yield {
                    "nginx's defaults": Site(first, "/"),
                    "prefix removed": Site(first, "/sam/"),
                    "prefix kept": Site(second, "/sam/"),
                }
            finally:
                nginx.terminate()


@pytest.fixture(params=["nginx's defaults", "prefix removed", "prefix kept"])
def site(sites, request):
    return sites[request.param]


@pytest.fixture
def visitor(site):
    """An HTTP client that sends a browser's headers for the page https://sam.example.org, whose TLS ends at a proxy."""
    headers = {"Host": NAME, "Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}
    with httpx.Client(base_url=f"http://127.0.0.1:{site.port}", headers=headers, timeout=60) as visitor:
        yield visitor


def test_nginx_shows_the_page(site, visitor):
    page = visitor.get(site.path)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    links = re.findall(r'(?:href|src)="([^":#]+)"', page.text)
    assert "style.css" in links
    for link in (*links, "openapi.json"):
        assert visitor.get(urljoin(site.path, link)).status_code == 200, link
    described = visitor.get(f"{site.path}openapi.json").json()
    assert described.get("servers") == (None if site.path == "/" else [{"url": "/sam"}])


@pytest.mark.parametrize(
    "arguments",
    [
        {"content": CHELSEA},
        {"files": {"file": ("chelsea.png", CHELSEA)}},
        {"json": {"image": base64.b64encode(CHELSEA).decode()}},
    ],
    ids=["bytes", "form", "JSON"],
)
def test_nginx_passes_uploads_and_prompts(site, visitor, embedding, arguments):
    sent = visitor.post(f"{site.path}api/images", **arguments)
    assert sent.status_code == 201, sent.text
    place = sent.headers["location"]
    assert place == f"{site.path}api/images/{sent.json()['id']}"
    assert visitor.get(place).json() == sent.json()
    expected = rle.compress(rle.encode(embedding.segment([(220, 140)]).mask))
    assert visitor.post(f"{place}/masks", json=CAT).json()["masks"][0]["rle"] == expected
    assert visitor.get(f"{place}/picture").headers["content-type"] == "image/jpeg"
    assert visitor.delete(place).status_code == 204


@pytest.mark.parametrize(
    ("path", "size", "headers", "status"),
    [
        ("api/images", 1 << 20, {"Origin": "https://evil.example"}, 403),
        ("api/images", 1 << 20, {"Sec-Fetch-Site": "cross-site"}, 403),
        ("api/images/none/masks", 9 << 20, {}, 413),
    ],
)
def test_nginx_passes_the_reason_of_a_refusal(site, visitor, path, size, headers, status):
    """The server refuses these requests before it has read their bodies. If it then closed the connection, nginx would
    send 502 to most clients, so each request is sent several times."""
    for _ in range(5):
        answer = visitor.post(f"{site.path}{path}", content=bytes(size), headers=headers)
        assert answer.status_code == status
        assert list(answer.json()) == ["error"]


@pytest.mark.parametrize("site", ["prefix kept"], indirect=True)
def test_nginx_without_buffering_passes_a_stream_in_pieces(site, visitor):
    place = visitor.post(f"{site.path}api/images", content=CHELSEA).headers["location"]
    with visitor.stream("POST", f"{place}/everything", json={"points_per_side": 8}) as answer:
        pieces = list(answer.iter_raw())
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert len(pieces) > 1
    assert {key for line in b"".join(pieces).splitlines() for key in json.loads(line)} == {"progress", "mask"}
