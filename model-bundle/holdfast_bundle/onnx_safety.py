"""What an ONNX file may make its loader read: nothing but files of its own bundle.

A tensor can keep its data in another file, named in the model. Loaders have opened whatever was named there:
absolute paths, `..`, links, in tensors that their checks forgot. So every tensor is looked at here, before any
loader sees the file. The file is hostile until proven otherwise, hence this walks the protobuf wire format
itself: no recursion, a bounded number of steps, and no field is believed to be what it should be.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from holdfast_bundle.errors import BundleError

MAX_MODEL_BYTES = (2 << 30) - 1
"""No protobuf message can be larger; greater models keep their weights in other files."""

MAX_DEPTH = 100
"""Messages in one another. protobuf's own parsers stop at 100 too."""

MAX_STEPS = 20_000_000
"""Fields looked at. Runs of numbers count once, so real models stay far below."""

# Message types, and for each the fields that lead to a tensor. Everything else is skipped over.
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "ExternalData"},
    "ExternalData": {},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Attributes hold their numbers one field each: millions in a forest of trees. A run of equal tags is one step.
_RUNS = {
    b"\x3d": re.compile(rb"(?:\x3d[\x00-\xff]{4})*+"),  # Attribute.floats
    b"\x40": re.compile(rb"(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])*+"),  # Attribute.ints
}


@dataclass(frozen=True, slots=True)
class _External:
    """What one tensor says about its data's place."""

    locations: tuple[str, ...]
    offset: str | None
    length: str | None


def check_external_data(model_path: Path, root: Path) -> None:
    """Refuse a model that is not ONNX, or that would have files outside `root` read.

    External data must be a plain file with one name (no links of either kind) below `root`, and the part of it
    that a tensor asks for must exist. `root` and what is above it are trusted, what is below is not.

    Raises:
        BundleError: `Invalid`.
    """
    try:
        with open(model_path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= MAX_MODEL_BYTES:
                raise _invalid("is empty" if not size else "is larger than 2 GiB, which ONNX cannot be")
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
                places = _external_data(data)
    except OSError as error:
        raise _invalid(f"cannot be read ({error.strerror})") from error
    for place in places:
        _check_place(place, root)


def _external_data(data: mmap.mmap) -> set[_External]:
    """Every place that a tensor of the model names for its data."""
    found: set[_External] = set()
    has_graph = False
    steps = 0
    todo: list[tuple[str, int, int, int]] = [("Model", 0, len(data), 1)]
    while todo:
        message, position, end, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise _invalid(f"holds messages more than {MAX_DEPTH} deep in one another")
        wanted = _FIELDS[message]
        entries: list[tuple[str, str]] = []
        while position < end:
            steps += 1
            if steps > MAX_STEPS:
                raise _invalid("has more parts than a model can have")
            run = _RUNS.get(data[position : position + 1]) if message == "Attribute" else None
            if run is not None:
                match = run.match(data, position, end)
                if match is not None and match.end() > position:
                    position = match.end()
                    continue
            field, wire, position = _tag(data, position, end)
            if wire == _VARINT:
                _, position = _varint(data, position, end)
            elif wire == _FIXED64:
                position += 8
            elif wire == _FIXED32:
                position += 4
            elif wire == _BYTES:
                length, start = _varint(data, position, end)
                position = start + length
                if position > end:
                    raise _not_onnx()
                inner = wanted.get(field)
                if inner == "ExternalData":
                    entries.append(_entry(data, start, position))
                elif inner is not None:
                    has_graph = has_graph or message == "Model"
                    todo.append((inner, start, position, depth + 1))
            else:
                raise _not_onnx()  # groups: no ONNX message has any
            if position > end:
                raise _not_onnx()
        if entries:
            found.add(_place(entries))
    if not has_graph:
        raise _not_onnx()
    return found


def _tag(data: mmap.mmap, position: int, end: int) -> tuple[int, int, int]:
    """(field number, wire type, position behind it)."""
    tag, position = _varint(data, position, end)
    # Some parsers drop the bits above 32, so one tag could mean two fields.
    if not 8 <= tag < 1 << 32:
        raise _not_onnx()
    return tag >> 3, tag & 7, position


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """(value, position behind it)."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _not_onnx()


def _entry(data: mmap.mmap, position: int, end: int) -> tuple[str, str]:
    """Key and value of a StringStringEntry; a field given twice, on which readers disagree, is refused."""
    texts: dict[int, str] = {}
    while position < end:
        field, wire, position = _tag(data, position, end)
        length, start = _varint(data, position, end)
        position = start + length
        if wire != _BYTES or position > end or field not in (1, 2) or field in texts:
            raise _not_onnx()
        if length > 4096:
            raise _invalid("names external data in more than 4096 characters")
        try:
            texts[field] = data[start:position].decode()
        except UnicodeDecodeError:
            raise _not_onnx() from None
    return texts.get(1, ""), texts.get(2, "")


def _place(entries: list[tuple[str, str]]) -> _External:
    values = dict(entries)
    locations = tuple(value for key, value in entries if key == "location")
    return _External(locations, values.get("offset"), values.get("length"))


def _check_place(place: _External, root: Path) -> None:
    if len(place.locations) != 1:
        raise _invalid("has a tensor that names no place for its external data, or several")
    location = place.locations[0]
    path = PurePosixPath(location)
    if (
        not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or not location.isprintable()
        or any(character in location for character in "\\:*")  # drives, and ONNX Runtime's "*/_ORT_MEM_ADDR_/*"
    ):
        raise _invalid(f"names external data outside the bundle: {location[:200]!r}")
    size = _plain_file(root, path)
    offset, length = _number(place.offset), _number(place.length)
    if offset + length > size:
        raise _invalid(f"asks for more of {str(path)!r} than there is")


def _plain_file(root: Path, path: PurePosixPath) -> int:
    """The size of a plain file below `root`; no part of the way may be a link."""
    current = root
    for part in path.parts[:-1]:
        current = current / part
        if not stat.S_ISDIR(_mode(current, path).st_mode):
            raise _invalid(f"names external data that is not a plain file of the bundle: {str(path)!r}")
    status = _mode(current / path.name, path)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise _invalid(f"names external data that is not a plain file of the bundle: {str(path)!r}")
    return status.st_size


def _mode(path: Path, shown: PurePosixPath) -> os.stat_result:
    try:
        return path.lstat()
    except OSError as error:
        raise _invalid(f"names external data that is not in the bundle: {str(shown)!r}") from error


def _number(text: str | None) -> int:
    if text is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise _invalid("has a tensor whose external data has no proper offset and length")
    return int(text)


def _invalid(what: str) -> BundleError:
    return BundleError("Invalid", f"the model {what}")


def _not_onnx() -> BundleError:
    return BundleError("Invalid", "the file is not an ONNX model, or is damaged")
