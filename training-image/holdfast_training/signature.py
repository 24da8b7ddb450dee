"""What a published model takes and gives, and the rows of a table as it takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast_bundle.errors import BundleError
from holdfast_bundle.manifest import Tensor
from holdfast_training import embeddings
from holdfast_training.columns import Columns, Frame
from holdfast_training.errors import Finding, TrainingError, data_invalid, listed
from holdfast_training.images import Images, shape_in_words
from holdfast_training.spec import Features

Feeds = dict[str, npt.NDArray[Any]]

_RUNTIME_TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    **{f"tensor({sign}int{bits})": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "BYTES": np.dtype(object),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    **{f"{sign}INT{bits}": np.dtype(f"{sign}int{bits}".lower()) for sign in ("", "U") for bits in (8, 16, 32, 64)},
}


def tensors(described: Sequence[Any], listed: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Inputs or outputs as the runtime describes them, with the shapes and labels that only the manifest knows.

    Raises:
        BundleError: `Invalid` for what is no tensor.
    """
    by_name = {tensor.name: tensor for tensor in listed}
    return tuple(_tensor(one, by_name.get(one.name)) for one in described)


def _tensor(described: Any, listed: Tensor | None) -> Tensor:
    datatype = _RUNTIME_TYPES.get(described.type)
    if datatype is None:
        raise BundleError("Invalid", "the model takes or gives something else than tensors")
    shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in described.shape)
    if listed is None:
        return Tensor(described.name, datatype, shape)
    if len(shape) == len(listed.shape):
        shape = tuple(max(sizes) for sizes in zip(shape, listed.shape, strict=True))
    return replace(listed, datatype=datatype, shape=shape or listed.shape)


def difference(role: str, champion: Sequence[Tensor], challenger: Sequence[Tensor]) -> str:
    """In words, what keeps a client from asking one as it asks the other; empty where nothing does.

    Args:
        role: `inputs` or `outputs`. Labels of outputs count where both are known.
    """
    before, now = ({tensor.name: tensor for tensor in each} for each in (champion, challenger))
    if missing := [name for name in before if name not in now]:
        return f"the challenger lacks {role} of the champion: {listed(missing, 5)}"
    if added := [name for name in now if name not in before]:
        return f"the challenger has {role} that the champion lacks: {listed(added, 5)}"
    if changed := [name for name in before if not _same(before[name], now[name])]:
        return f"{role} of the challenger have another type, shape or other classes: {listed(changed, 5)}"
    if list(before) != list(now):
        return f"{role} of the challenger have another order"
    return ""


def _same(champion: Tensor, challenger: Tensor) -> bool:
    labels = not (champion.labels and challenger.labels) or champion.labels == challenger.labels
    return labels and (champion.datatype, champion.shape) == (challenger.datatype, challenger.shape)


Layout = Mapping[str, tuple[str, ...]]
"""The columns of the data that each input takes, in their order."""


def layout(inputs: Sequence[Tensor], named: Layout, present: Sequence[str], target: str) -> Layout:
    """Which columns a model takes: one of each input's name, or those of a matrix.

    Args:
        named: columns of matrices, as the bundle's profile has them. Where it says nothing, a model's only input takes
            all columns but the target.
        present: columns of the data.

    Raises:
        TrainingError: `ModelInvalid` where nobody can tell.
    """
    return {tensor.name: _columns(tensor, inputs, named, present, target) for tensor in inputs}


def _columns(
    tensor: Tensor, inputs: Sequence[Tensor], named: Layout, present: Sequence[str], target: str
) -> tuple[str, ...]:
    width = tensor.shape[1] if len(tensor.shape) == 2 else 1  # of an image it is one column, too
    if width == 1 and (tensor.name in present or len(inputs) > 1):
        return (tensor.name,)
    others = tuple(name for name in present if name != target)
    for columns in (named.get(tensor.name), _vector(tensor, present), others if len(inputs) == 1 else None):
        if columns and width in (-1, len(columns)):
            return columns
    message = (
        f"nobody can tell which columns the input {tensor.name[:64]} takes: name them in profile.json, or give "
        "data with these columns and the target alone"
    )
    raise TrainingError("ModelInvalid", message)


def _vector(tensor: Tensor, present: Sequence[str]) -> tuple[str, ...]:
    """The elements of a vector of the input's name; none where the data have no such one."""
    if tensor.name in present and len(tensor.shape) == 2:
        return embeddings.elements(tensor.name, tensor.shape[1])
    return embeddings.numbered(tensor.name, present)


def features(inputs: Sequence[Tensor], columns: Layout) -> Features:
    """The columns that a model takes, of the kinds that it takes them as."""
    texts = [tensor.name for tensor in inputs if tensor.datatype == "BYTES"]
    vectors = [name for name, own in columns.items() if len(own) > 1 and own == embeddings.elements(name, len(own))]
    return Features(
        numeric=tuple(name for input, names in columns.items() if input not in (*texts, *vectors) for name in names),
        categorical=tuple(name for input in texts for name in columns[input]),
        embeddings=tuple(vectors),
    )


def feeds(inputs: Sequence[Tensor], columns: Layout, known: Columns, frame: Frame) -> Feeds:
    """Rows as the model takes them.

    Raises:
        TrainingError: `DataInvalid` for a missing number where the model takes none.
    """
    return {tensor.name: _values(tensor, columns[tensor.name], known, frame) for tensor in inputs}


def _values(tensor: Tensor, columns: Sequence[str], known: Columns, frame: Frame) -> npt.NDArray[Any]:
    values: npt.NDArray[Any]
    if frame.pixels is not None or len(tensor.shape) > 2:
        return _pixels(tensor, known, frame)
    if tensor.datatype == "BYTES":
        values = frame.categorical[:, [known.categorical.index(name) for name in columns]]
    else:
        values = frame.numeric[:, [known.numeric.index(name) for name in columns]]
        if not tensor.datatype.startswith("FP") and (missing := int(np.isnan(values).sum())):
            message = f"missing numbers, and the model takes {tensor.datatype}"
            raise data_invalid([Finding("Missing", message, tensor.name, missing)])
        values = values.astype(NUMPY[tensor.datatype])
    return values if len(tensor.shape) == 2 else values.ravel()


def _pixels(tensor: Tensor, known: Columns, frame: Frame) -> npt.NDArray[Any]:
    found, sizes = known.images, tensor.shape[1:]
    if found is not None and frame.pixels is not None and _takes(tensor, found):
        return frame.pixels
    there = f"images of {found.datatype} {shape_in_words(found.shape)}" if found else "columns of single values"
    message = (
        f"a row of this input of the model is {tensor.datatype} {shape_in_words(sizes)}, and the data have {there}"
    )
    raise data_invalid([Finding("ImagesDiffer", message, tensor.name)])


def _takes(tensor: Tensor, images: Images) -> bool:
    wanted = tensor.shape[1:]
    if (tensor.datatype, len(wanted)) != (images.datatype, len(images.shape)):
        return False
    return all(size in (-1, there) for size, there in zip(wanted, images.shape, strict=True))
