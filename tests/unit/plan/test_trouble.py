"""What pods say is wrong, as it is told on."""

from typing import Any

import pytest
from tests.unit.plan.world import START

from holdfast.plan import trouble
from holdfast.plan.observed import Claim, Pod

KNOWN = frozenset({"DigestMismatch"})


def pod(**given: Any) -> Pod:
    return Pod("wine-x1", "uid", {}, given.pop("phase", "Running"), START, **given)


def told(*pods: Pod, claims: tuple[Claim, ...] = ()) -> tuple[str, str] | None:
    found = trouble.of_pods(pods, claims, KNOWN)
    return (found.reason, found.message) if found else None


def test_a_healthy_pod_and_one_that_starts_have_no_trouble() -> None:
    assert (
        told(pod(ready=True, restarts=4, exit_code=1), pod(phase="Pending", waiting_reason="ContainerCreating")) is None
    )


def test_a_pod_that_ended_well_has_no_trouble() -> None:
    assert told(pod(phase="Succeeded", exit_code=0)) is None


def test_a_server_that_ends_well_again_and_again_is_in_trouble() -> None:
    assert told(pod(exit_code=0, restarts=3)) is not None


def test_only_reasons_of_our_own_programs_are_believed() -> None:
    mismatch = pod(exit_code=3, termination_message='{"reason": "DigestMismatch", "message": "words"}')
    made_up = pod(exit_code=3, termination_message='{"reason": "Wonderful", "message": "words"}')
    assert told(mismatch) == ("DigestMismatch", "words")
    assert (told(made_up) or ("", ""))[0] == "CrashLoop"


@pytest.mark.parametrize("said", [None, "", "[1, 2]", "null", '{"reason": 5}', "{", '{"reason": {"a": 1}}'])
def test_whatever_a_program_leaves_behind_can_be_read(said: str | None) -> None:
    assert (told(pod(exit_code=1, termination_message=said)) or ("", ""))[0] == "CrashLoop"


def test_a_volume_that_cannot_be_mounted_is_told() -> None:
    assert told(pod(phase="Pending", mount_message="FailedMount: timed out")) == (
        "Unschedulable",
        "pod wine-x1: FailedMount: timed out",
    )


@pytest.mark.parametrize(("modes", "hint"), [(("ReadWriteOnce",), True), (("ReadWriteOnce", "ReadWriteMany"), False)])
def test_only_a_claim_of_one_node_is_explained(modes: tuple[str, ...], hint: bool) -> None:
    claims = (Claim("models", True, modes, "Bound"),)
    found = told(pod(phase="Pending", unschedulable="1 node(s) had volume node affinity conflict"), claims=claims)
    assert found is not None
    assert ("one node at a time" in found[1]) == hint
