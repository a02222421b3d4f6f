"""The pytest plugin: model calls made in tests are evals, with their suite and what started them. Off unless it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePath

import pytest

from .context import build_service, labels

MARKER = "bursar_suite"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("bursar").addoption(
        "--bursar-eval", action="store_true", default=False, help="label model calls made in tests: operation=eval, suite and trigger"
    )
    parser.addini("bursar_eval", "label model calls made in tests as evals (operation, suite, trigger)", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}(name): the eval suite whose calls a test makes; else its module's name")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Set-up and tear-down too: fixtures call models as well."""
    if not (item.config.getoption("--bursar-eval") or item.config.getini("bursar_eval")):
        return (yield)
    with labels(operation="eval", suite=suite(item), trigger=trigger()):
        return (yield)


def suite(item: pytest.Item) -> str:
    """The nearest marker's name, else the module's."""
    mark = item.get_closest_marker(MARKER)
    if mark is not None:
        if len(mark.args) != 1 or mark.kwargs or not isinstance(mark.args[0], str):
            raise pytest.UsageError(f"{item.nodeid}: write the suite as one text: @pytest.mark.{MARKER}(\"answers\")")
        return mark.args[0]
    return PurePath(item.location[0]).stem.removeprefix("test_")


def trigger() -> str:
    """The build service that runs the tests, with what it was started by where it says; `local` without one."""
    service = build_service(os.environ)
    event = os.environ.get("GITHUB_EVENT_NAME") or os.environ.get("CI_PIPELINE_SOURCE") or ""
    return f"{service}:{event}" if service and event else service or "local"
