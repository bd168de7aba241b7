"""Options of the server, checked in one place: address, key, and what a client may use."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from charlm.errors import CharlmError, OptionError
from charlm.storage.untrusted import MEGABYTE, read_regular_file

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8765
MAX_LOGPROBS = 100  # Most probable tokens whose log-probabilities a client may get, per position.
_MIN_KEY_CHARACTERS = 16
_MAX_KEY_BYTES = 4096
_KEY = re.compile(r"[!-~]+")  # What an HTTP header can hold, without spaces.
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")


@dataclass(frozen=True)
class ServeOptions:
    """Address of the server, its key, and the limits on what clients may use.

    Attributes:
        host: Address or name to listen on.
        port: Port to listen on; 0 for any free one.
        api_key: Key that every request must carry; None for no key, on a loopback address only.
        allow_origin: Origins of other web pages that may send requests, such as
            `https://example.org`.
        allow_host: Further names by which clients may address the server, such as the name of a
            reverse proxy.
        max_streams: Number of texts that are written at the same time.
        max_queue: Number of texts that may wait; further ones are refused with status 429.
        max_text: Number of tokens of a text, prompt included.
        max_body: Number of bytes of a request.
        max_connections: Number of open connections.
        idle_seconds: Seconds in which a client must send a request, and take a part of a response.
        grace_seconds: Maximum seconds that running requests may take after SIGTERM or Ctrl-C.

    Raises:
        OptionError: A value is out of its range, or a key is missing.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    api_key: str | None = field(default=None, repr=False)
    allow_origin: tuple[str, ...] = ()
    allow_host: tuple[str, ...] = ()
    max_streams: int = 64
    max_queue: int = 256
    max_text: int = 1_000_000
    max_body: int = 8 * MEGABYTE
    max_connections: int = 256
    idle_seconds: float = 30.0
    grace_seconds: float = 5.0

    def __post_init__(self) -> None:
        """Check the ranges, and that a server for other machines has a key."""
        if not 0 <= self.port <= 65535:
            raise OptionError("port", "must be between 0 and 65535", value=self.port)
        _check_at_least_one(self, "max_streams", "max_text", "max_body", "max_connections")
        if self.max_queue < 0:
            raise OptionError("max_queue", "must be at least 0", value=self.max_queue)
        for name in ("idle_seconds", "grace_seconds"):
            if not 0 < getattr(self, name) <= 86400:
                raise OptionError(name, "must be above 0", value=getattr(self, name))
        for name in (self.host, *self.allow_host):
            if not _HOST.fullmatch(name):
                option = "host" if name == self.host else "allow_host"
                raise OptionError(option, "must be a name or an address", value=name)
        _check_origins(self.allow_origin)
        if self.api_key is not None:
            check_api_key(self.api_key)
        if self.api_key is None and not self.is_local:
            raise OptionError(
                "host",
                "makes the server available to other machines; give it a key with {}",
                value=self.host,
                others=["api_key_file"],
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether a name or address stands for this machine.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    address = as_address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def as_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a text is; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def check_api_key(key: str) -> None:
    """Raise OptionError for a text that cannot be a key."""
    if problem := _key_problem(key):
        raise OptionError("api_key", problem)


def read_api_key(path: Path) -> str:
    """Return the key in the first line of a file.

    Raises:
        CharlmError: The file cannot be read, or holds no key.
    """
    try:
        data = read_regular_file(path, max_bytes=_MAX_KEY_BYTES)
    except OSError as error:
        raise CharlmError(f"{path}: cannot be read: {error.strerror}; name another file") from None
    except ValueError as error:
        raise CharlmError(f"{path}: is no key: {error}; write one line") from None
    lines = data.decode("utf-8", "replace").splitlines() or [""]
    key = lines[0].strip()
    if problem := _key_problem(key):
        raise CharlmError(f"{path}: {problem}; write one, for example: openssl rand -hex 16")
    return key


def _check_at_least_one(options: ServeOptions, *names: str) -> None:
    for name in names:
        if getattr(options, name) < 1:
            raise OptionError(name, "must be at least 1", value=getattr(options, name))


def _key_problem(key: str) -> str:
    """Return what is wrong with a key, without the key itself; an empty text for a good one."""
    if len(key) < _MIN_KEY_CHARACTERS:
        return f"the key has {len(key)} characters, but must have at least {_MIN_KEY_CHARACTERS}"
    return "" if _KEY.fullmatch(key) else "the key must be ASCII characters without spaces"


def _check_origins(origins: Sequence[str]) -> None:
    for origin in origins:
        parts = _split(origin)
        if parts is None or origin != f"{parts.scheme}://{parts.netloc}":
            problem = "must be a scheme and a host, such as https://example.org"
            raise OptionError("allow_origin", problem, value=origin)


def _split(origin: str) -> SplitResult | None:
    """Return the parts of an origin; None if it is none."""
    try:
        parts = urlsplit(origin)
        _ = parts.port
    except ValueError:
        return None
    is_web = parts.scheme in ("http", "https") and bool(parts.hostname)
    return parts if is_web and "*" not in origin and "@" not in origin else None
