"""Exit codes: one table from MeshError.code, for scripts that call meshnode."""

from collections.abc import Mapping

from meshnode.errors import MeshError

OK = 0
FAILED = 1
USAGE = 2  # what click exits with, too
INTERRUPTED = 130  # 128 + SIGINT, as shells expect

TABLE: Mapping[str, int] = {
    "internal_error": FAILED,
    "invalid_request": USAGE,
    "config_invalid": USAGE,
    "context_length_exceeded": USAGE,
    "not_running": 3,
    "home_unusable": 4,
    "home_in_use": 5,
    "port_in_use": 6,
    "join_refused": 10,
    "ticket_invalid": 11,
    "ticket_expired": 12,
    "ticket_used": 13,
    "ticket_unknown": 14,
    "clock_skew": 15,
    "revoked": 16,
    "not_allowed": 17,
    "invalid_api_key": 18,
    "unreachable": 20,
    "wrong_protocol": 21,
    "wrong_mesh": 22,
    "model_not_found": 30,
    "model_file_invalid": 31,
    "download_failed": 32,
    "no_candidate": 40,
    "busy": 41,
    "deadline_exceeded": 42,
    "interrupted": 43,
    "engine_failed": 44,
    "engine_crashed": 45,
    "budget_exceeded": 46,
    "yielded": 48,
    "rate_limit_exceeded": 49,
    "audit_broken": 50,
    "check_failed": 51,
    "service_failed": 52,
}


def exit_code(error: MeshError) -> int:
    """The process's exit code for this error."""
    return TABLE.get(error.code, FAILED)
