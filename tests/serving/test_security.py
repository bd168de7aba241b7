"""Who is refused, on every route of the app."""

import base64
from collections.abc import Iterator

import pytest
from serving.servers import KEY, loaded
from starlette.testclient import TestClient

from charlm.serving.app import make_app
from charlm.serving.options import ServeOptions

BEARER = {"Authorization": f"Bearer {KEY}"}


def client_of(trained, **options) -> TestClient:
    app = make_app(loaded(trained), ServeOptions(**options))
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def keyed(trained) -> Iterator[TestClient]:
    with client_of(trained, host="0.0.0.0", api_key=KEY, allow_host=("models.example",)) as client:
        yield client


def requests_of(client: TestClient) -> list[tuple[str, str]]:
    """Return method and path of every route, and of one that does not exist."""
    found = [
        (method, route.path.replace("{model}", "x"))
        for route in client.app.routes
        for method in sorted(route.methods)
    ]
    assert {"/", "/health", "/metrics", "/openapi.json", "/v1/completions"} <= {
        path for _, path in found
    }
    return [*found, ("GET", "/nothing"), ("PUT", "/v1/completions"), ("OPTIONS", "/health")]


def check_refused(client: TestClient, status: int, code: str, **headers: str) -> None:
    for method, path in requests_of(client):
        response = client.request(method, path, headers=headers, content=b"{}")
        assert response.status_code == status, (method, path)
        if method != "HEAD":
            assert response.json()["error"]["code"] == code, (method, path)


def basic(password: str, user: str = "me") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_every_route_needs_the_key(keyed):
    check_refused(keyed, 401, "missing_api_key")
    wrong = [
        "Bearer wrong",
        "Bearer ",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Token {KEY}",
        KEY,
        "Basic !",
        "Basic " + base64.b64encode(b"\xff\xff").decode(),
        basic("wrong"),
        basic("", user=KEY),
    ]
    for authorization in wrong:
        check_refused(keyed, 401, "invalid_api_key", Authorization=authorization)


def test_the_right_key_is_accepted_as_token_and_as_password(keyed):
    for authorization in (f"Bearer {KEY}", f"bearer {KEY}", basic(KEY), basic(KEY, user="")):
        headers = {"Authorization": authorization}
        assert keyed.get("/health", headers=headers).status_code == 200
        assert keyed.get("/", headers=headers).status_code == 200


def test_a_browser_is_asked_for_the_key(keyed):
    assert "Basic realm=" in keyed.get("/").headers["www-authenticate"]


def test_a_key_in_the_address_is_not_accepted(keyed):
    assert keyed.get(f"/health?key={KEY}&api_key={KEY}").status_code == 401


def test_a_foreign_host_is_refused_on_every_route(trained, keyed):
    foreign = ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "a@127.0.0.1"]
    with client_of(trained) as local:
        for host in [*foreign, "192.168.1.2", "[", "localhost:x"]:
            check_refused(local, 403, "foreign_host", Host=host)
        for host in ("127.0.0.1:8765", "localhost", "LOCALHOST:1", "[::1]:8765", "127.0.0.1"):
            assert local.get("/health", headers={"Host": host}).status_code == 200, host
    for host in foreign:
        check_refused(keyed, 403, "foreign_host", Host=host, **BEARER)
    for host in ("192.168.1.2:8765", "models.example", "127.0.0.1"):
        assert keyed.get("/health", headers={"Host": host, **BEARER}).status_code == 200, host


def test_a_foreign_origin_is_refused_on_every_route(trained, keyed):
    foreign = [
        "https://evil.example",
        "null",
        "http://127.0.0.1:9999",
        "http://127.0.0.1.evil.example",
        "file://",
        "",
    ]
    with client_of(trained) as local:
        for origin in foreign:
            check_refused(local, 403, "foreign_origin", Origin=origin)
        own = {"Origin": "http://127.0.0.1:8765", "Host": "127.0.0.1:8765"}
        response = local.get("/health", headers=own)
        assert response.status_code == 200
        assert not any(name.startswith("access-control") for name in response.headers)
    for origin in foreign:
        check_refused(keyed, 403, "foreign_origin", Origin=origin, **BEARER)


def test_an_allowed_origin_may_read_answers_and_others_may_not(trained):
    options = {"allow_origin": ("https://notes.example",), "api_key": KEY}
    preflight = {"Access-Control-Request-Method": "POST"}
    # The last one is a header of OpenAI's client.
    preflight["Access-Control-Request-Headers"] = "authorization,content-type,x-stainless-lang"
    with client_of(trained, **options) as client:
        allowed = {"Origin": "https://notes.example"}
        response = client.options("/v1/completions", headers=allowed | preflight)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://notes.example"
        response = client.get("/health", headers=allowed | BEARER)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://notes.example"
        assert client.get("/health", headers=allowed).status_code == 401
        foreign = {"Origin": "https://evil.example"}
        response = client.options("/v1/completions", headers=foreign | preflight)
        assert "access-control-allow-origin" not in response.headers
        assert client.get("/health", headers=foreign | BEARER).status_code == 403


def test_every_response_forbids_foreign_code_frames_and_guesses_of_types(keyed):
    for headers in ({}, BEARER):
        for method, path in requests_of(keyed):
            found = keyed.request(method, path, headers=headers, content=b"{}").headers
            policy = found["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert found["x-content-type-options"] == "nosniff"
            assert found["referrer-policy"] == "no-referrer"


def test_a_websocket_is_refused(trained):
    with (
        client_of(trained) as client,
        pytest.raises(RuntimeError, match="HTTP only"),
        client.websocket_connect("/health"),
    ):
        pass


def test_what_a_client_sends_is_escaped_in_the_log(trained):
    lines: list[str] = []
    app = make_app(loaded(trained), ServeOptions(), log=lines.append)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        client.get("/a%0AGET /forged 200%1b[31m\u202e" + "x" * 1000)
        client.post("/v1/completions", json={"prompt": "a", "model": "\n../../etc/passwd\x1b"})
    assert len(lines) == 2
    for line in lines:
        assert line.isprintable() and len(line) < 300
    assert "\\nGET" in lines[0] and "404" in lines[0]


def test_a_name_of_a_model_is_never_a_path(client, trained):
    for name in ("../trained", str(trained), "trained/../trained", "."):
        response = client.post("/v1/completions", json={"prompt": "a", "model": name})
        assert response.status_code == 404
        assert str(trained.parent) not in response.text.replace(name, "")
