"""Who holds a port, as far as the operating system tells. It only looks."""

import psutil

from meshnode.errors import PortInUse


def port_in_use(host: str, port: int) -> PortInUse:
    """The error that says that a port is taken, by whom if that can be told, and what to do."""
    holder = _holder(port)
    who = f" by {holder}" if holder else ""
    return PortInUse(
        f"Port {port} on {host or 'this device'} is taken{who}.",
        hint="Stop that program, or choose another port with --mesh-port.",
    )


def _holder(port: int) -> str:
    """The program that listens on the port, as `name (pid 7)`; empty if the system does not tell."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                return (
                    f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
                    if connection.pid
                    else ""
                )
    except psutil.Error:
        return ""
    return ""
