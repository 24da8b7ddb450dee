"""Models with something changed, by octets or by what they mean, on their way through the gates of the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from tests.hostile.bombs import nodes, tree
from tests.hostile.demands import every_type
from tests.hostile.files import branches, calls, classifier, plain
from tests.hostile.mutate import mutant
from tests.hostile.nursery import Nursery
from tests.unit.serving.models import centred, lookup, node, row_sums

from holdfast_bundle.errors import BundleError
from holdfast_bundle.onnx_safety import check_external_data

_NUMBERS = (
    *(0, 1, -1, 2, 7, 64, 127, 255, 1 << 20, 1 << 31, (1 << 31) - 1),
    *(1 << 32, 1 << 40, (1 << 63) - 1, -(1 << 63), -(1 << 31)),
)
_FRACTIONS = (0.0, -1.0, 1e38, float("nan"), float("inf"), 1e-45)
_TEXTS = (
    *("", "x", "../secret", "w" * 10_000, "\0", "Loop", "Conv"),
    *("TreeEnsembleRegressor", "SVMClassifier", "ai.onnx.ml", "com.microsoft"),
)
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: 32, FieldDescriptor.CPPTYPE_INT64: 64, FieldDescriptor.CPPTYPE_UINT32: 32,
    FieldDescriptor.CPPTYPE_UINT64: 64,
}  # fmt: skip


def bases() -> list[bytes]:
    """Small models of many kinds."""
    return [
        plain(), classifier(), tree()(), every_type(), branches(2), calls(("f", ["g", "Neg"]), ("g", ["Neg"])),
        centred(), lookup(), row_sums(),
        nodes(node("Softmax", "x", "a", axis=1), node("TopK", "a k", "y i", axis=1), k=_array(1))(),
    ]  # fmt: skip


def _array(*values: int) -> Any:
    import numpy as np

    return np.array(values, np.int64)


def mutants(count: int, seed: int) -> Iterator[bytes]:
    """As many, always the same ones for a seed."""
    random = Random(seed)
    originals = bases()
    for _ in range(count):
        content = random.choice(originals)
        if random.random() < 0.4:
            yield mutant(content, originals, random)
        else:
            yield _meaning_changed(content, originals, random)


def _meaning_changed(content: bytes, others: list[bytes], random: Random) -> bytes:
    made = onnx.load_from_string(content)
    for _ in range(random.randint(1, 4)):
        message, field, value = random.choice(list(_walk(made)))
        _change(message, field, value, random, onnx.load_from_string(random.choice(others)))
    try:
        changed: bytes = made.SerializeToString()
    except ValueError:  # more than protobuf writes
        return content
    return changed


def _walk(message: Any) -> Iterator[tuple[Any, Any, Any]]:
    """(message, field, value) of everything that is set."""
    for field, value in message.ListFields():
        yield message, field, value
        if field.message_type is not None:
            for item in value if field.is_repeated else [value]:
                yield from _walk(item)


def _change(message: Any, field: Any, value: Any, random: Random, other: Any) -> None:
    if field.is_repeated:
        if not value:
            return
        index = random.randrange(len(value))
        kind = random.randrange(4)
        if kind == 0:
            del value[index]
        elif kind == 1:
            value.extend([value[index]] * random.choice((1, 1, 100)))
        elif kind == 2:
            items = list(value)
            random.shuffle(items)
            message.ClearField(field.name)
            getattr(message, field.name).extend(items)
        elif field.message_type is None:
            value[index] = _other_value(field, value[index], random, other)
        else:
            value[index].CopyFrom(random.choice(value))
    elif field.message_type is not None or random.random() < 0.2:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _other_value(field, value, random, other))


def _other_value(field: Any, value: Any, random: Random, other: Any) -> Any:
    """A value of the field's type."""
    bits = _INTEGERS.get(field.cpp_type)
    if field.enum_type is not None:
        return random.choice([item.number for item in field.enum_type.values])
    if bits is not None:
        number = random.choice((*_NUMBERS, value + 1, value - 1))
        limit = 1 << bits - 1
        return number if -limit <= number < limit else value
    if field.type == FieldDescriptor.TYPE_BYTES:
        return mutant(value or b"\0", [value or b"\0"], random)
    if field.type == FieldDescriptor.TYPE_STRING:
        names = [item for _, f, item in _walk(other) if f.type == FieldDescriptor.TYPE_STRING and not f.is_repeated]
        return random.choice([*_TEXTS, *names])
    return random.choice(_FRACTIONS)


def judge(content: bytes, folder: Path, nursery: Nursery) -> str:
    """How far a model gets: "refused", "crashed" (a process of the probe, and nothing else), or "served".

    AssertionError for what would have ended the server.
    """
    path = folder / "model.onnx"
    path.write_bytes(content)
    try:
        check_external_data(path, folder)
        nursery.probe(path)
        nursery.serve(path)
    except BundleError as error:
        return "crashed" if "crashes the runtime" in error.message else "refused"
    return "served"


def judge_all(count: int, seed: int, folder: Path, nursery: Nursery) -> Counter[str]:
    """How many got how far."""
    outcomes: Counter[str] = Counter()
    for number, content in enumerate(mutants(count, seed)):
        try:
            outcomes[judge(content, folder, nursery)] += 1
        except AssertionError as error:
            (folder.parent / f"mutant-{seed}-{number}.onnx").write_bytes(content)
            raise AssertionError(f"mutant {number} of seed {seed}") from error
    return outcomes
