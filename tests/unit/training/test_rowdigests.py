"""Rows held out by what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_training import rowdigests
from holdfast_training.columns import Columns, Frame

NAMES = Columns(("height", "width"), ("colour",))


def frame(numbers: list[list[float]], texts: list[str]) -> Frame:
    return Frame(np.array(numbers, np.float32).reshape(-1, 2), np.array(texts, object).reshape(-1, 1))


def drawn(rows: int) -> tuple[Frame, Any]:
    random = np.random.default_rng(4)
    texts = random.choice(["red", "white", ""], rows).astype(object)
    return frame(random.normal(size=(rows, 2)).tolist(), texts.tolist()), random.integers(0, 2, rows)


def test_a_row_is_the_same_wherever_its_columns_are() -> None:
    features, target = drawn(50)
    turned = Frame(features.numeric[:, ::-1], features.categorical)
    same = rowdigests.of(Columns(("width", "height"), ("colour",)), turned, target)
    assert rowdigests.of(NAMES, features, target).tolist() == same.tolist()


def test_a_row_is_another_when_a_value_has_another_column() -> None:
    features, target = drawn(50)
    swapped = Frame(features.numeric[:, ::-1], features.categorical)
    assert not np.any(rowdigests.of(NAMES, features, target) == rowdigests.of(NAMES, swapped, target))


def test_zero_and_missing_have_one_form_and_labels_that_read_the_same_are_the_same() -> None:
    plain = rowdigests.of(NAMES, frame([[0.0, np.nan]], ["red"]), np.array([1]))
    other_nan = frame([[-0.0, 0.0]], ["red"])
    other_nan.numeric.view(np.uint32)[0, 1] = 0xFFC00001
    assert rowdigests.of(NAMES, other_nan, np.array(["1"], object)).tolist() == plain.tolist()


@given(
    st.lists(st.text("ab", max_size=2), min_size=2, max_size=2),
    st.lists(st.text("ab", max_size=2), min_size=2, max_size=2),
)
def test_texts_do_not_run_into_each_other(first: list[str], second: list[str]) -> None:
    names = Columns((), ("one", "two"))
    digests = [
        rowdigests.of(names, Frame(np.empty((1, 0), np.float32), np.array([texts], object)), np.array([0]))[0]
        for texts in (first, second)
    ]
    assert (digests[0] == digests[1]) == (first == second)


def test_the_share_that_is_held_out_is_the_one_that_is_asked_for() -> None:
    digests = rowdigests.of(NAMES, *drawn(20_000))
    for percent in (5, 20, 50):
        out = rowdigests.held_out(digests, percent)
        assert abs(out.mean() - percent / 100) < 4 * (0.25 / len(digests)) ** 0.5
        assert not np.any(out & ~rowdigests.held_out(digests, percent + 1))
    assert not rowdigests.held_out(digests, 0).any()


def run(claim: Any, uri: str, **more: Any) -> dict[str, Any]:
    split = {"method": "RowDigest", "testPercent": 30}
    document = claim.spec(uri, "diagnosis", "Classification", "GaussianNB", split=split, **more)
    done: dict[str, Any] = claim.train(document)
    return done


def test_a_run_holds_out_the_same_rows_whatever_else_is_in_its_data(
    claim: Any, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, *lines = (shipped / "breast-cancer.csv").read_text().splitlines(keepends=True)
    sides: list[tuple[set[bytes], set[bytes]]] = []
    take = Frame.take

    def kept(self: Frame, rows: Any) -> Frame:
        taken = take(self, rows)
        parts.append({row.tobytes() for row in taken.numeric})
        return taken

    monkeypatch.setattr(Frame, "take", kept)
    for name, part in (("all.csv", lines), ("some.csv", lines[200:])):
        parts: list[set[bytes]] = []
        done = run(claim, claim.text(name, "".join([header, *part])))
        assert done["data"]["testRows"] / len(part) == pytest.approx(0.3, abs=0.08)
        sides.append((parts[0], parts[1]))
        lineage = json.loads((claim.last / "manifest.json").read_text())["lineage"]
        assert (lineage["splitMethod"], lineage["testPercent"]) == ("RowDigest", 30)
    (all_learned, all_held_out), (learned, held_out) = sides
    assert learned < all_learned
    assert held_out < all_held_out
    assert not all_learned & all_held_out


def test_the_seed_does_not_move_rows(claim: Any, shipped: Path) -> None:
    uri = claim.text("data.csv", (shipped / "breast-cancer.csv").read_bytes())
    rows = {run(claim, uri, seed=seed)["data"]["testRows"] for seed in (1, 2)}
    assert len(rows) == 1


def test_a_class_that_would_be_held_out_whole_is_refused(claim: Any) -> None:
    rows = [[number, "yes" if number % 2 else "no"] for number in range(60)]
    for number in range(60, 100):  # until one is held out
        uri = claim.rows("data.csv", ["a", "diagnosis"], [*rows, [number, "rare"]])
        digest = rowdigests.of(
            Columns(("a",), ()),
            Frame(np.array([[number]], np.float32), np.empty((1, 0), object)),
            np.array(["rare"], object),
        )
        if rowdigests.held_out(digest, 30)[0]:
            break
    split = {"method": "RowDigest", "testPercent": 30}
    error = claim.failure(claim.spec(uri, "diagnosis", "Classification", "GaussianNB", split=split))
    assert error.reason == "DataInvalid"
    assert error.message == ("class 2 of 3 (in sorted order) has 1 row, first at row 61, and all of them are held out")
