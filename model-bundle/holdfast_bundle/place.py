"""Where a model lies: one file, or a folder of files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from holdfast_bundle.download import File


@dataclass(frozen=True, slots=True)
class Entry:
    """What a list tells of a file.

    Attributes:
        name: relative to the folder, with `/`.
        size: None where the place does not tell it.
        stamp: an ETag, or when the file was changed last: another one means another content. Empty where the place
            tells neither.
    """

    name: str
    size: int | None
    stamp: str


def is_below(name: str) -> bool:
    """Whether a name is that of a file in a folder or deeper, wherever it came from: stores take any text for one."""
    return name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(name.split("/"))


class Place(Protocol):
    """What a model's URI leads to, on a claim, a web server, an object store or in a registry."""

    @property
    def single(self) -> bool:
        """Whether it is a file, hence a bare model; else a folder, hence a bundle. Raises BundleError."""
        ...

    def file(self, name: str = "") -> File:
        """The file `name` of the folder; without a name the single file. Raises BundleError."""
        ...
