"""Where nodes of the same mesh are on the local network, by multicast DNS: a hint whom to dial, and no more.

What is said is read by everyone near: this node's id, its addresses, and a fingerprint from which nobody who does
not know the mesh learns which it is. Whoever answers at a heard address still has to prove himself on the link.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog
import trio

from meshwire.errors import LocalWireError
from meshwire.ids import NodeId, from_text, to_text

if TYPE_CHECKING:
    from zeroconf import ServiceInfo

log = structlog.get_logger("meshnode.net.lan")
SERVICE = "_meshnode._tcp.local."
MESH_KEY, NODE_KEY = b"mesh", b"node"
FINGERPRINT_BYTES = 8
NEIGHBOURS_MAX = 64
ANSWER_WITHIN_MS = 3000
CLOSE_WITHIN_S = 2.0
MISSING = "LAN discovery is on, but the package zeroconf is not installed."
MISSING_HINT = "Install it: pip install 'meshnode[lan]'; or turn it off: lan = false"
NO_ADDRESS_HINT = "Set `mesh_host` to an address of the local network, or turn it off: lan = false"


class Lan:
    """The neighbours of one mesh, for as long as it runs; `neighbours` says where each was heard."""

    def __init__(self, node: NodeId, mesh: bytes) -> None:
        self.neighbours: dict[NodeId, str] = {}
        self._node = node
        self._fingerprint = fingerprint(mesh)
        self._names: dict[str, NodeId] = {}

    async def run(self, addresses: Sequence[str], *, announce: bool) -> None:
        """Listen on the networks of these addresses (ws://HOST:PORT), and with `announce` be heard there.

        Where that cannot be, the log says why, and this returns: nobody depends on it.
        """
        hosts = numeric_hosts(addresses)
        if not hosts:
            log.warning("lan.unavailable", why="no address of this machine is known", hint=NO_ADDRESS_HINT)
            return
        port = urlsplit(addresses[0]).port or 0
        open_ = partial(self._open, hosts, port if announce else 0, trio.lowlevel.current_trio_token())
        try:
            zeroconf = await trio.to_thread.run_sync(open_)
        except ImportError:
            log.warning("lan.unavailable", why=MISSING, hint=MISSING_HINT)
            return
        except OSError as error:
            log.warning("lan.unavailable", why=f"multicast on {', '.join(hosts)}: {error}")
            return
        log.info("lan.listening", on=hosts, announced=announce)
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(CLOSE_WITHIN_S, shield=True):  # says that this node is gone
                await trio.to_thread.run_sync(zeroconf.close, abandon_on_cancel=True)

    def _open(self, hosts: Sequence[str], port: int, token: trio.lowlevel.TrioToken) -> Any:
        from zeroconf import IPVersion, ServiceBrowser, Zeroconf

        version = IPVersion.All if any(":" in host for host in hosts) else IPVersion.V4Only
        zeroconf = Zeroconf(interfaces=list(hosts), ip_version=version)
        try:
            if port:
                zeroconf.register_service(self._said(hosts, port))
            ServiceBrowser(zeroconf, SERVICE, handlers=[partial(_heard, self, token)])
        except BaseException:
            zeroconf.close()
            raise
        return zeroconf

    def _said(self, hosts: Sequence[str], port: int) -> "ServiceInfo":
        from zeroconf import ServiceInfo

        label = to_text(self._node)
        packed = [ip_address(host).packed for host in hosts]
        said = {MESH_KEY: self._fingerprint, NODE_KEY: label.encode()}
        return ServiceInfo(
            SERVICE, f"{label}.{SERVICE}", port, addresses=packed, properties=said, server=f"{label}.local."
        )

    def note(
        self, name: str, properties: Mapping[bytes, bytes | None], hosts: Sequence[str], port: int
    ) -> None:
        """What was heard under a name; nothing is noted of other meshes, of this node, or beyond the bound."""
        self.forget(name)  # it may have meant another node
        with suppress(LocalWireError, UnicodeDecodeError):
            node = from_text((properties.get(NODE_KEY) or b"").decode())
            ours = properties.get(MESH_KEY) == self._fingerprint and node != self._node
            if ours and hosts and port and len(self._names) < NEIGHBOURS_MAX:
                self._names[name] = node
                self.neighbours[node] = _address(hosts[0], port)

    def forget(self, name: str) -> None:
        """Whoever had this name has gone."""
        if (node := self._names.pop(name, None)) is not None:
            self.neighbours.pop(node, None)


def fingerprint(mesh: bytes) -> bytes:
    """What stands for a mesh's id where everyone can read it."""
    return hashlib.blake2b(mesh, digest_size=FINGERPRINT_BYTES, person=b"meshnode-lan").hexdigest().encode()


def numeric_hosts(addresses: Sequence[str]) -> list[str]:
    """The IP addresses among these; a name is nobody's interface."""
    found: list[str] = []
    for address in addresses:
        with suppress(ValueError):
            found.append(str(ip_address(urlsplit(address).hostname or "")))
    return found


def _heard(lan: Lan, token: trio.lowlevel.TrioToken, **event: Any) -> None:
    """In zeroconf's own thread: ask for what belongs to the name, and hand it over, unless all ends meanwhile."""
    from zeroconf import Error, ServiceStateChange

    name = event["name"]
    with suppress(trio.RunFinishedError, Error):
        if event["state_change"] is ServiceStateChange.Removed:
            token.run_sync_soon(lan.forget, name)
        elif info := event["zeroconf"].get_service_info(event["service_type"], name, ANSWER_WITHIN_MS):
            hosts = info.parsed_scoped_addresses()
            token.run_sync_soon(lan.note, name, info.properties, hosts, info.port or 0)


def _address(host: str, port: int) -> str:
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"
