"""The operator's environment."""

from pathlib import Path

import pytest

from holdfast.plan.guard import LEASE
from holdfast.settings import SettingsError, read
from holdfast.signals.prometheus import Address

REQUIRED = {"HOLDFAST_SERVING_IMAGE": "serving:1", "HOLDFAST_TRAINING_IMAGE": "training:1"}


def test_the_images_are_enough() -> None:
    settings = read({**REQUIRED, "POD_NAME": "operator-0"})
    assert settings.plan.serving_image == "serving:1"
    assert settings.plan.training_image == "training:1"
    assert settings.plan.image_pull_policy == "IfNotPresent"
    assert settings.namespaces == ()
    assert (settings.pod_name, settings.pod_namespace) == ("operator-0", "holdfast-system")
    assert (settings.workers, settings.health_port) == (16, 8081)


def test_namespaces_are_a_list_without_blanks_and_duplicates() -> None:
    assert read({**REQUIRED, "HOLDFAST_NAMESPACES": " a, b,,a "}).namespaces == ("a", "b")


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        read({"HOLDFAST_SERVING_IMAGE": "x", "HOLDFAST_WORKERS": "many", "HOLDFAST_IMAGE_PULL_POLICY": "Sometimes"})
    message = str(caught.value)
    assert "HOLDFAST_TRAINING_IMAGE must be set" in message
    assert "HOLDFAST_WORKERS must be a whole number from 1 to 256, not 'many'" in message
    assert "HOLDFAST_IMAGE_PULL_POLICY must be one of Always, IfNotPresent, Never, not 'Sometimes'" in message


@pytest.mark.parametrize("value", ["0", "-1", "257", "1e1", "٣"])
def test_workers_outside_their_bounds_are_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="HOLDFAST_WORKERS"):
        read({**REQUIRED, "HOLDFAST_WORKERS": value})


def test_pods_are_drained_for_no_less_than_a_lease_lasts() -> None:
    assert read(REQUIRED).plan.drain_seconds == 30
    assert read({**REQUIRED, "HOLDFAST_DRAIN_SECONDS": "120"}).plan.drain_seconds == 120
    with pytest.raises(SettingsError, match="HOLDFAST_DRAIN_SECONDS must be a whole number from 15 to 3600"):
        read({**REQUIRED, "HOLDFAST_DRAIN_SECONDS": str(int(LEASE.total_seconds()) - 1)})


def test_events_come_to_a_port_only_where_one_is_set() -> None:
    settings = read({**REQUIRED, "POD_NAMESPACE": "models-system"})
    assert settings.events_port is None
    assert settings.event_keys == Path("/etc/holdfast/event-keys")
    assert settings.events_peers == "holdfast-operator.models-system.svc"
    assert read({**REQUIRED, "HOLDFAST_EVENTS_PORT": "8082"}).events_port == 8082
    with pytest.raises(SettingsError, match="HOLDFAST_EVENT_KEYS must be an absolute path"):
        read({**REQUIRED, "HOLDFAST_EVENT_KEYS": "keys"})


def test_prometheus_is_optional_and_asked_every_fifteen_seconds() -> None:
    assert read(REQUIRED).prometheus is None
    settings = read({**REQUIRED, "HOLDFAST_PROMETHEUS_URL": "https://prometheus.example.com:9090/path/"})
    assert settings.prometheus == Address("https://prometheus.example.com:9090/path")
    assert settings.prometheus_seconds == 15


def test_prometheus_is_shown_a_token_and_checked_against_authorities() -> None:
    files = {"HOLDFAST_PROMETHEUS_TOKEN_FILE": "/run/token", "HOLDFAST_PROMETHEUS_CA_FILE": "/run/ca.crt"}
    settings = read({**REQUIRED, **files, "HOLDFAST_PROMETHEUS_URL": "http://[::1]:9090"})
    assert settings.prometheus == Address("http://[::1]:9090", Path("/run/token"), Path("/run/ca.crt"))
    with pytest.raises(SettingsError, match="need HOLDFAST_PROMETHEUS_URL"):
        read({**REQUIRED, **files})
    with pytest.raises(SettingsError, match="HOLDFAST_PROMETHEUS_CA_FILE must be an absolute path"):
        read({**REQUIRED, "HOLDFAST_PROMETHEUS_URL": "http://p", "HOLDFAST_PROMETHEUS_CA_FILE": "ca.crt"})


@pytest.mark.parametrize(
    "url",
    [
        "prometheus:9090",
        "ftp://p",
        "http://",
        "http://p:no",
        "http://u:canary@p",
        "http://p?q=1",
        "http://p#f",
        "http://p/a b",
    ],
)
def test_an_address_of_prometheus_that_is_none_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match="HOLDFAST_PROMETHEUS_URL must be") as caught:
        read({**REQUIRED, "HOLDFAST_PROMETHEUS_URL": url})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "prefixes"),
    [
        ("", ("*",)),
        ("*", ("*",)),
        ("none", ()),
        (" registry.example.com/team/, ghcr.io/x ", ("registry.example.com/team/", "ghcr.io/x")),
    ],
)
def test_images_of_trainers_of_ones_own_can_be_limited_and_switched_off(value: str, prefixes: tuple[str, ...]) -> None:
    assert read({**REQUIRED, "HOLDFAST_OWN_TRAINERS": value}).plan.own_images == prefixes


def test_none_beside_prefixes_is_refused() -> None:
    with pytest.raises(SettingsError, match="HOLDFAST_OWN_TRAINERS must be none alone"):
        read({**REQUIRED, "HOLDFAST_OWN_TRAINERS": "none,ghcr.io/x"})


def test_there_is_no_image_with_pytorch_or_tensorflow_unless_one_is_named() -> None:
    plan = read(REQUIRED).plan
    assert (plan.torch_image, plan.tensorflow_image) == ("", "")
    named = {"HOLDFAST_TRAINING_TORCH_IMAGE": " torch:1 ", "HOLDFAST_TRAINING_TENSORFLOW_IMAGE": " tf:1 "}
    plan = read({**REQUIRED, **named}).plan
    assert (plan.torch_image, plan.tensorflow_image) == ("torch:1", "tf:1")
