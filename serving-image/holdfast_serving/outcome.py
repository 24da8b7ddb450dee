"""How a pod of ours ends: exit code and last word."""

from __future__ import annotations

from holdfast_bundle.errors import BundleError

DONE, MAY_PASS, PERMANENT = 0, 1, 3
"""Exit codes. The Job's policy takes `PERMANENT` for a reason not to try again."""

_MODEL_REASONS = {"NotFound", "AccessDenied", "Unreachable", "Invalid"}
_MAY_PASS = {"NotFound", "AccessDenied", "Unreachable", "SecretNotFound", "SecretInvalid"}


def of_error(error: BundleError, uri: str) -> tuple[int, dict[str, str]]:
    """(exit code, termination message). The message names the model's URI, if the error is about one."""
    reason = f"Model{error.reason}" if error.reason in _MODEL_REASONS else error.reason
    message = f"{uri}: {error.message}" if uri not in error.message else error.message
    return MAY_PASS if error.reason in _MAY_PASS else PERMANENT, {"reason": reason, "message": message}
