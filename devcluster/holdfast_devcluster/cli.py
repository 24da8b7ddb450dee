"""The command line: `python -m holdfast_devcluster`."""

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from holdfast_devcluster import binaries, images
from holdfast_devcluster.backends import ENVIRONMENT, NAMES, backend, builder
from holdfast_devcluster.binaries import Report
from holdfast_devcluster.controlplane import control_plane
from holdfast_devcluster.errors import ClusterError


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m holdfast_devcluster",
        description="A real Kubernetes on one machine, for the demo and the tests of Holdfast.",
        epilog=f"{ENVIRONMENT} names the kind of cluster: {', '.join(NAMES)} (default: auto).",
    )
    commands = top.add_subparsers(dest="command", required=True)
    for name, help_text in (
        ("up", "bring the cluster up; again when it is half made or was killed"),
        ("down", "remove it"),
        ("status", "say how it is"),
        ("kubeconfig", "print the path of its kubeconfig"),
    ):
        command = commands.add_parser(name, help=help_text)
        _add_name(command)
        command.set_defaults(run=globals()[f"_{name}"])
        if name == "down":
            command.add_argument("--purge", action="store_true", help="also the images that its node knows")
    commands.add_parser("kubectl", help="[--name NAME] …: run kubectl against the cluster; ours where there is none")
    build = commands.add_parser("build-image", help="build images, when what they are made of changed")
    load = commands.add_parser("load-image", help="give the cluster's nodes built images")
    for command in (build, load):
        command.add_argument("images", nargs="+", choices=(*images.IMAGES, *images.OPTIONAL, "all"), metavar="IMAGE")
    _add_name(load)
    build.set_defaults(run=_build_image)
    load.set_defaults(run=_load_image)
    plane = commands.add_parser(
        "control-plane", help="a throw-away control plane without nodes, in the foreground until Ctrl-C"
    )
    plane.add_argument("--no-controllers", action="store_true", help="only etcd and kube-apiserver")
    plane.add_argument("--nodes", type=int, default=0, help="this many fake nodes (KWOK)")
    plane.add_argument("--audit-log", type=Path, metavar="FILE", help="write one JSON line per request")
    plane.set_defaults(run=_control_plane)
    return top


def _add_name(command: argparse.ArgumentParser) -> None:
    command.add_argument("--name", type=_name, default="holdfast", help="of the cluster (default: holdfast)")


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"{text!r} must be lower-case letters, digits and dashes, at most 40")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with a message when a step failed."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["kubectl"]:  # its options are not for our parser
            _kubectl(words[1:])
        options = parser().parse_args(words)
        options.run(options)
    except ClusterError as error:
        print(f"devcluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _control_plane(options: argparse.Namespace) -> None:
    with control_plane(
        controllers=not options.no_controllers,
        kwok=options.nodes > 0,
        nodes=options.nodes,
        audit_log=options.audit_log.resolve() if options.audit_log else False,
    ) as plane:
        print(f"export KUBECONFIG={plane.kubeconfig}")
        print("Ctrl-C ends it.", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


def _up(options: argparse.Namespace) -> None:
    backend(options.name, progress()).up()


def _down(options: argparse.Namespace) -> None:
    backend(options.name, progress()).down(options.purge)


def _status(options: argparse.Namespace) -> None:
    print(backend(options.name, progress()).status())


def _kubeconfig(options: argparse.Namespace) -> None:
    print(backend(options.name, progress()).kubeconfig())


def _kubectl(words: list[str]) -> NoReturn:
    name = "holdfast"
    if words[:1] == ["--name"] and len(words) > 1:
        name, words = words[1], words[2:]
    kubeconfig = backend(name, progress()).kubeconfig()
    program = binaries.kubectl(progress())
    os.execve(program, ["kubectl", *words], os.environ | {"KUBECONFIG": str(kubeconfig)})  # noqa: S606


def _build_image(options: argparse.Namespace) -> None:
    report = progress()
    for image in _chosen(options):
        images.build(image, builder(report), report)


def _load_image(options: argparse.Namespace) -> None:
    cluster = backend(options.name, progress())
    for image in _chosen(options):
        cluster.load(image)


def _chosen(options: argparse.Namespace) -> list[images.Image]:
    known = images.IMAGES | images.OPTIONAL
    return [known[name] for name in (images.IMAGES if "all" in options.images else options.images)]


def progress() -> Report:
    """A report that prints each message with the seconds since the start."""
    started = time.monotonic()

    def report(message: str) -> None:
        print(f"  {time.monotonic() - started:6.1f} s  {message}", flush=True)

    return report
