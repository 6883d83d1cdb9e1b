"""From which address a request came, as far as that can be believed."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from starlette.datastructures import Headers
from starlette.types import Scope

_IPV6_PREFIX = 64  # one customer of a provider has a whole /64


class Peers:
    """Tells peers apart: by the address of their connection, or by what a trusted proxy says of it."""

    def __init__(self, trusted_proxies: Iterable[IPv4Network | IPv6Network] = ()) -> None:
        """Believe the header X-Forwarded-For of these proxies only."""
        self._trusted = tuple(trusted_proxies)

    def is_trusted(self, host: str) -> bool:
        """Return True if the address belongs to a trusted proxy."""
        address = _address(host)
        return address is not None and any(address in network for network in self._trusted)

    def of(self, scope: Scope) -> str:
        """Return who sent a request: an IPv4 address, or the first 64 bits of an IPv6 address."""
        host = (scope.get("client") or ("",))[0]
        if self.is_trusted(host):
            forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
            for entry in reversed([each.strip() for each in forwarded]):  # each proxy appends an address
                if _address(entry) is None:
                    break
                host = entry
                if not self.is_trusted(host):
                    break
        return name_of(host)


def name_of(host: str) -> str:
    """Return the name under which an address is counted."""
    address = _address(host)
    if isinstance(address, IPv6Address):
        return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
    return host if address is None else str(address)


@lru_cache(maxsize=4096)
def _address(host: str) -> IPv4Address | IPv6Address | None:
    """Read an address, with or without a port; None if it is none."""
    bare = host[1:].partition("]")[0] if host.startswith("[") else host
    if bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
