"""The one tree of meshnode's errors. One table elsewhere maps it to HTTP, one to exit codes; it knows neither."""


class MeshError(Exception):
    """Anything meshnode refuses or fails at, with a message a person can act on.

    `code` is stable and machine-readable; `hint` says what to do next, or is empty; `param` names the field
    or option at fault, or is empty; `retry_after_s` is set where trying again later is sensible.
    """

    code = "internal_error"

    def __init__(
        self, message: str, *, hint: str = "", param: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        if not self.hint:
            return self.message
        stop = "" if self.message.endswith((".", "!", "?")) else "."
        return f"{self.message}{stop} {self.hint}"


class BadRequest(MeshError):
    """The caller asked for something malformed or contradictory."""

    code = "invalid_request"


class ContextExceeded(BadRequest):
    """The prompt and the answer asked for do not fit the model's context."""

    code = "context_length_exceeded"


class ModelNotFound(MeshError):
    """No node in reach has the model."""

    code = "model_not_found"


class NoCandidate(MeshError):
    """The model exists, but every node that has it was ruled out; the message carries each reason."""

    code = "no_candidate"


class BudgetExceeded(MeshError):
    """What may be spent on the request, in money or energy, does not cover it where it could be served."""

    code = "budget_exceeded"


class Busy(MeshError):
    """Everything that could serve is full; `retry_after_s` is an honest estimate.

    `estimate_s` is when the first token would have come, in seconds; None where that is not known.
    """

    code = "busy"
    estimate_s: float | None = None


class Yielded(Busy):
    """A node needs its machine for its owner: no fault of its own, and the answer may go on elsewhere."""

    code = "yielded"


class DeadlineExceeded(MeshError):
    """The request's own deadline passed before it finished."""

    code = "deadline_exceeded"


class Interrupted(MeshError):
    """A running answer broke off and could not go on elsewhere."""

    code = "interrupted"


class EngineFailed(MeshError):
    """The engine could not load its model, or crashed."""

    code = "engine_failed"


class EngineCrashed(EngineFailed):
    """The engine broke off in the middle of an answer; prompt and token ids are enough to go on elsewhere."""

    code = "engine_crashed"


class ModelFileInvalid(MeshError):
    """A model file is truncated, has the wrong digest, or is not a model."""

    code = "model_file_invalid"


class DownloadFailed(MeshError):
    """A model could not be fetched; what was fetched so far is kept for the next try."""

    code = "download_failed"


class Unreachable(MeshError):
    """A peer could not be reached, or the link to it was lost."""

    code = "unreachable"


class WrongProtocol(Unreachable):
    """The other end does not speak meshnode, or a version of it that we do not."""

    code = "wrong_protocol"


class WrongMesh(Unreachable):
    """The other end belongs to another mesh."""

    code = "wrong_mesh"


class JoinRefused(MeshError):
    """A ticket was not accepted; `code` says why."""

    code = "join_refused"


class TicketInvalid(JoinRefused):
    """The ticket is not a ticket, or is damaged."""

    code = "ticket_invalid"


class TicketExpired(JoinRefused):
    """The ticket's time is over."""

    code = "ticket_expired"


class TicketUsed(JoinRefused):
    """Another device has already redeemed the ticket."""

    code = "ticket_used"


class TicketUnknown(JoinRefused):
    """The issuer never made this ticket, or its secret is wrong."""

    code = "ticket_unknown"


class ClockSkew(JoinRefused):
    """The two clocks differ by more than the tolerance."""

    code = "clock_skew"


class Revoked(JoinRefused):
    """This device's certificate has been revoked."""

    code = "revoked"


class NotAllowed(MeshError):
    """The operator's policy or the caller's rights forbid it."""

    code = "not_allowed"


class KeyRefused(MeshError):
    """An API key is unknown, expired or revoked, or there is none where one is needed."""

    code = "invalid_api_key"


class RateExceeded(Busy):
    """An API key has as many requests under way, or has begun as many in a minute, as it may."""

    code = "rate_limit_exceeded"


class ConfigInvalid(MeshError):
    """A setting is unknown or has an impossible value; `param` names it."""

    code = "config_invalid"


class HomeUnusable(MeshError):
    """The home directory cannot be written, or is damaged."""

    code = "home_unusable"


class HomeInUse(MeshError):
    """Another node runs from this home."""

    code = "home_in_use"


class PortInUse(MeshError):
    """A port the node needs is taken."""

    code = "port_in_use"


class AuditBroken(MeshError):
    """The audit log is not as it was written; the message says where."""

    code = "audit_broken"


class CheckFailed(MeshError):
    """`meshnode doctor` found something that does not work; the message names the checks."""

    code = "check_failed"


class ServiceFailed(MeshError):
    """The system's service manager, or the place for its files, did not do what was asked."""

    code = "service_failed"


class NotRunning(MeshError):
    """No node runs from this home."""

    code = "not_running"


def every_error() -> dict[str, type[MeshError]]:
    """All error classes by code, so that one that crossed a process or the wire gets its type back.

    Of classes that share a code it is the one that the others derive from: what they add is known on the spot only.
    """
    found: dict[str, type[MeshError]] = {}
    waiting: list[type[MeshError]] = [MeshError]
    while waiting:
        kind = waiting.pop()
        found.setdefault(kind.code, kind)
        waiting.extend(kind.__subclasses__())
    return found


def from_code(code: str, message: str, **facts: object) -> MeshError:
    """The error with this code; an unknown code (a newer peer) becomes a plain MeshError that keeps it."""
    kind = every_error().get(code, MeshError)
    error = kind(message, **facts)  # type: ignore[arg-type]
    if kind is MeshError:
        error.code = code
    return error


def sole_cause(error: BaseException) -> BaseException:
    """The error inside groups of one, as nested nurseries make them; a real group stays one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def as_mesh_error(error: BaseException) -> MeshError | None:
    """The MeshError in `error`, which nurseries may have wrapped in groups; None if it is anything else."""
    cause = sole_cause(error)
    return cause if isinstance(cause, MeshError) else None
