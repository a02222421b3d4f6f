"""Labels that a program sets around its calls: `with bursar.labels(…)`, `bursar.operation(…)`. Contextvars, nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

from ..domain.labels import OPERATIONS

Function = TypeVar("Function", bound=Callable[..., Any])
Value = str | int | None


class _Layer(NamedTuple):
    """What is in force, and what it lies on: leaving needs no token, so that one scope may be entered in several threads."""

    said: Mapping[str, str]
    below: _Layer | None


_BARE = _Layer({}, None)
_layers: ContextVar[_Layer] = ContextVar("bursar_labels", default=_BARE)


# Variables that build services set, and what the service is called.
SERVICES = {
    "GITHUB_ACTIONS": "github", "GITLAB_CI": "gitlab", "CIRCLECI": "circleci", "BUILDKITE": "buildkite", "JENKINS_URL": "jenkins",
    "TF_BUILD": "azure", "TEAMCITY_VERSION": "teamcity", "BITBUCKET_BUILD_NUMBER": "bitbucket", "CODEBUILD_BUILD_ID": "codebuild",
    "CI": "ci",
}  # fmt: skip


def build_service(environment: Mapping[str, str]) -> str:
    """The build service that this process runs in, empty for none: calls made there are evals unless somebody says otherwise."""
    return next((name for variable, name in SERVICES.items() if environment.get(variable, "").lower() not in ("", "false", "0")), "")


# Variables with the name of what is built, and with what started it: GitHub, GitLab, Circle, Buildkite, Jenkins, Azure, TeamCity.
SUITES = (
    "GITHUB_WORKFLOW", "CI_JOB_NAME", "CIRCLE_JOB", "BUILDKITE_PIPELINE_SLUG", "JOB_NAME", "BUILD_DEFINITIONNAME",
    "TEAMCITY_BUILDCONF_NAME",
)  # fmt: skip
TRIGGERS = ("GITHUB_EVENT_NAME", "CI_PIPELINE_SOURCE", "BUILDKITE_SOURCE", "BUILD_REASON")


def build_labels(environment: Mapping[str, str]) -> Mapping[str, str]:
    """What calls made in a build say of themselves where nobody says it: the suite by the build's own name, and what started it."""
    service = build_service(environment)
    if not service:
        return {}
    suite, event = (next((environment[name] for name in names if environment.get(name)), "") for names in (SUITES, TRIGGERS))
    made = {"suite": suite, "trigger": f"{service}:{event}" if event else service}
    return {name: value for name, value in made.items() if value}


def current() -> Mapping[str, str]:
    """The labels in force here: the merged mapping of every scope around this point. Not to be changed."""
    return _layers.get().said


class Scope:
    """Labels for a `with` block, or for each call of a decorated function, plain or async."""

    __slots__ = ("_said",)

    def __init__(self, said: Mapping[str, str]) -> None:
        self._said = said

    def __enter__(self) -> Scope:
        layer = _layers.get()
        _layers.set(_Layer({**layer.said, **self._said}, layer))
        return self

    def __exit__(self, *_: object) -> None:
        _layers.set(_layers.get().below or _BARE)

    def __call__(self, function: Function) -> Function:
        """TypeError for a generator function: between two of its items the labels would be the caller's too."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__qualname__} is a generator: put `with bursar.labels(…)` inside it, around its calls")
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def labelled_async(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return cast(Function, labelled_async)

        @wraps(function)
        def labelled(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return cast(Function, labelled)


def labels(more: Mapping[str, Value] | None = None, /, **said: Value) -> Scope:
    """Labels for the calls inside: `tenant`, `feature`, `flow`, `operation`, `conversation`, `user`, or names of your own
    (`more` takes names that are no Python words). Scopes nest and merge, the inner one wins; None says nothing; numbers
    are stored as text. Follows async tasks; a new thread starts without labels unless its context is copied.

    TypeError for a value that is no text or whole number, ValueError for an operation outside the vocabulary."""
    given: dict[str, str] = {}
    for name, value in {**(more or {}), **said}.items():
        if value is None:
            continue
        if not isinstance(value, str | int):
            raise TypeError(f"label {name}={value!r}: a label is text or a whole number, not {type(value).__name__}")
        given[name] = str(value)
    word = given.get("operation")
    if word is not None and word not in OPERATIONS:
        raise ValueError(f"operation {word!r} is not in the vocabulary: {', '.join(OPERATIONS)}")
    return Scope(given)


def operation(word: str) -> Scope:
    """What the calls inside are for: `eval`, `background`, `embedding`, … ValueError for a word outside the vocabulary."""
    return labels(operation=word)
