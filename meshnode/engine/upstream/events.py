"""Server-sent events from bytes: the payload of each, bounded. It knows nothing of what they say."""

from meshnode.errors import EngineFailed

EVENT_BYTES_MAX = 1024 * 1024


class EventReader:
    """Cuts a stream into events. Only `data` counts; comments keep a connection alive, and say nothing."""

    def __init__(self) -> None:
        self._partial = bytearray()
        self._payload: list[bytes] = []
        self._held = 0

    def feed(self, received: bytes) -> list[bytes]:
        """The payloads that these bytes complete. Raises EngineFailed for an event of endless length."""
        self._partial += received
        events: list[bytes] = []
        if b"\n" in received:
            *lines, self._partial = self._partial.split(b"\n")
            for line in lines:
                self._take_line(bytes(line).removesuffix(b"\r"), events)
        if self._held + len(self._partial) > EVENT_BYTES_MAX:
            raise EngineFailed(f"The upstream server sent an event of more than {EVENT_BYTES_MAX} bytes.")
        return events

    def _take_line(self, line: bytes, events: list[bytes]) -> None:
        if line.startswith(b"data:"):
            self._payload.append(line[5:].removeprefix(b" "))
            self._held += len(line)
        elif not line and self._payload:
            events.append(b"\n".join(self._payload))
            self._payload, self._held = [], 0
