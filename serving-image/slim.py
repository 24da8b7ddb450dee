"""Run while the image is built: takes away what its packages carry and no server reads, then sees that all still works.

    python slim.py SITE-PACKAGES

Whole files go only where nothing that is left can ask for them. Of libraries go symbols and debugging information: what
is behind the last byte that the loader maps. A network that `strip` could be installed from is not there at that time.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

NEEDLESS = (
    # The wheel has the runtime twice: the module for Python holds all of it. The rest prepares models.
    "onnxruntime/capi/libonnxruntime.so*",
    "onnxruntime/backend",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    # To build extensions and to be tested.
    "numpy/_core/include",
    "numpy/_core/lib",
    "numpy/distutils",
    "numpy/f2py",
    "numpy/random/lib",
    "**/tests",
    "**/*.a",
    "**/*.c",
    "**/*.h",
    "**/*.pxd",
    "**/*.pyi",
    "**/*.pyx",
)
_DATASETS = "onnxruntime/datasets"
_PT_LOAD = 1

_CHECK = """
import sys
import google.protobuf.message_factory, httptools, nacl.signing, numpy, obstore.store, onnxruntime, orjson, uvloop
import prometheus_client
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
x = numpy.random.default_rng(0).random((3, 2), numpy.float32)
(y,) = session.run(None, {session.get_inputs()[0].name: x})
numpy.testing.assert_allclose(y, x * numpy.array([[1, 2], [3, 4], [5, 6]]), rtol=1e-6)
assert (x @ x.T).shape == (3, 3)
"""


def main(site_packages: Path) -> None:
    """Raises CalledProcessError when what is left does not work."""
    before = _size(site_packages)
    for pattern in NEEDLESS:
        _remove(site_packages.glob(pattern))
    for library in site_packages.rglob("*.so*"):
        if library.is_file() and not library.is_symlink():
            strip(library)
    model = site_packages / _DATASETS / "mul_1.onnx"
    subprocess.run([sys.executable, "-c", _CHECK, str(model)], check=True)  # noqa: S603 - our own words
    _remove([site_packages / _DATASETS])
    print(f"{before / 1e6:.1f} MB before, {_size(site_packages) / 1e6:.1f} MB after")


def strip(library: Path) -> None:
    """Cut an ELF file behind its last mapped byte, and forget the sections, which a loader does not look at."""
    with library.open("r+b") as file:
        head = file.read(64)
        if head[:6] != b"\x7fELF\x02\x01":  # only 64-bit little-endian
            return
        table, entry_size, count = *struct.unpack_from("<Q", head, 32), *struct.unpack_from("<HH", head, 54)
        end = table + entry_size * count
        for index in range(count):
            file.seek(table + index * entry_size)
            kind, _, offset, _, _, in_file = struct.unpack("<IIQQQQ", file.read(40))
            if kind == _PT_LOAD:
                end = max(end, offset + in_file)
        file.seek(40)
        file.write(bytes(8))  # where the table of sections is
        file.seek(58)
        file.write(bytes(6))  # its entries' size, their number, and which one holds the names
        file.truncate(end)


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
