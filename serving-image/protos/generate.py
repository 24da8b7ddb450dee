"""python serving-image/protos/generate.py --write | --check: the descriptors that the server makes its messages from.

They are what protoc makes of the files beside this one, and lie in the package, so that no compiler is needed there.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

SOURCES = Path(__file__).parent
MADE = SOURCES.parent / "holdfast_serving" / "grpc" / "descriptors.binpb"


def descriptors() -> bytes:
    """A serialised FileDescriptorSet of all files."""
    files = sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "descriptors"
        if protoc.main(["protoc", f"-I{SOURCES}", f"--descriptor_set_out={made}", *files]) != 0:
            raise SystemExit("protoc has refused the files")
        return made.read_bytes()


def main() -> int:
    """Return the exit code."""
    if sys.argv[1:] == ["--write"]:
        MADE.write_bytes(descriptors())
    elif sys.argv[1:] != ["--check"]:
        print(__doc__, file=sys.stderr)
        return 2
    elif not MADE.exists() or MADE.read_bytes() != descriptors():
        print(f"{MADE.name} is not what its .proto files say: run `make protos`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
