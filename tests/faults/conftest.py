"""Collects what each case of the catalogue came to, and prints it as a table at the end."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from framefetch.warehouse import WarehouseThread
from tests.seals import PEM, tls_warehouse

_ROWS: list[tuple[str, str, str, int]] = []


@pytest.fixture
def note() -> Callable[[str, str, str, int], None]:
    """Give a function that notes case, fault, outcome and requests of a case that held."""

    def take(case: str, fault: str, outcome: str, requests: int) -> None:
        _ROWS.append((case, fault, outcome, requests))

    return take


@pytest.fixture(params=["uvloop", "asyncio", "call by call", "uvloop, TLS", "asyncio, TLS"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Do the work on this loop, with the module in C or without it, under TLS or not."""
    if "asyncio" in request.param:
        monkeypatch.setattr("framefetch.portal._new_loop", asyncio.new_event_loop)
    if request.param == "call by call":
        request.getfixturevalue("plainly")
    if "TLS" in request.param:
        monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    return request.param


@pytest.fixture
def reached(way: str) -> Iterator[WarehouseThread]:
    """Give a running warehouse, empty, that is reached that way."""
    with tls_warehouse() if "TLS" in way else WarehouseThread() as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if not _ROWS:
        return
    terminalreporter.section("fault catalogue")
    terminalreporter.write_line(f"{'case':<6}{'fault':<58}{'outcome':<20}{'requests':>8}  verdict")
    for case, fault, outcome, requests in sorted(
        _ROWS, key=lambda row: (int("".join(filter(str.isdigit, row[0]))), row)
    ):
        terminalreporter.write_line(f"{case:<6}{fault[:56]:<58}{outcome:<20}{requests:>8}  held")
