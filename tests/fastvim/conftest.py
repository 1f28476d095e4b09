"""A report of the golden comparisons at the end of the test run."""

import pytest

REPORT = pytest.StashKey[dict[str, dict[str, float]]]()


def pytest_configure(config):
    config.stash[REPORT] = {}


@pytest.fixture(scope="session")
def golden_report(request):
    """Numbers to print below the test results: by case or model, and by what they measure."""
    return request.config.stash[REPORT]


def pytest_terminal_summary(terminalreporter, config):
    if report := config.stash[REPORT]:
        terminalreporter.section("largest errors relative to each golden tensor's maximum")
        for name, numbers in report.items():
            cells = (
                f"{value:,} {kind}" if kind == "parameters" else f"{kind} {value:.0e}"
                for kind, value in numbers.items()
            )
            terminalreporter.write_line(f"{name:42}" + "  ".join(cells))
