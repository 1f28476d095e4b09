"""A report of the golden comparisons at the end of the test run."""

import pytest

LINES = pytest.StashKey[list[str]]()


def pytest_configure(config):
    config.stash[LINES] = []


@pytest.fixture(scope="session")
def golden_report(request):
    """Lines to print below the test results."""
    return request.config.stash[LINES]


def pytest_terminal_summary(terminalreporter, config):
    if lines := config.stash[LINES]:
        terminalreporter.section("largest errors relative to each golden tensor's maximum")
        terminalreporter.write_line("\n".join(lines))
