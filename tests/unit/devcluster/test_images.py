import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from holdfast_devcluster import ClusterError, images, oci, packages, paths

LOCK = """\
alpha==1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:ab
beta==2.0 ; python_full_version < '3.12' \\
    --hash=sha256:b2
beta==3.0 ; python_full_version >= '3.12' \\
    --hash=sha256:b3
gamma==4.0 ; implementation_name != 'PyPy' and platform_python_implementation != 'PyPy' \\
    --hash=sha256:c4
"""


@pytest.mark.parametrize(("python", "kept", "dropped"), [("3.11", "beta==2.0", "b3"), ("3.12", "beta==3.0", "b2")])
def test_the_lock_is_cut_to_the_image_s_python(python: str, kept: str, dropped: str) -> None:
    requirements = images.requirements_for(LOCK, python)
    assert requirements.startswith("alpha==1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:ab\n")
    assert f"{kept} \\\n    --hash=" in requirements
    assert dropped not in requirements
    assert "gamma==4.0 \\\n    --hash=" in requirements
    assert ";" not in requirements


def test_the_lock_is_cut_to_linux() -> None:
    lock = "".join(
        f"{name} ; sys_platform {is_} 'win32' \\\n    --hash=sha256:aa\n"
        for name, is_ in (("a==1", "=="), ("b==2", "!="))
    )
    assert images.requirements_for(lock, "3.11") == "b==2 \\\n    --hash=sha256:aa\n"


@pytest.mark.parametrize(
    "image",
    [image for image in (images.IMAGES | images.OPTIONAL).values() if image.dockerfile and not image.debian],
    ids=lambda image: image.name,
)
def test_the_real_locks_are_understood_and_hashed_throughout(image: images.Image) -> None:
    requirements = images.requirements_for(image.lock.read_text(), images.PYTHON_VERSION)
    names = [line.split("==")[0] for line in requirements.splitlines() if not line.startswith(" ")]
    assert len(names) == len(set(names)) > 5
    assert requirements.count("--hash=sha256:") >= len(names)


def test_wheels_are_chosen_for_the_image_and_not_for_this_machine(tmp_path: Path) -> None:
    command = images.download_command(tmp_path / "r.txt", tmp_path, "aarch64")
    platforms = [command[at + 1] for at, word in enumerate(command) if word == "--platform"]
    assert platforms[0] == "manylinux_2_36_aarch64"
    assert "manylinux_2_17_aarch64" in platforms
    assert "--require-hashes" in command
    assert command[command.index("--python-version") + 1] == "3.11"


def test_an_image_s_digest_changes_with_its_sources_its_base_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = repository_with_an_image(tmp_path, monkeypatch)
    digest = images.inputs_digest(image, "base")
    (tmp_path / "code" / "__pycache__").mkdir()
    (tmp_path / "code" / "__pycache__" / "main.pyc").write_text("noise")
    (tmp_path / "elsewhere.py").write_text("noise")
    assert images.inputs_digest(image, "base") == digest
    assert images.inputs_digest(image, "other base") != digest
    (tmp_path / "code" / "main.py").write_text("print(2)\n")
    assert images.inputs_digest(image, "base") != digest


def test_an_image_s_digest_changes_with_the_image_that_it_adds_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = repository_with_an_image(tmp_path, monkeypatch)
    monkeypatch.setitem(images.IMAGES, "thing", below)
    (tmp_path / "requirements" / "more.txt").write_text(LOCK)
    more = images.Image("more", "Dockerfile", (), (), on="thing")
    digests = {images.inputs_digest(more, "base")}
    below.archive.parent.mkdir(parents=True)
    for content in ("first", "second"):
        below.archive.touch()
        below.archive.with_suffix(".inputs").write_text(content)
        digests.add(images.inputs_digest(more, "base"))
    assert len(digests) == 3


class Recorder:
    """A builder that writes down what it is asked for; it stands in for no image's content."""

    def __init__(self) -> None:
        self.store: list[str] = []
        self.built: list[str] = []

    def base(self, reference: str) -> str:
        return "id"

    def has(self, reference: str) -> bool:
        return reference in self.store

    def build(self, image: images.Image, base: str) -> None:
        self.store.append(image.reference)
        self.built.append(image.name)

    def save(self, image: images.Image, archive: Path) -> None:
        archive.touch()


