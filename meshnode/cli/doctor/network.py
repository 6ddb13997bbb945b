"""Checks of ports and interfaces, for a node that is not running."""

from __future__ import annotations

import errno
import socket

import psutil

from meshnode.cli.doctor.finding import Found, Verdict
from meshnode.config import Config
from meshnode.control.invite import reachable_addresses
from meshnode.net.ports import port_in_use


def ports(settings: Config) -> Found:
    """Whether the API's and the mesh's port are free."""
    taken: list[str] = []
    for host, port, flag in (
        (settings.api_host, settings.api_port, "--api-port"),
        (settings.mesh_host, settings.mesh_port, "--mesh-port"),
    ):
        problem = _problem(host, port)
        if problem:
            taken.append(f"{problem.rstrip('.')} ({flag}).")
    if taken:
        return Verdict.FAILED, " ".join(taken), "Stop that program, or choose another port in the settings."
    return Verdict.OK, f"API {settings.api_port}, mesh {settings.mesh_port}: free (0 takes any)."


def interfaces(settings: Config) -> Found:
    """At which addresses other devices would be told to look for this one; containers' are left out."""
    if not settings.reachable:
        return Verdict.OK, "This node tells nobody an address (reachable is off); it dials out."
    if settings.advertise:
        return Verdict.OK, f"The settings say: {', '.join(settings.advertise)}."
    up = [name for name, stats in psutil.net_if_stats().items() if stats.isup]
    found = reachable_addresses(
        psutil.net_if_addrs(), up=up, host=settings.mesh_host, port=settings.mesh_port
    )
    alone = not found or all(url.startswith(("ws://127.", "ws://[::1]")) for url in found)
    if alone:
        hint = "Connect to a network; or set mesh_host to an address that others can reach."
        return Verdict.WARNING, f"Only this device itself: {', '.join(found) or 'no address'}.", hint
    return Verdict.OK, ", ".join(found)


def _problem(host: str, port: int) -> str:
    """What is in the way of listening there; nothing if nothing is, or if any port will do."""
    if not port:
        return ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except PermissionError:
            return f"Port {port} on {host} may not be used by this user."
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return port_in_use(host, port).message
            return f"{host}:{port} cannot be used: {error.strerror or error}."
    return ""
