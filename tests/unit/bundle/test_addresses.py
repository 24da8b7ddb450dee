from __future__ import annotations

from ipaddress import ip_address

import pytest

from holdfast_bundle.addresses import Reach, reach_of

REFUSED = """
    127.0.0.1 127.255.255.254 ::1 169.254.169.254 169.254.170.2 fe80::1 fec0::1 0.0.0.0 0.1.2.3 :: 224.0.0.1 ff02::1
    255.255.255.255 240.0.0.1 100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::254 fd00:ec2::23 fd20:ce::254
    ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::127.0.0.1 2002:7f00:1::1 2002:a9fe:a9fe::1 64:ff9b::169.254.169.254
    64:ff9b:1::7f00:1 2001:0:4136:e378:8000:63bf:5601:5601
"""


@pytest.mark.parametrize("text", REFUSED.split())
def test_addresses_that_only_the_pod_can_reach_are_refused(text: str) -> None:
    assert reach_of(ip_address(text)) is Reach.REFUSED


@pytest.mark.parametrize("text", ["10.0.0.1", "172.16.0.9", "192.168.1.1", "100.64.0.1", "fd12::1", "::ffff:10.0.0.1"])
def test_addresses_inside_a_cluster_are_legal_and_private(text: str) -> None:
    assert reach_of(ip_address(text)) is Reach.PRIVATE


@pytest.mark.parametrize("text", ["1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_addresses_of_the_internet_are_public(text: str) -> None:
    assert reach_of(ip_address(text)) is Reach.PUBLIC
