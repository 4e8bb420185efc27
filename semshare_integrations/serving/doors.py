"""What a web page of somebody else, open in a browser on this machine, must not make the browser do."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from starlette.datastructures import Headers

from semshare_integrations.serving.errors import RequestError


def is_loopback(host: str) -> bool:
    """Whether ``host`` means this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_origin(method: str, headers: Headers) -> None:
    """Raises :class:`RequestError` for what other sites' pages can send without asking, which is text and forms.

    JSON they cannot: the browser would ask the server first.
    """
    crossing = headers.get("sec-fetch-site") == "cross-site"
    if crossing and not (method == "GET" and headers.get("sec-fetch-mode") == "navigate"):  # a link may lead here
        raise RequestError(
            "A page of another site sent this. Ask from a page of this server, or from a program.",
            403,
            code="cross_site",
        )
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if method == "POST" and kind != "application/json":
        raise RequestError(
            "A request must have the header Content-Type: application/json.", 415, code="unsupported_media_type"
        )


def check_host(headers: Headers, also: Collection[str]) -> None:
    """Of a server that listens to its own machine alone: raises :class:`RequestError` unless it is asked as that.

    Otherwise a page whose name leads to this machine (DNS rebinding) would be of the server's own site.
    """
    name = _name(headers.get("host", ""))
    if not is_loopback(name) and name not in also:
        raise RequestError(
            "This server is for its own machine: ask http://127.0.0.1 or http://localhost. If a proxy passes other "
            "names on, start it with --allow-host NAME.",
            403,
            code="unknown_host",
        )


def _name(host: str) -> str:
    """Without the port, and without the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
