"""The size of the serving image, unpacked, without its base."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from holdfast_devcluster.images import IMAGES

_OURS = "opt/holdfast"


def image_mb(report: Callable[[str], None]) -> float:
    """MB (10^6 bytes) of the files that the image has beyond its base; it is built where it is not up to date.

    Raises:
        subprocess.CalledProcessError: it cannot be built; why is in `stderr`.
    """
    report("building the serving image")
    command = [sys.executable, "-m", "holdfast_devcluster", "build-image", "serving"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return sum(own_files(IMAGES["serving"].archive).values()) / 1e6


def own_files(archive: Path) -> dict[str, int]:
    """Sizes by path of what lies in the layers from the first one on that has something of ours."""
    files: dict[str, int] = {}
    ours = False
    with tarfile.open(archive) as outer:
        manifest = outer.extractfile("manifest.json")
        assert manifest is not None
        for name in json.load(manifest)[0]["Layers"]:
            with tarfile.open(fileobj=outer.extractfile(name)) as layer:
                members = layer.getmembers()
            ours = ours or any(member.name.startswith(_OURS) for member in members)
            if ours:
                _lay_over(files, members)
    return files


def _lay_over(files: dict[str, int], members: list[tarfile.TarInfo]) -> None:
    for member in members:
        folder, _, name = member.name.rpartition("/")
        if name.startswith(".wh."):  # takes away what an earlier layer has
            gone = f"{folder}/{name.removeprefix('.wh.')}"
            for path in [path for path in files if path == gone or path.startswith(f"{gone}/")]:
                del files[path]
        elif member.isfile():
            files[member.name] = member.size


def main() -> int:
    """Print the size, and the largest files."""
    print(f"{image_mb(lambda text: print(text, file=sys.stderr)):.1f} MB")
    files = own_files(IMAGES["serving"].archive)
    for path in sorted(files, key=files.__getitem__, reverse=True)[:40]:
        print(f"{files[path] / 1e6:8.2f}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
