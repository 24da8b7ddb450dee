"""The operator's environment."""

import pytest

from holdfast.settings import SettingsError, read

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
