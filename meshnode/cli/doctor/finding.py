"""What a check found, and how checks are kept within their time. It knows no check."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable
from enum import StrEnum

import httpx2
import msgspec
import psutil
import trio

from meshnode.errors import MeshError, sole_cause

CHECK_S = 20.0
TEXT_CHARACTERS_MAX = 500
# What the world outside may answer a check with; anything else is a bug in the check.
FOREIGN = (
    OSError,
    ValueError,
    MeshError,
    subprocess.SubprocessError,
    psutil.Error,
    msgspec.MsgspecError,
    httpx2.HTTPError,
    httpx2.InvalidURL,
    trio.TooSlowError,
)


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Finding(msgspec.Struct, frozen=True):
    """What one check found: `detail` says how things are, `hint` what to do next, if there is anything to do."""

    check: str
    verdict: Verdict
    detail: str
    hint: str = ""


class Diagnosis(msgspec.Struct, frozen=True):
    """All findings in the order of the checks; `verdict` is the worst of them."""

    verdict: Verdict
    findings: tuple[Finding, ...]


Found = tuple[Verdict, str] | tuple[Verdict, str, str]
Check = Callable[[], Awaitable[Found]]


async def examine(name: str, check: Check, limit_s: float = CHECK_S) -> Finding:
    """Run one check for `limit_s` seconds at most. Whatever it runs into is its finding; nothing is raised."""
    try:
        with trio.fail_after(limit_s):
            return Finding(name, *await check())
    except trio.TooSlowError:
        return Finding(name, Verdict.FAILED, f"It did not end within {limit_s:g} seconds.")
    except (*FOREIGN, ExceptionGroup) as error:
        cause = sole_cause(error)  # nurseries wrap what ends them
        if not isinstance(cause, FOREIGN):
            raise
        return Finding(name, Verdict.FAILED, _said(cause), cause.hint if isinstance(cause, MeshError) else "")


def diagnosis(findings: list[Finding]) -> Diagnosis:
    """The findings with the worst verdict among them."""
    order = list(Verdict)
    worst = max((finding.verdict for finding in findings), key=order.index, default=Verdict.OK)
    return Diagnosis(worst, tuple(findings))


def _said(error: BaseException) -> str:
    text = error.message if isinstance(error, MeshError) else str(error)
    return (text or type(error).__name__)[:TEXT_CHARACTERS_MAX]
