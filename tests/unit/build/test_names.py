"""Names of children, at the limits of what the API takes."""

import re

import pytest
from tests.unit.build import samples

from holdfast.api.meta import MAX_NAME
from holdfast.build import names

LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LONGEST = "w" * MAX_NAME
DASHED = "w" * 46 + "-----w"  # a cut at 48 would leave dashes at the end


@pytest.mark.parametrize("name", ["w", "wine", LONGEST, DASHED, "a-" * 25 + "b"])
def test_every_name_is_a_label(name: str) -> None:
    for manifest in samples.every_manifest(name=name).values():
        metadata = manifest["metadata"]
        assert LABEL.fullmatch(metadata["name"])
        assert all(len(value) <= 63 for value in metadata["labels"].values())


@pytest.mark.parametrize("name", [LONGEST, DASHED])
def test_the_name_of_a_run_leaves_room_for_the_index_of_a_pod(name: str) -> None:
    made = names.training_job(name, samples.UID)
    assert len(f"{made}-999") <= 63
    assert "--" not in made


def test_runs_with_the_same_beginning_of_a_name_get_jobs_of_different_names() -> None:
    one, other = names.training_job("w" * 48 + "a", "uid-1"), names.training_job("w" * 48 + "b", "uid-2")
    assert one != other


def test_a_run_made_anew_under_the_same_name_gets_another_job() -> None:
    assert names.training_job("wine", "uid-1") != names.training_job("wine", "uid-2")


def test_the_same_question_is_asked_by_the_same_helper() -> None:
    ask = names.helper_job
    assert ask("wine", "uid", "resolve", "pvc://a/b") == ask("wine", "uid", "resolve", "pvc://a/b")
    others = {ask("wine", "other", "resolve", "pvc://a/b"), ask("wine", "uid", "resolve", "pvc://a/c")}
    assert ask("wine", "uid", "resolve", "pvc://a/b") not in others


def test_joined_parts_cannot_be_confused() -> None:
    assert names.digest10("ab", "c") != names.digest10("a", "bc")
