from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast_bundle import termination


def test_a_short_payload_is_written_as_it_is(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    log.write_text("what an earlier run left, which was much longer than this")
    payload = {"reason": "DigestMismatch", "message": "größer"}
    termination.write(payload, log)
    assert json.loads(log.read_bytes()) == payload


def test_without_a_kubelet_nothing_is_made(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    termination.write({"reason": "ModelInvalid"}, log)
    assert not log.exists()


def test_a_long_message_loses_its_end_and_no_byte_more_than_needed() -> None:
    data = termination.encode({"reason": "DataInvalid", "message": "é" * 5000})
    assert termination.LIMIT - 4 <= len(data) <= termination.LIMIT
    assert json.loads(data)["message"].startswith("éééé")
    assert json.loads(data)["message"].endswith("é…")


def test_the_longest_list_is_cut_first_and_the_rest_stays_whole() -> None:
    payload: dict[str, Any] = {
        "result": "Completed",
        "model": {"uri": "pvc://models/" + "w" * 1000, "digest": "sha256:" + "0" * 64},
        "metrics": [{"name": "Accuracy", "value": "0.972"}],
        "packages": [{"name": f"package-{n}", "version": "1.0"} for n in range(500)],
    }
    data = termination.encode(payload)
    assert len(data) <= termination.LIMIT
    short = json.loads(data)
    assert {**short, "packages": []} == {**payload, "packages": []}
    assert short["packages"] == payload["packages"][: len(short["packages"])]
    assert len(short["packages"]) > 50


def test_findings_below_other_keys_are_cut_too() -> None:
    payload = {"data": {"findings": [{"message": "m" * 3000}, {"message": "n" * 3000}]}}
    data = termination.encode(payload)
    assert len(data) <= termination.LIMIT
    assert json.loads(data)["data"]["findings"] == [{"message": "m" * 3000}]


def test_what_must_stay_whole_is_never_cut_in_silence() -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        termination.encode({"model": {"uri": "x" * 5000}})
