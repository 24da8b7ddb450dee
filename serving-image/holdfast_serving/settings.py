"""What the pod was told: by its environment, and by arguments that only tests and people give."""

from __future__ import annotations

import argparse
import base64
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from holdfast_bundle import credentials, termination
from holdfast_bundle.uris import CLAIMS
from holdfast_serving.limits import Limits

_ARGUMENTS = (
    "host",
    "port",
    "grpc_port",
    "management_port",
    "cpus",
    "memory",
    "drain_seconds",
    "tls",
    "feedback",
    "claims",
    "scratch",
    "termination_log",
)


class SettingsError(Exception):
    """A setting is missing or unusable; the text says which."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Of `serve` and `resolve`.

    Attributes:
        model_uri: where the model lies.
        model_name, revision, digest: only for `serve`.
        router_keys: Ed25519 public keys, one of which has signed every lease that the router takes.
        host: address to listen on; empty for all, IPv4 and IPv6.
        port, grpc_port, management_port: 0 lets the system choose.
        request_timeout_seconds: from a request's last byte to its answer.
        max_batch_rows: rows of different requests in one run; None for what the model's speed allows.
        cpus: that the model may use; 0 for whole ones of the container's limit.
        memory: bytes that all processes may take; 0 for the container's limit.
        grpcio: whether gRPC is left to grpcio, and not to the protocol of our own.
        drain_seconds: after SIGTERM, in which new connections are taken all the same: endpoints are removed meanwhile.
        tls_secret: Secret with the certificate that connections are secured with; empty: there is no TLS.
        client_auth: whether clients must show a certificate, too.
        tls: where that Secret is mounted, under its name.
        feedback_secret: Secret with the key for receipts; empty: there are none, and no feedback is taken.
        feedback_client_auth: whether feedback is taken only from clients that show a certificate.
        feedback_rows_per_minute: labels that are counted in a minute.
        feedback: where that Secret is mounted, under its name.
        claims: where claims are mounted.
        credentials: who to be where the model lies.
        cache: the claim that keeps models by digest; empty for none.
        scratch: where the model is copied to.
        termination_log: where the last word goes.
        limits: what clients may ask for.
    """

    model_uri: str
    model_name: str = ""
    revision: str = ""
    digest: str = ""
    router_keys: tuple[bytes, ...] = ()
    host: str = ""
    port: int = 8080
    grpc_port: int = 9000
    management_port: int = 8081
    request_timeout_seconds: float = 10.0
    max_batch_rows: int | None = None
    cpus: int = 0
    memory: int = 0
    grpcio: bool = False
    drain_seconds: float = 8.0
    tls_secret: str = ""
    client_auth: bool = False
    tls: Path = Path("/mnt/tls")
    feedback_secret: str = ""
    feedback_client_auth: bool = False
    feedback_rows_per_minute: int = 10_000
    feedback: Path = Path("/mnt/feedback")
    claims: Path = CLAIMS
    credentials: credentials.Credentials = credentials.NOBODY
    cache: str = ""
    scratch: Path = Path("/tmp")  # noqa: S108 - the pod's own emptyDir
    termination_log: Path = termination.PATH
    limits: Limits = field(default_factory=Limits)


