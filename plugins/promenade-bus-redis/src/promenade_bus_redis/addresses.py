"""Addresses of servers: ``host:port``, the path of a Unix socket, or a URL with credentials.

Errors never show the given text: with a misplaced colon or an unencoded ``@``, a part of the password is in
the place of the host or the port.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs

from bus_core.config import Secret

__all__ = ["DEFAULT_PORT", "Address", "RedisUrl", "parse_address", "parse_url"]

DEFAULT_PORT: Final = 6379

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?")
_SCHEMES: Final = ("redis", "rediss", "unix")


@attrs.frozen
class Address:
    """One server: a host and a port, or the ``path`` of its Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, default_port: int = DEFAULT_PORT) -> Address:
    """Parses ``host``, ``host:port``, ``[ipv6]:port`` or ``/path/of/a/socket``; raises ``ValueError``."""
    text = text.strip()
    if text.startswith("/"):
        return Address(path=text)
    if "://" in text:
        raise ValueError("expected host:port, got a URL; give it as 'url'")
    if "@" in text:
        raise ValueError("an address has no user and password; give them as 'username' and 'password'")
    host, port_text = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not _IPV6.fullmatch(host) or (rest and not rest.startswith(":")):
            raise ValueError("expected [ipv6]:port, with an IPv6 address in the brackets")
        port_text = rest[1:]
    else:
        if text.count(":") > 1:
            raise ValueError("put an IPv6 address in brackets, as in [::1]:6379; only one colon is expected")
        host, _, port_text = text.partition(":")
        if not _HOST.fullmatch(host):
            raise ValueError(f"expected host:port or the path of a socket{'' if text else ', got nothing'}")
    return Address(host, _port(port_text, default_port))


def _port(text: str, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ValueError("expected a port from 1 to 65535 behind the colon")
    return int(text)


@attrs.frozen(kw_only=True)
class RedisUrl:
    """The parts of a URL; missing parts are None. ``str()`` and ``repr()`` hide credentials."""

    scheme: str
    address: Address
    username: str | None = attrs.field(default=None, repr=False)
    password: str | None = attrs.field(default=None, repr=False)
    db: int | None = None

    @property
    def has_tls(self) -> bool:
        """True if the scheme requires TLS."""
        return self.scheme == "rediss"

    def __str__(self) -> str:
        secret = "***@" if self.username or self.password else ""
        database = "" if self.db is None else f"?db={self.db}" if self.address.path else f"/{self.db}"
        return f"{self.scheme}://{secret}{self.address}{database}"


def parse_url(text: str) -> RedisUrl:
    """Parses ``redis://user:password@host:port/db``, ``rediss://...`` with TLS, or ``unix:///path?db=1``.

    Raises ``ValueError`` with all faults, and without the URL itself.
    """
    parts = None
    with suppress(ValueError):  # which repeats a part of the URL
        parts = urlsplit(text.strip())
    if parts is None:
        raise ValueError("the URL is invalid; percent-encode special characters")
    if parts.scheme not in _SCHEMES:
        raise ValueError("expected redis://, rediss:// or unix:// before the address")
    found: dict[str, Any] = {"scheme": parts.scheme}
    faults = [*_read_authority(parts, found), *_read_database(parts, found)]
    if faults:
        raise ValueError("; ".join(faults))
    return RedisUrl(**found)


def _read_authority(parts: SplitResult, found: dict[str, Any]) -> Iterator[str]:
    information, at, place = parts.netloc.rpartition("@")
    if at:
        username, _, password = information.partition(":")
        found["username"] = unquote(username) or None
        found["password"] = Secret(unquote(password)) if password else None
    try:
        if parts.scheme == "unix":
            if place:
                yield "write the path of a socket with three slashes: unix:///path"
            elif not parts.path.strip("/"):
                yield "the path of the socket is missing: unix:///path"
            found["address"] = Address(path=unquote(parts.path))
        elif not place:
            yield "the host is missing"
        elif "/" in place or "@" in place:
            yield "the host is invalid; percent-encode special characters of the password"
        else:
            found["address"] = parse_address(place)
    except ValueError as error:
        yield str(error)


def _read_database(parts: SplitResult, found: dict[str, Any]) -> Iterator[str]:
    parameters = parse_qsl(parts.query, keep_blank_values=True)
    if {name for name, _ in parameters} - {"db"}:
        yield (
            "it has a parameter other than db; set other options outside the URL, and percent-encode '?' in "
            "the password"
        )
    given = [value for name, value in parameters if name == "db"]
    if parts.scheme != "unix" and parts.path.strip("/"):
        given.append(parts.path.strip("/"))
    if parts.fragment:
        yield "the URL of a server has no fragment; percent-encode '#'"
    if len(given) > 1:
        yield "the database is given twice"
    for value in given[:1]:
        if value.isascii() and value.isdecimal() and len(value) <= 6:
            found["db"] = int(value)
        else:
            yield "the database is not a number"
