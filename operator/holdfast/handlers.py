"""kopf: watches and the life of the process. The only module that imports it.

Only `on.event`, `on.startup`, `on.cleanup` and `on.login` are used: they write nothing. (`on.create`, `on.update`,
timers and daemons put annotations and finalizers on users' objects; indices do not scale.) An event only wakes; what
is to be done follows from the state.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import kopf

from holdfast.kube.client import load_configuration
from holdfast.kube.controller import Controller
from holdfast.kube.kinds import CHILDREN, NAMESPACE
from holdfast.kube.queue import Backoff
from holdfast.kube.watches import WATCH_SECONDS
from holdfast.settings import Settings

EXIT_SECONDS = 15
"""Until a process that is to end does so at any price."""


class ForEver:
    """Pauses between attempts, without end: by default kopf gives up after a minute and ends the process."""

    def __iter__(self) -> Iterator[float]:
        backoff = Backoff(first=0.5, cap=15.0)
        failures = 0
        while True:
            yield backoff.delay(failures, random.random())  # noqa: S311 - no secret
            failures += 1


class NoDiffBase(kopf.DiffBaseStorage):
    """No diffs of specs: kopf computes them for every event, and none of our handlers asks for them."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> None:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        raise RuntimeError("the operator writes no annotations to users' objects")


class NoProgress(kopf.ProgressStorage):
    """No progress of handlers: ours have none that outlives an event."""

    def fetch(self, *, key: Any, body: Any) -> None:
        return None

    def store(self, *, key: Any, record: Any, body: Any, patch: Any) -> None:
        raise RuntimeError("the operator writes no annotations to users' objects")

    def purge(self, *, key: Any, body: Any, patch: Any) -> None:
        return None

    def touch(self, *, body: Any, patch: Any, value: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


def kopf_settings(controller: Controller) -> kopf.OperatorSettings:
    """kopf as a watcher that neither gives up nor interferes."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True  # or any kopf operator's ClusterKopfPeering could pause this one
    settings.posting.enabled = False
    settings.scanning.disabled = True  # no rights on CRDs and namespaces; `lead` waits for our kinds
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    settings.persistence.finalizer = "holdfast.dev/never-set"
    settings.networking.error_backoffs = ForEver()
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 60
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.inactivity_timeout = WATCH_SECONDS + 10  # a watch that lives has ended by itself before
    settings.watching.reconnect_backoff = 0.5
    settings.watching.chunk_size = 100
    settings.queueing.idle_timeout = 0.2  # each object's idle task holds memory, thousands of them after a list
    settings.process.ultimate_exiting_timeout = EXIT_SECONDS  # should kopf hang before it comes to `cleanup`
    for kind in (*CHILDREN.values(), NAMESPACE):
        if kind.selector:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = kind.selector
    return settings


async def end(controller: Controller, status: int) -> None:
    """Finish what is under way, give up the Lease, end the process.

    kopf is not asked to end: it has nothing to finish, would take seconds in which nobody leads, and may wait for ever
    for a task of its own, as when a cancellation meets a watch that is just being opened again.
    """
    asyncio.get_running_loop().call_later(EXIT_SECONDS, os._exit, status)
    await controller.stop()
    os._exit(status)


def end_on_signals(controller: Controller) -> None:
    """End at the first SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    ending: set[asyncio.Task[None]] = set()

    def begin() -> None:
        if not ending:
            ending.add(asyncio.create_task(end(controller, 0), name="end"))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, begin)


def registry(controller: Controller) -> kopf.OperatorRegistry:
    """The handlers. Not the default registry: that one logs in by whatever client library it finds."""
    handlers = kopf.OperatorRegistry()
    logins = 0

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.AiohttpSession:
        nonlocal logins
        logins += 1
        if logins > 1:  # after a 401, which closes the session; a token that is refused for good must not be a storm
            await asyncio.sleep(min(2.0**logins, 30.0))
        session = controller.client.session(controller.watches.trace())
        return kopf.AiohttpSession(server=controller.client.host, aiohttp_session=session)

    @kopf.on.startup(registry=handlers)
    async def startup(**_: Any) -> None:
        await controller.lead()  # kopf watches nothing until this returns
        for kind in controller.kinds:
            kopf.on.event(kind.group, kind.version, kind.plural, registry=handlers)(event)
        end_on_signals(controller)  # in place of kopf's own, which do while there is no Lease to give up

    @kopf.on.cleanup(registry=handlers)
    async def cleanup(**_: Any) -> None:
        await end(controller, 1)  # no signal leads here: a task of kopf's has failed

    async def event(event: Any, **_: Any) -> None:
        controller.observe(event["type"], event["object"])

    return handlers


async def run(settings: Settings) -> None:
    """Run until the process ends. Raises when it cannot begin."""
    controller = Controller(settings, await load_configuration())
    await controller.open()
    try:
        await kopf.operator(
            registry=registry(controller),
            settings=kopf_settings(controller),
            standalone=True,
            # Left to itself, kopf asks for the user's name, which user 65532 of the image does not have.
            identity=settings.pod_name,  # type: ignore[arg-type]
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
        )
    finally:
        await controller.close()
