"""Which addresses the service calls: URLs as the operator spelled them, and machines that anybody may reach."""

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_UNICAST = ipaddress.ip_network("2000::/3")
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_LONGEST_URL = 4096


def is_allowed(url: str, prefixes: tuple[str, ...]) -> bool:
    """Whether the URL begins as one of `prefixes`, each up to a slash behind its host, and leads nowhere else.

    The prefix `https://` alone stands for every host, at its usual port.
    """
    if not (url.startswith(prefixes) and url.isascii() and url.isprintable() and len(url) <= _LONGEST_URL):
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    steps = re.split(r"[/\\]", unquote(parts.path))
    if not parts.hostname or {" ", "\\"} & set(url) or any(step.partition(";")[0] in (".", "..") for step in steps):
        return False
    if url.startswith(tuple(prefix for prefix in prefixes if prefix.count("/") > 2)):
        return True
    return "@" not in parts.netloc and port in (None, 443)


def may_be_reached(address: Address, networks: Sequence[Network]) -> bool:
    """Whether the address is in one of `networks`, or on the public internet, whatever form it is written in."""
    if any(address in network for network in networks):
        return True
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    if (inner := _inner(address)) is not None:
        return may_be_reached(inner, networks)
    tunnelled = address.sixtofour is not None or address.teredo is not None
    return address.is_global and address in _UNICAST and not tunnelled


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to it arrive at."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _TRANSLATED else None
