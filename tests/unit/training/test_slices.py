"""What each slice of the held-out rows must reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from holdfast_training import slices
from holdfast_training.errors import TrainingError
from holdfast_training.slices import Slice
from holdfast_training.spec import SliceRequirement

ACCURACY = SliceRequirement("Accuracy", minimum="0.9", min_rows=20)


def part(column: str, index: int, rows: int, **metrics: float) -> Slice:
    return Slice(column, index, "secret", rows, metrics)


def missed(requirement: SliceRequirement, *parts: Slice, names: tuple[str, ...] = ("a",)) -> TrainingError:
    with pytest.raises(TrainingError) as ended:
        slices.hold([requirement], names, parts)
    assert (ended.value.reason, ended.value.exit_code) == ("RequirementNotMet", 3)
    return ended.value


def test_every_slice_that_misses_a_bound_is_named_with_its_rows_value_and_limit_the_worst_first() -> None:
    error = missed(
        ACCURACY, part("a", 0, 40, Accuracy=0.85), part("a", 1, 50, Accuracy=0.95), part("a", 2, 1234, Accuracy=0.5)
    )
    assert error.message == (
        "Accuracy of slice a=2 (1,234 rows) is 0.5, below the minimum of 0.9; "
        "Accuracy of slice a=0 (40 rows) is 0.85, below the minimum of 0.9. Nothing was published"
    )
    assert [(each.rule, each.column, each.rows) for each in error.findings] == [
        ("RequirementNotMet", "a", 1234), ("RequirementNotMet", "a", 40),
    ]  # fmt: skip


def test_a_maximum_and_a_bound_that_rounding_would_hide_are_told() -> None:
    error = missed(SliceRequirement("RMSE", maximum="50"), part("a", 0, 30, RMSE=50.000001))
    assert "RMSE of slice a=0 (30 rows) is 50.000001, above the maximum of 50" in error.message


def test_a_long_list_is_counted_in_the_message_and_whole_in_the_findings() -> None:
    error = missed(ACCURACY, *(part("a", index, 20, Accuracy=0.1) for index in range(11)))
    assert error.message.endswith("; and 3 more, see findings. Nothing was published")
    assert len(error.findings) == 11


def test_a_slice_with_few_rows_or_no_value_is_not_judged_and_said() -> None:
    parts = [part("a", 0, 20, Accuracy=0.9), part("a", 1, 19, Accuracy=0.1), part("a", 2, 30), part("b", 0, 20)]
    (finding,) = slices.hold([ACCURACY], ["a"], parts)
    assert (finding.rule, finding.column, finding.rows) == ("SliceNotJudged", "a", 49)
    assert finding.message == ("Accuracy is not required of a=1, a=2: fewer than 20 held-out rows, or no value")


def test_a_column_of_which_no_slice_can_be_judged_misses_what_is_required() -> None:
    error = missed(ACCURACY, part("a", 0, 50, Accuracy=1), part("b", 0, 19, Accuracy=1), names=("a", "b"))
    assert error.message == (
        "Accuracy is required of each slice of b, but none has 20 held-out rows and a value. Nothing was published"
    )


def rows(count: int = 400) -> list[list[Any]]:
    """`y` follows `a`; but where `where` is south it is a coin, and in the west it is always no."""
    random = np.random.default_rng(1)
    made = []
    for a in random.normal(size=count).round(3).tolist():
        where = ["north", "south", "west"][random.integers(3)]
        y = {"north": a > 0, "south": random.random() > 0.5, "west": False}[where]
        made.append([a, where, "yes" if y else "no"])
    return made


def document(claim: Any, **more: Any) -> dict[str, Any]:
    uri = claim.rows("data.csv", ["a", "where", "y"], rows())
    parameters = {"max_depth": "4"}
    made: dict[str, Any] = claim.spec(
        uri, "y", "Classification", "DecisionTreeClassifier", parameters=parameters, slices=["where"], **more
    )
    return made


def test_a_run_whose_mean_is_good_and_whose_worst_slice_is_not_publishes_nothing(claim: Any) -> None:
    required = {"requirements": [{"metric": "Accuracy", "minimum": "0.75"}]}
    claim.train(document(claim, **required))
    claim.root.joinpath("out", "run-1").rename(claim.root / "published")
    bound = [{"metric": "Accuracy", "minimum": "0.75", "minRows": 15}]
    error = claim.failure(document(claim, **required, sliceRequirements=bound))
    assert error.reason == "RequirementNotMet"
    assert error.message.startswith("Accuracy of slice where=1 (")
    assert "where=0" not in error.message
    assert "south" not in error.message


def test_what_is_required_of_slices_is_not_sealed_and_what_was_not_judged_is_said(claim: Any) -> None:
    plain = claim.train(document(claim))
    bound = [{"metric": "Recall", "minimum": "0.01", "minRows": 15}]
    report = claim.train(document(claim, sliceRequirements=bound))
    assert report["model"]["digest"] == plain["model"]["digest"]
    (finding,) = (finding for finding in report["findings"] if finding["rule"] == "SliceNotJudged")
    assert finding["message"] == "Recall is not required of where=2: fewer than 15 held-out rows, or no value"
    assert plain["findings"] == [each for each in report["findings"] if each != finding]
