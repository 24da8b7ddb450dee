"""The operator's settings: its environment, read once and checked at the start."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from holdfast.plan.observed import Settings as PlanSettings
from holdfast.signals.prometheus import Address

PULL_POLICIES = ("Always", "IfNotPresent", "Never")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class SettingsError(Exception):
    """The environment cannot be used; the message names every variable that is wrong, and what it may be."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an administrator can set."""

    plan: PlanSettings
    namespaces: tuple[str, ...]
    """Those to work in; empty: all."""
    pod_name: str
    pod_namespace: str
    """Where the Lease is."""
    workers: int
    log_level: int
    health_port: int
    events_port: int | None
    """Where pipelines say that there are new data; None: nowhere."""
    event_keys: Path
    """Their keys, a file by each namespace's name."""
    events_peers: str
    """A name for all replicas' addresses, of which one leads."""
    prometheus: Address | None
    """None: no SLO can be judged."""
    prometheus_seconds: int
    """Between two rounds of questions to it."""
    drift_window_seconds: int
    """Of the windows in which rows are compared with the held-out ones."""


def read(environment: Mapping[str, str]) -> Settings:
    """Raises SettingsError."""
    reader = _Reader(environment)
    pod_namespace = reader.text("POD_NAMESPACE", "holdfast-system")
    settings = Settings(
        plan=PlanSettings(
            serving_image=reader.text("HOLDFAST_SERVING_IMAGE"),
            training_image=reader.text("HOLDFAST_TRAINING_IMAGE"),
            torch_image=reader.optional("HOLDFAST_TRAINING_TORCH_IMAGE"),
            tensorflow_image=reader.optional("HOLDFAST_TRAINING_TENSORFLOW_IMAGE"),
            poll_seconds=reader.number("HOLDFAST_POLL_SECONDS", 2, 1, 60),
            drain_seconds=reader.number("HOLDFAST_DRAIN_SECONDS", 30, 15, 3600),  # a lease that nobody renews has 15
            own_images=reader.prefixes("HOLDFAST_OWN_TRAINERS"),
            max_trainings=reader.number("HOLDFAST_MAX_TRAININGS", 8, 1, 1000),
            settle_seconds=reader.number("HOLDFAST_SETTLE_SECONDS", 60, 1, 3600),
            image_pull_policy=reader.choice("HOLDFAST_IMAGE_PULL_POLICY", "IfNotPresent", PULL_POLICIES),
        ),
        namespaces=reader.names("HOLDFAST_NAMESPACES"),
        pod_name=reader.text("POD_NAME", socket.gethostname()),
        pod_namespace=pod_namespace,
        workers=reader.number("HOLDFAST_WORKERS", 16, 1, 256),
        log_level=logging.getLevelNamesMapping()[reader.choice("HOLDFAST_LOG_LEVEL", "INFO", LOG_LEVELS)],
        health_port=reader.number("HOLDFAST_HEALTH_PORT", 8081, 1, 65535),
        events_port=reader.number("HOLDFAST_EVENTS_PORT", 0, 0, 65535) or None,
        event_keys=reader.file("HOLDFAST_EVENT_KEYS") or Path("/etc/holdfast/event-keys"),
        events_peers=reader.text("HOLDFAST_EVENTS_PEERS", f"holdfast-operator.{pod_namespace}.svc"),
        prometheus=reader.prometheus("HOLDFAST_PROMETHEUS"),
        prometheus_seconds=reader.number("HOLDFAST_PROMETHEUS_SECONDS", 15, 2, 300),
        drift_window_seconds=reader.number("HOLDFAST_DRIFT_WINDOW_SECONDS", 86_400, 60, 604_800),
    )
    if reader.wrong:
        raise SettingsError("; ".join(reader.wrong))
    return settings


class _Reader:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.wrong: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        value = self._environment.get(name, "").strip() or default
        if not value:
            self.wrong.append(f"{name} must be set")
        return value

    def optional(self, name: str) -> str:
        return self._environment.get(name, "").strip()

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in choices:
            self.wrong.append(f"{name} must be one of {', '.join(choices)}, not {value!r}")
            return default
        return value

    def number(self, name: str, default: int, least: int, most: int) -> int:
        value = self.text(name, str(default))
        if not value.isascii() or not value.isdigit() or not least <= int(value) <= most:
            self.wrong.append(f"{name} must be a whole number from {least} to {most}, not {value!r}")
            return default
        return int(value)

    def names(self, name: str) -> tuple[str, ...]:
        parts = [part.strip() for part in self._environment.get(name, "").split(",")]
        return tuple(dict.fromkeys(part for part in parts if part))

    def prefixes(self, name: str) -> tuple[str, ...]:
        """What names of images may begin with: all of them unless it is set, none of them with `none`."""
        found = self.names(name) or ("*",)
        if "none" in found and len(found) > 1:
            self.wrong.append(f"{name} must be none alone, or prefixes of images, separated by commas")
        return () if "none" in found else found

    def prometheus(self, prefix: str) -> Address | None:
        """By PREFIX_URL, PREFIX_TOKEN_FILE and PREFIX_CA_FILE."""
        url = self._environment.get(f"{prefix}_URL", "").strip().rstrip("/")
        token, authorities = self.file(f"{prefix}_TOKEN_FILE"), self.file(f"{prefix}_CA_FILE")
        if not url:
            if token or authorities:
                self.wrong.append(f"{prefix}_TOKEN_FILE and {prefix}_CA_FILE need {prefix}_URL")
            return None
        if not _is_address(url):  # not repeated: it may hold a password
            self.wrong.append(f"{prefix}_URL must be http(s)://HOST[:PORT][/PATH], without user, query and fragment")
        return Address(url, token, authorities)

    def file(self, name: str) -> Path | None:
        """An absolute path; None where none is set."""
        text = self._environment.get(name, "").strip()
        if text and not Path(text).is_absolute():
            self.wrong.append(f"{name} must be an absolute path, not {text!r}")
        return Path(text) if text else None


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError when it is none
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and not set(url) & set(' "<>\\^`{|}?#@')
    return plain and parts.scheme in {"http", "https"} and bool(parts.hostname)
