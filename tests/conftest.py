"""What every test shares: async tests run on trio, and hypothesis draws the same examples each time."""

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

# A fixed set of examples, and no limits in time: a busy machine must not turn a run red.
settings.register_profile(
    "steady", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture
def anyio_backend() -> str:
    """Trio only: nothing here runs on asyncio."""
    return "trio"


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI everything is promised to be there, so what is skipped has failed."""
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI must run everything: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped test fails in CI."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that is skipped whole fails in CI."""
    report = yield
    _refuse_skip(report)
    return report
