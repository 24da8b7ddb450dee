"""The exception of this package."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "NotFound",
    "AccessDenied",
    "Unreachable",
    "AddressRefused",
    "DigestMismatch",
    "Invalid",
    "SecretNotFound",
    "SecretInvalid",
]


class BundleError(Exception):
    """A file, a bundle or the way to it is not as it must be.

    Attributes:
        reason: one of `Reason`. Which of them may pass is for the caller to say.
        message: words for a person: hosts, paths of the URI, digests; never credentials or values.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.message = message


class FinalError(BundleError):
    """Trying again at once cannot help."""
