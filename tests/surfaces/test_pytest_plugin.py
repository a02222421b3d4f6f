"""The pytest plugin: off it does nothing, on it labels what tests and their fixtures call."""

from __future__ import annotations

import importlib.metadata

import pytest

pytest_plugins = ["pytester"]

INNER = """
    import pytest
    from bursar.surfaces.context import current

    @pytest.fixture
    def setting():
        return dict(current())

    def test_plain(setting):
        print("said", sorted(current().items()), setting == dict(current()))

    @pytest.mark.bursar_suite("answers")
    def test_marked():
        print("said", sorted(current().items()))

    async def test_soon():
        print("said", sorted(current().items()))
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for name in ("GITHUB_ACTIONS", "GITHUB_EVENT_NAME", "CI_PIPELINE_SOURCE", "CI"):
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(test_refunds=INNER)
    return pytester


def said(inner: pytest.Pytester, *words: str) -> list[str]:
    ran = inner.runpytest("-s", "-p", "no:cacheprovider", "-k", "not soon", *words)
    ran.assert_outcomes(passed=2, deselected=1)
    return [line for line in ran.outlines if "said" in line]


def test_it_is_found_by_pytest() -> None:
    (found,) = [one for one in importlib.metadata.entry_points(group="pytest11") if one.name == "bursar"]
    assert found.value == "bursar.surfaces.pytest_plugin"


def test_off_it_labels_nothing(inner: pytest.Pytester) -> None:
    assert all("said []" in line for line in said(inner))


def test_on_the_suite_is_the_marker_or_the_module(inner: pytest.Pytester) -> None:
    plain, marked = said(inner, "--bursar-eval")
    assert "[('operation', 'eval'), ('suite', 'refunds'), ('trigger', 'local')] True" in plain
    assert "('suite', 'answers')" in marked


def test_the_ini_file_can_switch_it_on_and_the_build_says_why_it_runs(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_EVENT_NAME", "pull_request")
    inner.makeini("[pytest]\nbursar_eval = true\n")
    assert all("('trigger', 'github:pull_request')" in line for line in said(inner))


def test_labels_end_with_the_test(inner: pytest.Pytester) -> None:
    """What comes after the run is no eval."""
    inner.makeconftest("""
        from bursar.surfaces.context import current

        def pytest_sessionfinish():
            print("after", dict(current()))
    """)
    ran = inner.runpytest("-s", "--bursar-eval", "-k", "plain")
    ran.stdout.fnmatch_lines(["*after {}*"])


def test_a_marker_that_names_nothing_is_told(inner: pytest.Pytester) -> None:
    inner.makepyfile(
        test_odd="""
        import pytest

        @pytest.mark.bursar_suite()
        def test_odd():
            pass
    """
    )
    ran = inner.runpytest("--bursar-eval", "test_odd.py")
    assert ran.ret != 0
    assert "write the suite as one text" in ran.stdout.str() + ran.stderr.str()


def test_it_loads_nothing_heavy(inner: pytest.Pytester) -> None:
    """Everybody's pytest starts with it: it may not cost them anything."""
    inner.makepyfile(
        test_light="""
        import sys

        def test_light():
            assert not {"duckdb", "sqlglot", "apsw", "rich", "msgspec", "genai_prices"} & set(sys.modules)
    """
    )
    inner.runpytest_subprocess("-p", "no:hypothesispytest", "test_light.py").assert_outcomes(passed=1)
