"""How a run fails: with a reason for machines, words for people, and findings about the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Reason = Literal[
    "DataNotFound",
    "DataAccessDenied",
    "DataUnreachable",
    "DataChanging",
    "AddressRefused",
    "SecretNotFound",
    "SecretInvalid",
    "ChecksumMismatch",
    "ColumnNotFound",
    "DataInvalid",
    "TrainerNotInstalled",
    "ParametersInvalid",
    "TuningFailed",
    "ContractViolated",
    "RequirementNotMet",
    "ConversionFailed",
    "ParityFailed",
    "OutputNotWritable",
    "OutOfMemory",
    "WorkersMissing",
    "WorkerLost",
    "InternalError",
    "ModelNotFound",
    "ModelAccessDenied",
    "ModelUnreachable",
    "ModelInvalid",
    "DigestMismatch",
    "InputNotFound",
    "InputAccessDenied",
    "InputUnreachable",
    "InputInvalid",
    "TooManyBadRows",
]

MAY_PASS: frozenset[Reason] = frozenset(
    {
        *("DataUnreachable", "DataChanging", "InputUnreachable", "OutputNotWritable", "InternalError"),
        *("ModelNotFound", "ModelAccessDenied", "ModelUnreachable", "WorkersMissing"),
    }
)
"""Reasons for which trying again can help; all others fail the Job at once."""

WAITS: frozenset[Reason] = frozenset({"SecretNotFound", "SecretInvalid"})
"""Reasons that last until a person has done something, and then pass: they use up no attempt."""

ELSEWHERE: frozenset[Reason] = frozenset({"WorkerLost"})
"""Reasons that lie in another pod, which has used up the attempt already."""

MAX_FINDINGS = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the data: names and counts, never values, never the texts of categories.

    Attributes:
        rule: in CamelCase, for machines.
        column: its name; empty when it is about the whole table.
        rows: how many rows are concerned; 0 when it is not about rows.
    """

    rule: str
    message: str
    column: str = ""
    rows: int = 0

    def to_json(self) -> dict[str, Any]:
        """As in `status.findings`, whose lengths are limited."""
        finding: dict[str, Any] = {"rule": self.rule, "message": _cut(self.message, 256)}
        if self.column:
            finding["column"] = _cut(self.column, 128)
        if self.rows:
            finding["rows"] = self.rows
        return finding


class TrainingError(Exception):
    """The run ends here and publishes nothing."""

    def __init__(self, reason: Reason, message: str, findings: Sequence[Finding] = ()) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.message = message
        self.findings = tuple(findings)

    @property
    def is_permanent(self) -> bool:
        """Whether trying again cannot help."""
        return self.reason not in WAITS | MAY_PASS | ELSEWHERE

    @property
    def exit_code(self) -> int:
        """3: permanent; 4: waits for a person; 5: another pod has failed; 1: may pass."""
        if self.reason in WAITS:
            return 4
        if self.reason in ELSEWHERE:
            return 5
        return 1 if self.reason in MAY_PASS else 3


def data_invalid(findings: Sequence[Finding]) -> TrainingError:
    """DataInvalid whose message holds the first finding and says how many more there are."""
    first = findings[0]
    message = f"column {first.column}: {first.message}" if first.column else first.message
    if len(findings) > 1:
        message += f" (and {len(findings) - 1} more, see findings)"
    return TrainingError("DataInvalid", message, findings)


def count(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(names: Sequence[str], limit: int = 30) -> str:
    """Names for a message, with the rest counted."""
    shown = ", ".join(_cut(name, 64) for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
