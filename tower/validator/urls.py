"""The URLs of a cluster: checked, derived from one another, and shown without what is secret in them.

>>> websocket_url_for("http://127.0.0.1:8899")
'ws://127.0.0.1:8900/'
>>> websocket_url_for("https://api.example.org/key")
'wss://api.example.org/key'
>>> socket_address("http://localhost:8899"), socket_address("http://[::1]:8899/"), socket_address("https://api.example.org")
('127.0.0.1:8899', '[::1]:8899', None)
>>> shown("https://user:word@api.example.org/token?key=1")
'https://api.example.org'
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit, urlunsplit

from tower.errors import InvalidInput

__all__ = ["parse_url", "parse_websocket_url", "shown", "socket_address", "websocket_url_for"]


def parse_url(url: str, flag: str = "--url") -> str:
    """`url` if it is a usable http(s) URL; `InvalidInput` that names the flag otherwise."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise InvalidInput(f"{flag}: {url!r} is no http(s) URL; write it like http://127.0.0.1:8899")
    return url


def parse_websocket_url(text: str) -> str:
    """`text` if it is a usable ws(s) URL; `InvalidInput` that names `--ws` otherwise."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidInput(f"--ws: {text!r} is no ws(s) URL; write it like ws://127.0.0.1:8900")
    return text


def websocket_url_for(url: str) -> str:
    """The PubSub URL that belongs to a JSON-RPC URL, as Solana's tools derive it: ws(s), and the port plus one."""
    parts = urlsplit(parse_url(url))
    netloc = parts.netloc
    if parts.port is not None:
        if parts.port == 65535:
            raise InvalidInput(f"--url: {url!r} leaves no port above it for PubSub; give --ws")
        netloc = netloc[: netloc.rindex(":")] + f":{parts.port + 1}"
    scheme = "wss" if parts.scheme == "https" else "ws"
    return urlunsplit((scheme, netloc, parts.path or "/", parts.query, ""))


def socket_address(url: str) -> str | None:
    """`ip:port` of a plain HTTP URL, as the validators in use write a socket's address; `None` where none can be told: they know
    neither names nor https."""
    parts = urlsplit(url)
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if parts.scheme != "http" or parts.port is None or parts.path.strip("/"):
        return None
    return f"[{address}]:{parts.port}" if address.version == 6 else f"{address}:{parts.port}"


def shown(url: str) -> str:
    """The URL without user, password, path and query: providers put access tokens there."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
