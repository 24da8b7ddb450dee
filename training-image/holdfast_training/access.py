"""Who the pod says it is, at each place that it reads or writes.

Each Secret lies in a folder of its own, so that the keys to the data never open the output, and the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from holdfast_bundle.credentials import Credentials

SECRETS = Path("/mnt/secrets")


@dataclass(frozen=True, slots=True)
class Access:
    """What the pod was given.

    Attributes:
        service_account: that it was told to be; empty for the namespace's default.
        platform: the variables by which a platform gives it an identity.
        secrets: where each Secret has its folder.
    """

    service_account: str = ""
    platform: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Path = SECRETS

    def to(self, place: str, secret: str) -> Credentials:
        """Credentials for a place (`data`, `output`, …) whose Secret has this name; empty for none."""
        return Credentials(secret, self.secrets / place, self.service_account, self.platform)

    def mounted(self, place: str) -> str:
        """A name for the Secret that is mounted for a place, by whoever wrote the pod; empty where none is."""
        return place if (self.secrets / place).is_dir() else ""


NOBODY = Access()
