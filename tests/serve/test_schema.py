"""Random requests, valid or invalid according to the OpenAPI description, never cause a server error."""

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import CHELSEA

from mobilesam.bench.page import run_server

pytest.importorskip("fastapi", reason="the extra serve is not installed")
schemathesis = pytest.importorskip("schemathesis", reason="the extra test-all is not installed")
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.extras

CHECKS = [schemathesis.checks.not_a_server_error, status_code_conformance, content_type_conformance,
          response_schema_conformance]  # fmt: skip
CASES = 60
OPERATIONS = [
    ("POST", "/api/images"),
    ("GET", "/api/images/{identity}"),
    ("GET", "/api/images/{identity}/picture"),
    ("POST", "/api/images/{identity}/masks"),
    ("POST", "/api/images/{identity}/everything"),
    ("POST", "/api/images/{identity}/export"),
    ("DELETE", "/api/images/{identity}"),
]


@pytest.fixture(scope="module")
def address():
    with run_server() as (address, _):
        yield address


@pytest.fixture(scope="module")
def schema(address):
    return schemathesis.openapi.from_url(f"{address}/openapi.json")


def test_every_operation_is_tried(schema):
    found = {(operation.ok().method.upper(), operation.ok().path) for operation in schema.get_all_operations()}
    assert found == set(OPERATIONS)


TRIED = [(mode, *one) for mode in ("positive", "negative") for one in OPERATIONS]


@pytest.mark.parametrize(("mode", "method", "path"), TRIED)
def test_the_server_never_fails(schema, address, mode, method, path):
    operation = schema[path][method]
    held = httpx.post(f"{address}/api/images", content=CHELSEA).json()["id"]

    @settings(max_examples=CASES, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)), known=st.booleans())
    def try_it(case, known):
        if known and "identity" in path and method != "DELETE":
            case.path_parameters["identity"] = held
            if path.endswith("everything") and isinstance(case.body, dict):
                case.body |= {"points_per_side": 1, "crop_n_layers": 0}  # makes the search for masks quick
        case.call_and_validate(base_url=address, checks=CHECKS)

    try_it()
