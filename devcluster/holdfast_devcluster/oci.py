"""An image of one layer, written without any tool: busybox, for pause containers and for tests."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from holdfast_devcluster.binaries import ARCHITECTURE

USERS = "root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532:nonroot:/tmp:/bin/sh\n"
GROUPS = "root:x:0:\nnonroot:x:65532:\n"


def write_busybox(archive: Path, image: str, busybox: Path, applets: Sequence[str]) -> None:
    """A docker archive of `image` with a static busybox as every applet; by default it sleeps for ever."""
    layer = _layer(busybox.read_bytes(), applets)
    config = json.dumps(
        {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": {
                "Cmd": ["/bin/sleep", "2147483647"],
                "Env": ["PATH=/bin"],
                "User": "65532:65532",
            },
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


def _layer(busybox: bytes, applets: Sequence[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        _add(tar, "etc/passwd", USERS.encode())
        _add(tar, "etc/group", GROUPS.encode())
        _add(tar, "bin/busybox", busybox, 0o755)
        for applet in sorted({*applets} - {"busybox"}):
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