def read(arguments: Sequence[str], environment: MutableMapping[str, str]) -> tuple[str, Settings]:
    """(`serve` or `resolve`, settings). What says who the pod is where models lie is taken out of the environment.

    Raises:
        SettingsError: a variable is missing or not what it must be.
        SystemExit: wrong arguments, as argparse does it.
    """
    parser = argparse.ArgumentParser(prog="python -m holdfast_serving", description="Serve, or resolve, one model.")
    parser.add_argument("command", choices=["serve", "resolve"])
    for name in _ARGUMENTS:
        _add(parser, name, Settings.__dataclass_fields__[name].default)
    limits = asdict(Limits())
    for name, default in limits.items():
        _add(parser, name, default)
    parser.add_argument("--secret", type=Path, default=credentials.SECRET)
    given = vars(parser.parse_args(arguments))
    given["limits"] = Limits(**{name: given.pop(name) for name in limits})
    command = given.pop("command")
    given["credentials"] = credentials.Credentials(
        secret=environment.get("HOLDFAST_STORAGE_SECRET", ""),
        folder=given.pop("secret"),
        service_account=environment.get("HOLDFAST_SERVICE_ACCOUNT", ""),
        platform=credentials.taken_from(environment),
    )
    given["cache"] = environment.get("HOLDFAST_CACHE_CLAIM", "")
    given["model_uri"] = _needed(environment, "HOLDFAST_MODEL_URI")
    if command == "serve":
        given["model_name"] = _needed(environment, "HOLDFAST_MODEL_NAME")
        given["revision"] = _needed(environment, "HOLDFAST_REVISION")
        given["digest"] = _needed(environment, "HOLDFAST_MODEL_DIGEST")
        given["router_keys"] = _keys(environment.get("HOLDFAST_ROUTER_PUBLIC_KEYS", ""))
        given["tls_secret"] = environment.get("HOLDFAST_TLS_SECRET", "")
        given["client_auth"] = _choice(environment, "HOLDFAST_TLS_CLIENT_AUTH", "None", "Required")
        if milliseconds := _integer(environment, "HOLDFAST_REQUEST_TIMEOUT_MILLISECONDS", 600_000):
            given["request_timeout_seconds"] = milliseconds / 1000
        given["max_batch_rows"] = _integer(environment, "HOLDFAST_MAX_BATCH_ROWS", 4096)
        given["feedback_secret"] = environment.get("HOLDFAST_FEEDBACK_SECRET", "")
        given["feedback_client_auth"] = _choice(environment, "HOLDFAST_FEEDBACK_CLIENT_AUTH", "None", "Required")
        if rows := _integer(environment, "HOLDFAST_FEEDBACK_ROWS_PER_MINUTE", 1_000_000):
            given["feedback_rows_per_minute"] = rows
        if given["feedback_client_auth"] and not given["tls_secret"]:
            raise SettingsError("HOLDFAST_FEEDBACK_CLIENT_AUTH=Required needs TLS: give HOLDFAST_TLS_SECRET")
        given["grpcio"] = _choice(environment, "HOLDFAST_GRPC_TRANSPORT", "holdfast", "grpcio")
        if given["grpcio"]:
            _check_grpcio(secured=bool(given["tls_secret"]))
    return command, Settings(**given)


def _check_grpcio(*, secured: bool) -> None:
    if secured:
        raise SettingsError("HOLDFAST_GRPC_TRANSPORT=grpcio cannot do TLS here: leave it out, or HOLDFAST_TLS_SECRET")
    if find_spec("grpc") is None:
        raise SettingsError("HOLDFAST_GRPC_TRANSPORT=grpcio needs grpcio: pip install 'holdfast-serving[grpcio]'")


def _choice(environment: Mapping[str, str], name: str, usual: str, other: str) -> bool:
    """Whether it is the other value of two."""
    value = environment.get(name, usual)
    if value not in {usual, other}:
        raise SettingsError(f"the environment variable {name} is neither {usual} nor {other}")
    return value == other


def _add(parser: argparse.ArgumentParser, name: str, default: Any) -> None:
    parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)


def _needed(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        raise SettingsError(f"the environment variable {name} is not set")
    return environment[name]


def _integer(environment: Mapping[str, str], name: str, largest: int) -> int | None:
    """A number from 1 on; None where none is given."""
    text = environment.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(largest)) and 1 <= int(text) <= largest):
        raise SettingsError(f"the environment variable {name} must be an integer from 1 to {largest}")
    return int(text)


def _keys(text: str) -> tuple[bytes, ...]:
    """32-byte keys in base64, with spaces or commas between them."""
    keys = []
    for number, word in enumerate(text.replace(",", " ").split(), 1):
        try:
            key = base64.b64decode(word, validate=True)
        except ValueError:
            key = b""
        if len(key) != 32:
            raise SettingsError(f"key {number} in HOLDFAST_ROUTER_PUBLIC_KEYS is not 32 bytes in base64")
        keys.append(key)
    return tuple(keys)
