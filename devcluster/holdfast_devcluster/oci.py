"""Images of one layer, written without any tool: busybox, for pause containers and for tests; static programs."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast_devcluster.binaries import ARCHITECTURE

USERS = "root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532:nonroot:/tmp:/bin/sh\n"
GROUPS = "root:x:0:\nnonroot:x:65532:\n"


def write_busybox(archive: Path, image: str, busybox: Path, applets: Sequence[str]) -> None:
    """A docker archive of `image` with a static busybox as every applet; by default it sleeps for ever."""
    links = dict.fromkeys({*applets} - {"busybox"}, "busybox")
    _write(archive, image, _layer({"busybox": busybox}, links), {"Cmd": ["/bin/sleep", "2147483647"]})


def write_programs(archive: Path, image: str, programs: Mapping[str, Path]) -> None:
    """A docker archive of `image` with static programs by their names; it runs the first one."""
    _write(archive, image, _layer(programs, {}), {"Entrypoint": [f"/bin/{next(iter(programs))}"]})


def _write(archive: Path, image: str, layer: bytes, run: Mapping[str, Sequence[str]]) -> None:
    config = json.dumps(
        {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": {**run, "Env": ["PATH=/bin"], "User": "65532:65532"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        },
        sort_keys=True,
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [image], "Layers": ["layer.tar"]}]
    new = archive.with_suffix(".new")
    with tarfile.open(new, "w") as tar:
        for file, content in (
            (name, config),
            ("layer.tar", layer),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            _add(tar, file, content)
    new.rename(archive)


def _layer(programs: Mapping[str, Path], links: Mapping[str, str]) -> bytes:
    """Files in /bin, and links beside them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        _add(tar, "etc/passwd", USERS.encode())
        _add(tar, "etc/group", GROUPS.encode())
        for name, program in programs.items():
            _add(tar, f"bin/{name}", program.read_bytes(), 0o755)
        for name, target in sorted(links.items()):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
