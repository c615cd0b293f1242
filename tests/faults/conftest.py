"""Collects what each case of the catalogue came to, and prints it as a table at the end."""

from collections.abc import Callable

import pytest

_ROWS: list[tuple[str, str, str, int]] = []


@pytest.fixture
def note() -> Callable[[str, str, str, int], None]:
    """Give a function that notes case, fault, outcome and requests of a case that held."""

    def take(case: str, fault: str, outcome: str, requests: int) -> None:
        _ROWS.append((case, fault, outcome, requests))

    return take


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
