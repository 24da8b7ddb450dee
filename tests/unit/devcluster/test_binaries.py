import re
from pathlib import Path

import pytest

from holdfast_devcluster import ClusterError, binaries

module = binaries.module


def test_versions_come_from_go_mod() -> None:
    for each in binaries.MODULES:
        assert each.version.startswith("v")
    assert f"require k8s.io/kubernetes {module('kubernetes').version}" in (
        binaries.SOURCES / "kubernetes" / "go.mod"
    ).read_text().replace("\t", " ")


def test_a_named_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(binaries.ENVIRONMENT, str(tmp_path))
    (tmp_path / "etcd").write_text("#!/bin/sh\n")
    (tmp_path / "etcd").chmod(0o755)
    found = binaries.find("etcd")["etcd"]
    assert found.path == tmp_path / "etcd"
    assert binaries.ENVIRONMENT in found.source


def test_the_cache_comes_before_any_download_or_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(binaries.ENVIRONMENT, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached = module("kwok").cache / "kwok"
    cached.parent.mkdir(parents=True)
    cached.write_text("")
    monkeypatch.setenv("PATH", "")  # no go: a build would fail
    assert binaries.find("kwok")["kwok"] == binaries.Found(cached, "from the cache")


def test_without_go_the_message_says_what_to_install_or_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(binaries.ENVIRONMENT, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ClusterError, match=r"Install Go 1\.21 or newer.*HOLDFAST_BINARIES"):
        binaries.find("kwok")


def test_an_unknown_program_is_refused() -> None:
    with pytest.raises(ClusterError, match="no pinned source for kube-nothing"):
        binaries.find("kube-nothing")


def test_kubernetes_is_built_to_report_its_real_version() -> None:
    command = binaries.build_command(module("kubernetes"), ["kubelet"], Path("out"))
    version = module("kubernetes").version
    assert f"-X k8s.io/component-base/version.gitVersion={version}" in command[command.index("-ldflags") + 1]
    assert command[-2:] == ["out/", "k8s.io/kubernetes/cmd/kubelet"]


def test_a_program_is_built_under_its_own_name(tmp_path: Path) -> None:
    assert binaries.built_path(tmp_path, "go.etcd.io/etcd/server/v3") == tmp_path / "server"
    assert binaries.built_path(tmp_path, "sigs.k8s.io/kwok/cmd/kwok") == tmp_path / "kwok"


@pytest.mark.parametrize(
    "listing",
    [
        "a" * 64,
        "a" * 64 + "\n",
        "b" * 64 + "  other.tar.gz\n" + "a" * 64 + "  file.tar.gz\n",
        "a" * 64 + " *release/file.tar.gz",
    ],
)
def test_a_checksum_is_found_in_each_form_that_projects_publish(listing: str) -> None:
    assert binaries.checksum_for("file.tar.gz", listing) == "a" * 64


def test_a_listing_without_the_file_gives_no_checksum() -> None:
    with pytest.raises(ValueError, match=r"no checksum of file\.tar\.gz"):
        binaries.checksum_for("file.tar.gz", "a" * 64 + "  other.tar.gz\n")


def test_prometheus_is_released_under_another_version_and_finds_what_kubernetes_runs() -> None:
    prometheus = module("prometheus")
    assert prometheus.version.startswith("v0.3")
    assert prometheus.released == re.sub(r"^v0\.3", "3.", prometheus.version)
    command = binaries.build_command(prometheus, ["promtool"], Path("out"))
    assert command[command.index("-tags") + 1] == "remove_all_sd,enable_kubernetes_sd"
    assert "-tags" not in binaries.build_command(module("etcd"), ["etcd"], Path("out"))
