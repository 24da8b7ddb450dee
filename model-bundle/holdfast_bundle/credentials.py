"""Who a pod says it is when it fetches: by the keys of a Secret, or by an identity that its platform gave it.

A Secret's keys are files, read at each fetch, so that a rotated one needs no restart. The platform's identity is a
set of environment variables that cluster webhooks (EKS, AKS) put into pods of a ServiceAccount; they name token
files. Whoever writes a model's spec can set variables too, so what they say is believed only where it leads to the
platform.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from holdfast_bundle.errors import BundleError

SECRET = Path("/mnt/secrets/storage")
"""Where a pod finds the keys of the Secret that it was given."""

_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_")
_PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})
_MAX_KEY_BYTES = 1 << 20
_TOKENS = "/var/run/secrets/"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a fetch may use.

    Attributes:
        secret: the Secret's name, for messages; empty when none is given.
        folder: where its keys are.
        service_account: the ServiceAccount that the pod was told to be; empty for the namespace's default.
        platform: the variables by which the platform gives an identity.
    """

    secret: str = ""
    folder: Path = SECRET
    service_account: str = ""
    platform: Mapping[str, str] = field(default_factory=dict, repr=False)

    def key(self, name: str) -> str | None:
        """The value of one key of the Secret, without blanks around it; None where it has none.

        Raises:
            BundleError: `SecretNotFound` when there is no Secret under its name.
        """
        if not self.secret:
            return None
        try:
            with open(self.folder / name, "rb") as file:
                value = file.read(_MAX_KEY_BYTES + 1)
        except FileNotFoundError:
            if not any(self._keys()):
                raise BundleError(
                    "SecretNotFound", f"Secret {self.secret} does not exist in this namespace, or is empty; create it"
                ) from None
            return None
        except OSError as error:
            raise self.unusable(name, f"it cannot be read ({error.strerror})") from None
        try:
            if len(value) > _MAX_KEY_BYTES:
                raise ValueError
            return value.decode().strip()
        except ValueError:
            raise self.unusable(name, "it is not a text of at most 1 MiB") from None

    def pair(self, first: str, second: str) -> tuple[str, str] | None:
        """Two keys that belong together; None where there is neither."""
        one, other = self.key(first), self.key(second)
        if one and other:
            return one, other
        if one or other:
            missing = second if one else first
            raise BundleError("SecretNotFound", f"Secret {self.secret} has no key {missing}; add it")
        return None

    def authorization(self) -> str | None:
        """For a web server: keys `token`, or `username` and `password`."""
        if token := self.key("token"):
            if not (token.isascii() and token.isprintable()):
                raise self.unusable("token", "it holds characters that no header can hold")
            return f"Bearer {token}"
        if pair := self.pair("username", "password"):
            if ":" in pair[0]:
                raise self.unusable("username", "it holds a colon")
            return basic(*pair)
        return None

    def tls(self) -> ssl.SSLContext | None:
        """With the authorities of `ca.crt` beside the system's; None where that key is missing."""
        authorities = self.key("ca.crt")
        if authorities is None:
            return None
        context = ssl.create_default_context()
        try:
            context.load_verify_locations(cadata=authorities)
        except (ssl.SSLError, ValueError):
            raise self.unusable("ca.crt", "it is not a certificate as PEM") from None
        return context

    def variable(self, name: str) -> str:
        """A variable of the platform's identity; empty where it is not set.

        Raises:
            BundleError: `AddressRefused` for a token file that is not the platform's.
        """
        value = self.platform.get(name, "")
        if value and name.endswith("_FILE") and (not value.startswith(_TOKENS) or ".." in value):
            raise BundleError("AddressRefused", f"{name} does not name a file below {_TOKENS}")
        return value

    def unusable(self, key: str, why: str) -> BundleError:
        """That a key is not what it must be; never what it is."""
        return BundleError("SecretInvalid", f"key {key} of Secret {self.secret} cannot be used: {why}")

    def told(self, error: BundleError) -> BundleError:
        """The refusal with the name of what was refused."""
        if error.reason != "AccessDenied":
            return error
        if self.secret:
            words = f"keys of Secret {self.secret}"
        elif self.service_account:
            words = f"ServiceAccount {self.service_account}, no Secret named"
        else:
            words = "no Secret named"
        return BundleError("AccessDenied", f"{error.message} ({words})")

    def _keys(self) -> list[str]:
        try:
            return [path.name for path in self.folder.iterdir() if not path.name.startswith("..")]
        except OSError:
            return []


NOBODY = Credentials()


def taken_from(environment: MutableMapping[str, str]) -> dict[str, str]:
    """Take the variables of identities, and those of proxies, out of an environment, and return the former.

    The stores' client would read all of them by itself, endpoints and proxies included. To be called before there
    are threads, for the environment of a process is not safe among them.
    """
    taken: dict[str, str] = {}
    for name in list(environment):
        if name.startswith(_PREFIXES):
            taken[name] = environment.pop(name)
        elif name.upper() in _PROXIES:
            del environment[name]
    return taken


def basic(user: str, password: str) -> str:
    """The value of an Authorization header."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
