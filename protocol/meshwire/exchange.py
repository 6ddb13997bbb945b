"""Requests and their replies over one session: numbers, pairing, bounds. It knows no streams and no seal."""

from collections.abc import Callable

from meshwire import limits
from meshwire.codec import Frame, encode_frame, encode_frame_as
from meshwire.errors import LocalWireError, RemoteWireError
from meshwire.events import Event, Notice, Reply, Request
from meshwire.messages import NOTICES_ALONE, REPLY_OF, TYPE_OF, Refusal
from meshwire.numbers import U32_MAX, Flag, Message


class Exchange:
    """The requests of one session, both ways. `put` queues a frame."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put
        self._next = 1
        self._asking: dict[int, type[Message]] = {}  # our requests: the reply each waits for
        self._asked: dict[int, type[Message]] = {}  # theirs: the reply each wants

    def request(self, message: Message) -> int:
        """Queue a request; its number."""
        wanted = REPLY_OF.get(type(message))
        if wanted is None or len(self._asking) >= limits.PENDING_REQUESTS or self._next > U32_MAX:
            raise LocalWireError(f"{type(message).__name__} is no request, or too many are pending")
        number = self._next
        self._put(encode_frame(message, number))
        self._next += 1
        self._asking[number] = wanted
        return number

    def forget(self, number: int) -> None:
        """Stop waiting for a reply."""
        self._asking.pop(number, None)

    def reply(self, number: int, message: Message) -> None:
        """Queue the answer to their request."""
        if self._asked.get(number) is not type(message):
            raise LocalWireError(f"{type(message).__name__} does not answer request {number}")
        self._put(encode_frame(message, number, Flag.REPLY))
        del self._asked[number]

    def refuse(self, number: int, refusal: Refusal) -> None:
        """Queue an error as the answer to their request."""
        wanted = self._asked.pop(number, None)
        if wanted is None:
            raise LocalWireError(f"request {number} is not pending")
        self._put_refusal(number, wanted, refusal)

    def _put_refusal(self, number: int, wanted: type[Message], refusal: Refusal) -> None:
        self._put(encode_frame_as(TYPE_OF[wanted], refusal, number, Flag.REPLY | Flag.ERROR))

    def on_request(self, frame: Frame, found: list[Event]) -> None:
        """A request or a notice; a request too many is refused."""
        number, message = frame.stream, frame.body
        if type(message) in NOTICES_ALONE or number == 0:
            found.append(Notice(message))
            return
        if number in self._asked:
            raise RemoteWireError(f"request number {number} is pending already")
        wanted = REPLY_OF[type(message)]
        if len(self._asked) >= limits.PENDING_REQUESTS:
            self._put_refusal(number, wanted, Refusal("busy", "Too many requests are pending on this link."))
            return
        self._asked[number] = wanted
        found.append(Request(number, message))

    def on_reply(self, frame: Frame, found: list[Event]) -> bool:
        """A reply; whether it is awaited still. If not it is dropped."""
        number, message = frame.stream, frame.body
        if not 0 < number < self._next:
            raise RemoteWireError(f"a reply to request {number}, which was never made")
        wanted = self._asking.pop(number, None)
        if wanted is None:
            return False
        if type(message) is not Refusal and type(message) is not wanted:
            raise RemoteWireError(f"{type(message).__name__} does not answer request {number}")
        found.append(Reply(number, message))
        return True
