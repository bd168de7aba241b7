"""`/openapi.json` against what the routes accept, and any request at all: never status 500."""

import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from charlm.serving import schemas

EXAMPLES = int(os.environ.get("CHARLM_FUZZ_EXAMPLES", "100000"))  # Of the slow test.
TEXTS = st.text(max_size=20)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def description(client) -> dict[str, Any]:
    return client.get("/openapi.json").json()


def operations_of(description: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]


def body_of(operation: dict[str, Any]) -> dict[str, Any] | None:
    body = operation.get("requestBody")
    return None if body is None else body["content"]["application/json"]


def schema_of(description: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    schema = content["schema"]
    while "$ref" in schema:
        name = schema["$ref"].removeprefix("#/components/schemas/")
        schema = description["components"]["schemas"][name]
    return schema


def values_of(schema: dict[str, Any], defs: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return the values that a schema allows, mostly small ones."""
    if "$ref" in schema:
        return values_of(defs[schema["$ref"].rpartition("/")[2]], defs)
    if "anyOf" in schema:
        return st.one_of(*(values_of(part, defs) for part in schema["anyOf"]))
    kind = schema.get("type")
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", -5))
        high = min(schema.get("maximum", 30), 30)
        if kind == "integer":
            return st.integers(low, max(low, high))
        return st.floats(low, high, exclude_min="exclusiveMinimum" in schema)
    if kind == "string":
        # Half of a surrogate pair is no text.
        letters = st.characters(exclude_categories=["Cs"])
        return st.text(letters, min_size=schema.get("minLength", 0), max_size=8)
    if kind == "array":
        low = schema.get("minItems", 0)
        return st.lists(values_of(schema["items"], defs), min_size=low, max_size=low + 2)
    if kind == "object" and "properties" in schema:
        required = set(schema.get("required", ()))
        values = {name: values_of(part, defs) for name, part in schema["properties"].items()}
        return st.fixed_dictionaries(
            {name: value for name, value in values.items() if name in required},
            optional={name: value for name, value in values.items() if name not in required},
        )
    if kind == "object":
        numbers = st.integers(0, 30).map(str)
        return st.dictionaries(numbers, values_of(schema["additionalProperties"], defs), max_size=3)
    return {"boolean": st.booleans(), "null": st.none()}[kind]


def test_every_route_is_described_and_every_described_route_exists(client, description):
    described = {(method, path) for method, path, _ in operations_of(description)}
    files = ("/assets/", "/openapi.json")
    routes = {
        (method, route.path)
        for route in client.app.routes
        for method in route.methods - {"HEAD"}
        if route.path != "/" and not route.path.startswith(files)
    }
    assert described == routes


def accepted(client, method: str, path: str, body: dict[str, Any] | None) -> Any:
    """Return the answer to an example, which one of the runs accepts: some need records."""
    responses = []
    for model in client.get("/v1/models").json()["data"]:
        name = model["id"]
        sent = None if body is None else body | {"model": name}
        responses.append(client.request(method, path.replace("{model}", name), json=sent))
        if responses[-1].status_code == 200:
            return responses[-1]
    raise AssertionError((path, body, [response.text for response in responses]))


def test_every_example_is_accepted_and_answered_as_described(client, description):
    num_examples = 0
    for method, path, operation in operations_of(description):
        if "200" not in operation["responses"]:
            continue
        content = body_of(operation)
        examples = [{"value": None}] if content is None else content["examples"].values()
        for example in examples:
            response = accepted(client, method, path, example["value"])
            kind = response.headers["content-type"].partition(";")[0]
            if kind == "application/json":
                described = operation["responses"]["200"]["content"][kind]
                model = schema_of(description, described)
                names = set(model.get("properties", response.json()))
                assert set(model.get("required", ())) <= set(response.json()) <= names
            num_examples += 1
    assert num_examples > 10


def test_what_the_schema_allows_is_refused_only_for_its_meaning(client, description):
    """Types and names are right then; what remains are limits of the run and exclusions."""
    for method, path, operation in operations_of(description):
        content = body_of(operation)
        if content is not None:
            bodies = values_of(
                schema_of(description, content), description["components"]["schemas"]
            )
            check_allowed(client, method, path, bodies)


def check_allowed(client, method: str, path: str, bodies: st.SearchStrategy[Any]) -> None:
    wrong_types = ("must be text", "must be a number", "must be an integer", "must be true")

    name = client.get("/v1/models").json()["data"][0]["id"]

    @settings(max_examples=15)
    @given(bodies)
    def check(body):
        body["model"] = name
        response = client.request(method, path, json=body)
        assert response.status_code in (200, 400), (path, body, response.text)
        if response.status_code == 400:
            error = response.json()["error"]
            assert error["code"] != "unknown_parameter", (path, body, error)
            assert not any(text in error["message"] for text in wrong_types), (path, body, error)

    check()


def test_what_the_schema_forbids_is_refused(client, description):
    defs = description["components"]["schemas"]
    for method, path, operation in operations_of(description):
        content = body_of(operation)
        if content is None:
            continue
        schema = schema_of(description, content)
        assert schema["additionalProperties"] is False, path
        example = next(iter(content["examples"].values()))["value"]
        example = example | {"model": client.get("/v1/models").json()["data"][0]["id"]}
        wrong: list[dict[str, Any]] = [{"no_such_field": 1}]
        for name, part in schema["properties"].items():
            wrong.append({name: {"a": [None]}})
            for option in [part, *part.get("anyOf", ())]:
                if "maximum" in option:
                    wrong.append({name: option["maximum"] + 1})
                if "minimum" in option:
                    wrong.append({name: option["minimum"] - 1})
        wrong = [change for change in wrong if "stream_options" not in change]
        for change in wrong:
            response = client.request(method, path, json=example | change)
            assert response.status_code == 400, (path, change, response.text)
            assert response.json()["error"]["param"] == next(iter(change)), (path, change)
    assert defs["CompletionRequest"]["properties"]["prompt"]["anyOf"]


def some_bodies() -> st.SearchStrategy[bytes]:
    """Return bodies of every kind: near to right ones, JSON of any form, and any bytes."""
    names = [*sorted(schemas.CompletionRequest.model_fields), "sentences", "tokens", "text", "at"]
    objects = st.dictionaries(st.sampled_from(names) | TEXTS, ANY, max_size=6)
    small = {"max_tokens": st.integers(-2, 4), "prompt": TEXTS}
    others = {name: ANY for name in names if name not in small}
    near = st.fixed_dictionaries(small, optional=others)
    values = st.one_of(near, objects, ANY)
    return st.one_of(values.map(lambda value: json.dumps(value).encode()), st.binary(max_size=40))


def check_any_request(client: TestClient, examples: int) -> None:
    paths = sorted({route.path.replace("{model}", "x") for route in client.app.routes})
    methods = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(["POST"] * 8 + methods), st.sampled_from(paths), some_bodies())
    def check(method, path, body):
        response = client.request(method, path, content=body)
        assert response.status_code < 500, (method, path, body, response.text)
        if response.status_code >= 400 and method != "HEAD":
            error = response.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["message"]

    check()


def test_no_request_fails_in_the_server(client):
    check_any_request(client, 60)


@pytest.mark.slow
def test_no_request_of_very_many_fails_in_the_server(client):
    """CHARLM_FUZZ_EXAMPLES sets the number of requests."""
    check_any_request(client, EXAMPLES)