def test_an_image_is_built_on_one_that_the_builder_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "collect_wheels", lambda image, report: None)
    monkeypatch.setitem(images.IMAGES, "thing", repository_with_an_image(tmp_path, monkeypatch))
    (tmp_path / "requirements" / "more.txt").write_text(LOCK)
    more, builder = images.Image("more", "Dockerfile", (), (), on="thing"), Recorder()
    for _ in range(2):  # the second time all is there
        images.build(more, builder, lambda _: None)
    assert builder.built == ["thing", "more"]
    builder.store.clear()  # as where only the archives were kept
    images.build(images.IMAGES["thing"], builder, lambda _: None)
    (tmp_path / "requirements" / "more.txt").write_text(LOCK + "\n")
    images.build(more, builder, lambda _: None)
    assert builder.built == ["thing", "more", "thing", "more"]


def test_loading_an_image_that_was_never_built_says_how_to_build_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = repository_with_an_image(tmp_path, monkeypatch)
    with pytest.raises(ClusterError, match="has not been built; `build-image thing`"):
        images.load(image, tmp_path, lambda archive: None, print)


def repository_with_an_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> images.Image:
    monkeypatch.setattr(paths, "REPOSITORY", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    (folder / "code").mkdir()
    (folder / "code" / "main.py").write_text("print(1)\n")
    (folder / "requirements").mkdir()
    (folder / "requirements" / "thing.txt").write_text(LOCK)
    (folder / "Dockerfile").write_text("FROM scratch\n")
    return images.Image("thing", "Dockerfile", (), ("code",))


def test_the_busybox_archive_is_a_whole_image(tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"program")
    archive = tmp_path / "image.tar"
    oci.write_busybox(archive, "localhost/box:1", busybox, ["sh", "sleep", "busybox"])
    with tarfile.open(archive) as tar:

        def content(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file is not None
            return file.read()

        (manifest,) = json.loads(content("manifest.json"))
        config = json.loads(content(manifest["Config"]))
        (layer,) = manifest["Layers"]
        assert manifest["RepoTags"] == ["localhost/box:1"]
        assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(content(layer)).hexdigest()}"]
        with tarfile.open(fileobj=tar.extractfile(layer)) as files:
            assert files.getmember("bin/sh").linkname == "busybox"
            assert files.getmember("bin/busybox").isreg()


def test_an_image_of_programs_has_them_and_is_written_when_one_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOLDFAST_BINARIES", str(tmp_path))
    for name in ("prometheus", "promtool"):
        (tmp_path / name).write_bytes(name.encode())
        (tmp_path / name).chmod(0o755)
    image, builder = images.IMAGES["prometheus"], images.DockerBuilder()  # which is not asked
    assert images.build(image, builder, lambda _: None) is True
    assert images.build(image, builder, lambda _: None) is False
    with tarfile.open(image.archive) as tar:

        def document(name: str) -> Any:
            file = tar.extractfile(name)
            assert file is not None
            return json.load(file)

        (manifest,) = document("manifest.json")
        assert manifest["RepoTags"] == [image.reference]
        assert document(manifest["Config"])["config"]["Entrypoint"] == ["/bin/prometheus"]
        with tarfile.open(fileobj=tar.extractfile("layer.tar")) as layer:
            assert layer.getmember("bin/prometheus").mode == 0o755
            assert layer.getmember("bin/promtool").size == len("promtool")
    (tmp_path / "promtool").write_bytes(b"another")
    assert images.build(image, builder, lambda _: None) is True


def test_a_static_program_is_told_from_a_dynamic_one(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert not packages.is_static(script)
    assert not packages.is_static(Path(os.path.realpath("/bin/sh")))


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is Debian's")
def test_a_package_is_indexed_as_apt_reads_it(tmp_path: Path) -> None:
    (tmp_path / "thing" / "DEBIAN").mkdir(parents=True)
    control = "Package: thing\nVersion: 1:2\nArchitecture: all\nMaintainer: nobody\nDescription: none\n"
    (tmp_path / "thing" / "DEBIAN" / "control").write_text(control)
    package = tmp_path / "thing_1%3a2_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tmp_path / "thing", package], check=True)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    assert packages.indexed(package).splitlines() == [
        *control.splitlines(),
        *(f"Filename: ./{package.name}", f"Size: {package.stat().st_size}", f"SHA256: {digest}"),
    ]


def test_missing_packages_are_named_where_they_cannot_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ClusterError, match="buildah debootstrap"):
        packages.require(["debootstrap", "buildah"], print)
