"""Labels set in the program around its calls."""

from __future__ import annotations

import asyncio
import threading

import pytest

import bursar
from bursar.surfaces.context import build_labels, build_service, current


def test_scopes_nest_and_the_inner_one_wins() -> None:
    with bursar.labels(tenant="acme", feature="support"):
        with bursar.labels(feature="refund", flow="late"):
            assert current() == {"tenant": "acme", "feature": "refund", "flow": "late"}
        assert current() == {"tenant": "acme", "feature": "support"}
    assert current() == {}


def test_a_scope_ends_when_its_block_raises() -> None:
    with pytest.raises(KeyError), bursar.labels(tenant="acme"):
        raise KeyError
    assert current() == {}


def test_names_that_are_no_python_words_and_numbers_are_labels_too() -> None:
    with bursar.labels({"team-name": "billing"}, run=7, user=None):
        assert current() == {"team-name": "billing", "run": "7"}


@pytest.mark.parametrize("wrong", [1.5, b"x", ["a"], object()])
def test_a_value_that_is_no_text_is_refused_where_it_is_written(wrong: object) -> None:
    with pytest.raises(TypeError, match="label tenant="):
        bursar.labels(tenant=wrong)  # type: ignore[arg-type]


def test_an_operation_outside_the_vocabulary_is_refused() -> None:
    """A bill by operation must stay comparable; a typo must not make a new line on it."""
    with pytest.raises(ValueError, match="primary, retry, fallback, eval"):
        bursar.operation("evals")


def test_a_decorated_function_is_labelled_for_each_call() -> None:
    @bursar.operation("eval")
    def work() -> dict[str, str]:
        return dict(current())

    assert work() == {"operation": "eval"}
    assert work.__name__ == "work"
    assert current() == {}


def test_a_decorated_coroutine_is_labelled_while_it_runs() -> None:
    @bursar.operation("background")
    async def work() -> dict[str, str]:
        await asyncio.sleep(0)
        return dict(current())

    assert asyncio.run(work()) == {"operation": "background"}


def test_a_decorated_generator_is_refused() -> None:
    """Between two of its items its labels would be the caller's."""
    with pytest.raises(TypeError, match="generator"):

        @bursar.operation("eval")
        def work():  # type: ignore[no-untyped-def]
            yield 1


def test_tasks_that_run_at_once_keep_their_own_labels() -> None:
    async def work(tenant: str) -> tuple[str, str]:
        with bursar.labels(tenant=tenant):
            before = current()["tenant"]
            await asyncio.sleep(0.01)
            return before, current()["tenant"]

    async def both() -> list[tuple[str, str]]:
        return await asyncio.gather(*(work(f"t{n}") for n in range(8)))

    assert asyncio.run(both()) == [(f"t{n}", f"t{n}") for n in range(8)]


def test_one_scope_may_be_entered_by_many_threads_at_once() -> None:
    scope = bursar.labels(tenant="acme")
    seen: list[dict[str, str]] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        with scope:
            barrier.wait()
            seen.append(dict(current()))
        seen.append(dict(current()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen.count({"tenant": "acme"}) == 4
    assert seen.count({}) == 4


def test_the_package_has_only_its_public_names() -> None:
    assert set(bursar.__all__) <= set(dir(bursar))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        bursar.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_a_build_service_is_known_by_its_variable() -> None:
    """The particular one before the general; a variable that says no is none."""
    assert build_service({"CI": "true", "GITHUB_ACTIONS": "true"}) == "github"
    assert build_service({"CI": "1"}) == "ci"
    assert build_service({"JENKINS_URL": "https://jenkins.example/"}) == "jenkins"
    assert build_service({"CI": "false", "GITLAB_CI": ""}) == "" and build_service({}) == ""


def test_a_build_says_which_suite_it_is_and_what_started_it() -> None:
    """Only in a build: the same variables mean nothing elsewhere."""
    github = {"GITHUB_ACTIONS": "true", "GITHUB_WORKFLOW": "nightly evals", "GITHUB_EVENT_NAME": "schedule"}
    assert build_labels(github) == {"suite": "nightly evals", "trigger": "github:schedule"}
    assert build_labels({"JENKINS_URL": "https://j", "JOB_NAME": "tone"}) == {"suite": "tone", "trigger": "jenkins"}
    assert build_labels({"CI": "true"}) == {"trigger": "ci"}
    assert build_labels({"GITHUB_WORKFLOW": "nightly evals"}) == {} == build_labels({})
