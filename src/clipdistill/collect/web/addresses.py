"""Which URLs and addresses may be fetched: http(s) of machines of the public internet.

A name is resolved once, all its addresses are checked, and only those addresses are connected to
(`CheckedResolver`).  So a second answer of a hostile DNS server has no effect.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from urllib.parse import SplitResult, quote, urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052's well-known prefix: the last 32 bits are an IPv4 address."""
TRANSLATED = ipaddress.IPv6Network("::ffff:0:0:0/96")
"""RFC 2765's IPv4-translated addresses: the last 32 bits are an IPv4 address."""
ISATAP = (0x00005EFE, 0x02005EFE)
"""RFC 5214: the 32 bits before an IPv4 address at the end of any IPv6 address."""
UNICAST = ipaddress.IPv6Network("2000::/3")
"""The only IPv6 addresses that IANA has given to the public internet; the rest is reserved."""
REFUSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "64:ff9b:1::/48",
        "2001::/23",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
)
"""Special-purpose blocks (IANA's registries, RFC 6890) that are global in some Python versions:
"this network", carrier NAT, 6to4 relays, benchmarking, reserved, local NAT64, Teredo and its
neighbours, documentation, segment routing, site-local."""
MAX_URL = 8000
"""Most characters of a URL; common servers refuse longer request lines."""
KEPT = "!#$%&'()*+,/:;=?@[]~"
"""What `encoded` does not encode, besides letters, digits and `_.-`; `%` because escapes stay."""


class Refused(Exception):
    """A URL or an address that must not be fetched; `str(error)` is the reason for the ledger."""


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, in any notation.

    IPv4-mapped (::ffff:a.b.c.d), IPv4-translated (::ffff:0:a.b.c.d), IPv4-compatible, NAT64, ISATAP
    and 6to4 addresses count as the IPv4 address inside.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return is_public(inner)
        if address.scope_id is not None or address not in UNICAST:
            return False
    refused = any(address.version == net.version and address in net for net in REFUSED)
    return address.is_global and not address.is_multicast and not refused


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address inside an IPv6 address, or None."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    compatible = int(address) >> 32 == 0 and int(address) > 0xFFFF
    isatap = int(address) >> 32 & 0xFFFFFFFF in ISATAP
    if address in NAT64 or address in TRANSLATED or compatible or isatap:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def checked_url(url: str, *, allow_private: bool) -> URL:
    """Check an untrusted URL and return it in a form that can be fetched.

    Blanks, Unicode and control characters of path and query are percent-encoded.  Existing escapes
    are kept, so that signed URLs keep their signature.

    Raises:
        Refused: the URL is not http(s), has a user or password, has no host, is too long or
            malformed, or its address is not public.
    """
    if len(url) > MAX_URL:
        raise Refused(f"url: expected at most {MAX_URL} characters, found {len(url)}")
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise Refused(f"url: malformed ({error})") from error
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https"):
        raise Refused(f"url: expected http or https, found {scheme or 'no scheme'!r}")
    if "@" in parts.netloc:
        raise Refused("url: user and password in a URL are not sent")
    if not host or "\\" in parts.netloc:
        raise Refused("url: no host")
    name = _host(host)
    literal = _literal(name)
    if literal is not None and not allow_private and not is_public(literal):
        raise Refused(f"address: {literal} is not a public address")
    return _compose(scheme, name, port, parts)


def _compose(scheme: str, name: str, port: int | None, parts: SplitResult) -> URL:
    netloc = f"[{name}]" if ":" in name else name
    if port is not None:
        netloc += f":{port}"
    text = f"{scheme}://{netloc}{encoded(parts.path) or '/'}"
    if parts.query:
        text += f"?{encoded(parts.query)}"
    try:
        return URL(text, encoded=True)
    except ValueError as error:
        raise Refused(f"url: malformed ({error})") from error


def encoded(text: str) -> str:
    """Percent-encode what a request line cannot hold; existing escapes are kept."""
    kept = quote(text, safe=KEPT, errors="surrogatepass")
    return re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", kept)


def _host(host: str) -> str:
    """The host in the form in which it is resolved: names in IDNA, addresses unchanged."""
    if ":" in host:
        return host
    try:
        name = URL.build(scheme="http", host=host).raw_host or ""
    except (ValueError, UnicodeError) as error:
        raise Refused(f"url: {host!r} is not a host name ({error})") from error
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", name):
        raise Refused(f"url: {host!r} is not a host name")
    return name


def _literal(host: str) -> Address | None:
    """The address, if the host is written as one, else None."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        if ":" in host:
            raise Refused(f"url: {host!r} is not an IPv6 address") from None
        return None


class CheckedResolver(AbstractResolver):
    """Resolves names for aiohttp's connector, and checks the addresses.

    Other notations of an address (127.1, 0x7f000001, 2130706433) are also resolved here, and
    checked as the system interprets them.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self.allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return every address of `host`.

        Raises:
            OSError: it has no address.
            Refused: one of its addresses is not public.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results: list[ResolveResult] = []
        for kind, _, protocol, _, place in found:
            text = str(place[0])
            if not self.allow_private and not is_public(ipaddress.ip_address(text)):
                raise Refused(f"address: {host} is at {text}, which is not a public address")
            results.append(
                ResolveResult(
                    hostname=host,
                    host=text,
                    port=port,
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        if not results:
            raise OSError(f"{host} has no address")
        return results

    async def close(self) -> None:
        """Do nothing; aiohttp requires this method."""
