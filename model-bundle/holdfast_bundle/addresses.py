"""Which network addresses a pod may fetch from."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address


class Reach(Enum):
    """Where an address lies, as far as fetching is concerned."""

    PUBLIC = "public"
    PRIVATE = "private"
    REFUSED = "refused"


Policy = Callable[[Address], Reach]
"""Says for one address whether it may be connected to. Production uses `reach_of`; tests bring their own."""

_METADATA = tuple(
    ip_network(text)
    for text in (
        "100.100.100.200/32",  # Alibaba Cloud
        "168.63.129.16/32",  # Azure's platform address
        "192.0.0.192/32",  # Oracle Cloud
        "fd00:ec2::/32",  # AWS: instance metadata, credentials of pods, time
        "fd20:ce::254/128",  # Google Cloud
    )
)
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE = IPv6Network("::/96")


def reach_of(address: Address) -> Reach:
    """The rule of production.

    Refused are addresses that lead to the pod itself, to its node's link, to a cloud's metadata service or to
    no one host: loopback, link-local, unspecified, multicast, broadcast and reserved ones, in every spelling
    that embeds an IPv4 address in an IPv6 one.
    """
    inner = _embedded(address)
    if inner is not None and reach_of(inner) is Reach.REFUSED:
        return Reach.REFUSED
    if (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or (isinstance(address, IPv4Address) and (address.is_reserved or address.packed[0] == 0))
        or (isinstance(address, IPv6Address) and address.is_site_local)
        or any(address in network for network in _METADATA)
    ):
        return Reach.REFUSED
    return Reach.PUBLIC if (inner or address).is_global else Reach.PRIVATE


def _embedded(address: Address) -> IPv4Address | None:
    """The IPv4 address that packets to this IPv6 address can end at."""
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _COMPATIBLE or any(address in network for network in _NAT64):
        return IPv4Address(address.packed[-4:])
    return None
