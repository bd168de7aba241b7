"""Who may send a request: the checks of Host, Origin and key before every route.

- Host: a page of another site can let its own name point to this machine (DNS rebinding), and
  then read what the server answers. Its requests carry its own name in Host, which is refused.
- Origin: a page of another site can send requests, although it cannot read the answers. A browser
  names the page's origin, which must be the server itself or an origin of `allow_origin`.
- Key: as a Bearer token, or as the password of HTTP Basic authentication with any user name. A
  browser asks for the latter itself, sends it with every later request of the page, and keeps it
  out of addresses, histories and logs. Because a browser would also send it with the requests of
  other sites, it is safe only together with the check of Origin.
"""

import base64
import hmac
import socket
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from charlm.serving.errors import ApiError
from charlm.serving.options import ServeOptions, as_address, is_loopback

# The page loads nothing from elsewhere, runs no code but its own files, and is in no frame.
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# One scheme only: Chromium asks for no password if Bearer is named in the same header.
_CHALLENGE = 'Basic realm="charlm: the key as password", charset="UTF-8"'


class Guard:
    """ASGI middleware that refuses requests without a right Host, Origin and key."""

    def __init__(self, app: ASGIApp, options: ServeOptions) -> None:
        """Guard an app.

        Args:
            app: The app.
            options: Host, key and origins of the server.
        """
        self._app = app
        self._options = options
        self._names = _own_names(options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"the server speaks HTTP only, not {scope['type']}")
        app: ASGIApp = self._app
        try:
            self._check(_text_headers(scope["headers"]))
        except ApiError as error:
            app = error.response()
        await app(scope, receive, _with_headers(send))

    def _check(self, headers: Mapping[str, str]) -> None:
        """Raise ApiError for a request that is refused."""
        host = headers.get("host", "")
        if not self._is_own(host):
            raise ApiError(
                403,
                f"the server is not {host!r}; use the address that it printed, or start it with "
                "--allow-host",
                code="foreign_host",
            )
        origin = headers.get("origin")
        if origin is not None and not self._is_allowed(origin, host):
            raise ApiError(
                403,
                f"pages of {origin!r} may not use this server; start it with --allow-origin",
                code="foreign_origin",
            )
        if self._options.api_key is not None:
            _check_key(headers.get("authorization", ""), self._options.api_key)

    def _is_own(self, host: str) -> bool:
        name = _host_name(host)
        if name is None:
            return False
        # Nobody can let an address stand for another machine, as one can with a name.
        is_address = as_address(name) is not None and not self._options.is_local
        return name in self._names or is_loopback(name) or is_address

    def _is_allowed(self, origin: str, host: str) -> bool:
        if origin in self._options.allow_origin:
            return True
        scheme, _, netloc = origin.partition("://")
        return scheme in ("http", "https") and netloc.lower() == host.lower()


def _own_names(options: ServeOptions) -> frozenset[str]:
    """Return the names, in lower case, by which clients may address the server."""
    names = [options.host, *options.allow_host]
    if not options.is_local:
        names.append(socket.gethostname())
    return frozenset(name.lower() for name in names)


def _host_name(host: str) -> str | None:
    """Return the name or address in a Host header, in lower case; None for anything else."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname if parts.netloc == host and "@" not in host else None


def _check_key(authorization: str, key: str) -> None:
    if not authorization:
        message = "the server needs a key; send it as a Bearer token, or as the Basic password"
        raise _unauthorized(message, "missing_api_key")
    given = _given_key(authorization)
    # In constant time, so that the time of the answer says nothing about the key.
    if not hmac.compare_digest(given.encode("utf-8", "replace"), key.encode()):
        raise _unauthorized("the key is not that of the server", "invalid_api_key")


def _unauthorized(message: str, code: str) -> ApiError:
    return ApiError(401, message, code=code, headers={"WWW-Authenticate": _CHALLENGE})


def _given_key(authorization: str) -> str:
    """Return the key in an Authorization header; an empty text if it has none."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        credentials = base64.b64decode(value.strip(), validate=True).decode()
    except (Base64Error, ValueError):
        return ""
    return credentials.partition(":")[2]


def _text_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by name; values of a repeated one are joined, so that none is overlooked."""
    found: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _with_headers(send: Send) -> Send:
    """Return `send` with the security headers added to every response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return send_with_headers
