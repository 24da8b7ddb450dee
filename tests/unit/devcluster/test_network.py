import ipaddress

from holdfast_devcluster.network import RANGE, SLOTS, Network


def test_clusters_side_by_side_share_no_address() -> None:
    taken = [
        ipaddress.IPv4Network(each)
        for slot in range(SLOTS)
        for each in (Network(slot).cluster_range, Network(slot).service_range)
    ]
    assert all(each.subnet_of(RANGE) for each in taken)
    assert not any(a.overlaps(b) for number, a in enumerate(taken) for b in taken[number + 1 :])


def test_node_pods_and_link_lie_in_the_routed_range_and_apart_from_each_other() -> None:
    network = Network(3)
    routed = ipaddress.IPv4Network(network.cluster_range)
    pods = ipaddress.IPv4Network(network.pod_range)
    assert pods.subnet_of(routed)
    assert ipaddress.ip_address(network.node) in pods
    for end in (network.host_end, network.cluster_end):
        assert ipaddress.ip_address(end) in routed
        assert ipaddress.ip_address(end) not in pods


def test_a_route_that_leads_our_addresses_elsewhere_is_a_conflict() -> None:
    vpn = {"dst": "198.18.0.0/16", "dev": "utun0"}
    assert Network(0).conflict([{"dst": "10.0.0.0/8", "dev": "eth0"}, vpn]) == vpn


def test_default_routes_our_own_link_and_other_clusters_are_no_conflict() -> None:
    routes = [
        {"dst": "default", "dev": "eth0"},
        {"dst": "0.0.0.0/1", "dev": "utun0"},
        {"dst": "128.0.0.0/1", "dev": "utun0"},
        {"dst": "198.18.0.0/20", "dev": "holdfast0"},
        {"dst": "198.18.16.0/20", "dev": "holdfast1"},
        {"dst": "fe80::/64", "dev": "eth0"},
        {"type": "local", "dst": "127.0.0.1", "dev": "lo"},
    ]
    assert Network(0).conflict(routes) is None
