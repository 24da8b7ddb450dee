from pathlib import Path

import pytest
import yaml

from holdfast_devcluster import ClusterError, backends, images, paths


@pytest.mark.parametrize(
    ("wanted", "embedded_exists", "docker", "system", "chosen"),
    [
        ("auto", False, True, "Linux", "kind"),
        ("auto", False, True, "Darwin", "kind"),
        ("auto", False, False, "Linux", "embedded"),
        ("auto", True, True, "Linux", "embedded"),
        ("embedded", False, True, "Linux", "embedded"),
        ("kind", True, False, "Linux", "kind"),
        ("current", True, True, "Linux", "current"),
    ],
)
def test_the_back_end_is_what_was_asked_for_or_what_this_machine_can_do(
    wanted: str, embedded_exists: bool, docker: bool, system: str, chosen: str
) -> None:
    assert backends.choose(wanted, embedded_exists=embedded_exists, docker=docker, system=system) == chosen


def test_without_docker_and_linux_the_message_says_what_to_do() -> None:
    with pytest.raises(ClusterError, match="Start Docker, or set HOLDFAST_CLUSTER=current"):
        backends.choose("auto", embedded_exists=False, docker=False, system="Darwin")


def test_an_unknown_back_end_is_refused_with_those_there_are() -> None:
    with pytest.raises(ClusterError, match="HOLDFAST_CLUSTER=minikube is none of auto, embedded, kind, current"):
        backends.choose("minikube", embedded_exists=False, docker=True, system="Linux")


def test_kind_gets_the_configuration_of_this_repository() -> None:
    arguments = backends.create_arguments("demo", Path("state"))
    configuration = Path(arguments[arguments.index("--config") + 1])
    assert configuration == paths.REPOSITORY / "kind-config.yaml"
    assert yaml.safe_load(configuration.read_text())["kind"] == "Cluster"
    assert arguments[arguments.index("--kubeconfig") + 1] == "state/kubeconfig"


def test_the_current_context_s_kubeconfig_is_the_first_that_is_named(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.touch()
    current = backends.Current(print, {"KUBECONFIG": f"{first}:{second}"})
    assert current.kubeconfig() == first


def test_a_missing_kubeconfig_of_the_current_context_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"no kubeconfig at .*absent"):
        backends.Current(print, {"KUBECONFIG": str(tmp_path / "absent")}).kubeconfig()


def test_the_current_context_explains_how_images_get_to_it() -> None:
    said: list[str] = []
    backends.Current(said.append, {}).load(images.IMAGES["serving"])
    assert "localhost/holdfast-serving:dev" in said[0]
    assert str(images.IMAGES["serving"].archive) in said[0]
    assert "Push it to a registry" in said[0]


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(ClusterError, match="There is no no-such-program on this machine"):
        backends.run("no-such-program")
