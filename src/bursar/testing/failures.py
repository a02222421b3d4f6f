"""How a tool's failure looks in the messages: what real tools and frameworks put there, in five shapes."""

from __future__ import annotations

import json
from random import Random

from .talk import Result

SHAPES = ("flag", "exception", "body", "empty", "malformed")
SAID = SHAPES[:3]  # of a tool that answers in words: nothing is an answer of it, and what breaks off is its text


def failure(rng: Random, shape: str, tool: str) -> Result:
    """One failed result. `flag`: the dialect's own flag, with a text that says nothing of an error; `exception`: what a framework
    makes of a raised one; `body`: an error in a body that came with a 200; `empty`: nothing where something must be;
    `malformed`: an answer that breaks off."""
    match shape:
        case "flag":
            return Result(rng.choice(("The service did not answer within 10 s.", "Order service is not available right now.")), True)
        case "exception":
            return Result(
                rng.choice((
                    f'Traceback (most recent call last):\n  File "tools.py", line 88, in {tool}\nTimeoutError: timed out after 10 s',
                    f"Error: {tool} failed: ConnectionError: [Errno 111] Connection refused",
                    f"Error executing tool {tool}: HTTPError: 503 Server Error: Service Unavailable for url: https://orders.internal/v2",
                    "ToolException: upstream timed out",
                ))
            )  # fmt: skip
        case "body":
            body = rng.choice((
                {"status": 503, "error": {"code": "UPSTREAM_UNAVAILABLE", "message": "try again later"}},
                {"success": False, "message": "internal server error"},
                {"statusCode": 500, "body": "Internal Server Error"},
                {"error": "rate limit exceeded", "retry_after": 30},
            ))  # fmt: skip
            return Result(json.dumps(body))
        case "empty":
            return Result(rng.choice(("", "null")))
        case "malformed":
            return Result(f'{{"id": "A-{rng.randrange(10_000)}", "state": "shi')
        case _:
            raise ValueError(f"{shape!r} is not one of {SHAPES}")
