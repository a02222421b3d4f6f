"""Budgets that can never trip are refused when the policy is read, with file, line, reason and remedy; what is like them loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from bursar.surfaces import keys, settings, wiring

TIERS = '\n[tiers]\ncheap = "gpt-5-nano"\n'
KEY = '\n[[key]]\nname = "team"\nhash = "000000000000:' + "0" * 64 + '"\ntenant = "acme"\nmodels = ["gpt-5-mini"]\n'


def budget(scope: str, limit: str = "$5", more: str = "") -> str:
    return f'\n[[budget]]\nscope = {scope}\nlimit = "{limit}"\n{more}'


# what cannot be -> (policy, words of the refusal, a policy like it that can)
TEXT: dict[str, tuple[str, str, str]] = {
    "a misspelt label": (budget('{tennant = "acme"}'), "write 'tenant'", budget('{team = "acme"}')),
    "a label that comes after the call": (budget('{purpose = "eval"}'), "use operation", budget('{operation = "eval"}')),
    "an alarm's business": (budget('{cause = "loop"}'), "[[alarm]]", budget('{reason = "loop"}')),
    "an empty value": (budget('{tenant = ""}'), "tenant is empty", budget('{tenant = "*"}')),
    "a value of two lines": (budget('{tenant = "a\\nb"}'), "one line", budget('{tenant = "a b"}')),
    "a value too long": (budget('{tenant = "' + "x" * 300 + '"}'), "256", budget('{tenant = "' + "x" * 200 + '"}')),
    "a wildcard": (budget('{model = "gpt-*"}'), "compared as it stands", budget('{model = "*"}')),
    "an operation nobody has": (budget('{operation = "evals"}'), "no call has the operation", budget('{operation = "eval"}')),
    "an unknown provider": (budget('{provider = "opanai"}'), "write 'openai'", budget('{provider = "openai"}')),
    "a provider before the model": (
        budget('{model = "openai/gpt-5"}'), 'provider = "openai", model = "gpt-5"', budget('{provider = "openai", model = "gpt-5"}'),
    ),
    "tool calls of embeddings": (
        budget('{operation = "embedding"}', "5 tool_calls"), "embeddings call no tools", budget('{operation = "embedding"}', "5 calls"),
    ),
    "conversations of embeddings": (
        budget('{operation = "embedding"}', "5 calls", 'window = "conversation"\n'), "no conversation",
        budget('{operation = "eval"}', "5 calls", 'window = "conversation"\n'),
    ),
    "calls of one call": (budget('"call"', "5 calls"), "one call is one call", budget('"call"', "5000 tokens")),
    "a soft limit of one call": (budget('"call"', "$5", "hard = false\n"), "does nothing", budget('"call"', "$5")),
    "a ladder in one call": (
        budget('"call"', "$5", 'ladder = {warn = "50%"}\n'), "no rungs", budget('"all"', "$5", 'ladder = {warn = "50%"}\n'),
    ),
    "more than a counter comes to": (budget('"all"', "$9999999999999"), "more than any counter", budget('"all"', "$999999999")),
    "one behind a smaller one": (
        budget('"tenant"', "$5") + budget('"tenant"', "$50", 'name = "large"\n'), "stops sooner",
        budget('"tenant"', "$5", 'window = "day"\n') + budget('"tenant"', "$50", 'name = "large"\n'),
    ),
    "one before a smaller one": (
        budget('"tenant"', "$50", 'name = "large"\n') + budget('"tenant"', "$5", 'name = "small"\n'), "toml:2: [[budget]]: budget 'large'",
        budget('"tenant"', "$50", 'name = "large"\nladder = {warn = "5%"}\n') + budget('"tenant"', "$5", 'name = "small"\n'),
    ),
    "a rung beyond the limit": (
        budget('"all"', "$5", 'ladder = {warn = "120%"}\n'), 'between "1%" and "100%"', budget('"all"', "$5", 'ladder = {warn = "100%"}\n'),
    ),
    "rungs out of order": (
        budget('"all"', "$5", 'ladder = {warn = "90%", wind_down = "80%"}\n'), "comes before",
        budget('"all"', "$5", 'ladder = {warn = "80%", wind_down = "90%"}\n'),
    ),
    "a last turn that no stop follows": (
        budget('"all"', "$5", 'hard = false\nladder = {wind_down = "80%"}\n'), "never stops",
        budget('"all"', "$5", 'ladder = {wind_down = "80%"}\n'),
    ),
    "cheaper without tiers": (
        budget('"all"', "$5", 'ladder = {cheaper = "80%"}\n'), "no model to go to", budget('"all"', "$5", 'ladder = {cheaper = "80%"}\n') + TIERS,
    ),
    "another tenant than the key's": (budget('{key = "team", tenant = "rival"}') + KEY, "binds tenant to 'acme'",
                                      budget('{key = "team", tenant = "acme"}') + KEY),
    "a model that the key may not use": (budget('{key = "team", model = "gpt-5"}') + KEY, "may not use",
                                         budget('{key = "team", model = "gpt-5-mini"}') + KEY),
    "a limit that nobody judges": ('\n[guard]\nmode = "off"\nturns_max = 5\n', "can never trip", '\n[guard]\nmode = "warn"\nturns_max = 5\n'),
    "a flow's limit that nobody judges": (
        '\n[guard.flow.chat]\nmode = "off"\nrepeats_max = 5\n', "guard.flow.chat.repeats_max", '\n[guard.flow.chat]\nrepeats_max = 5\n',
    ),
}  # fmt: skip

WORLD: dict[str, tuple[str, str, str]] = {
    "a model without a price": (
        budget('{model = "our-own"}'), "no price is known", budget('{model = "our-own"}', "5 calls"),
    ),
    "a free model under dollars": (
        budget('{model = "local"}') + '\n[[price]]\nmodel = "local"\ninput = "0"\noutput = "0"\n', "is free",
        budget('{model = "local"}', "1M tokens") + '\n[[price]]\nmodel = "local"\ninput = "0"\noutput = "0"\n',
    ),
    "a model of another provider": (
        budget('{provider = "anthropic", model = "gpt-5"}'), "does not sell", budget('{provider = "openai", model = "gpt-5"}'),
    ),
    "a key that was never made": (budget('{key = "nobody"}'), "bursar keys create nobody", budget('{key = "made"}')),
    "nothing cheaper among the tiers": (
        budget('{model = "gpt-5-nano"}', "$5", 'ladder = {cheaper = "50%"}\n') + TIERS, "no model of [tiers] is cheaper",
        budget('{model = "gpt-5"}', "$5", 'ladder = {cheaper = "50%"}\n') + TIERS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TEXT)
def test_what_the_file_tells(kind: str) -> None:
    bad, words, good = TEXT[kind]
    with pytest.raises(settings.BadPolicy) as refused:
        settings.parse(bad, "team/bursar.toml")
    told = str(refused.value)
    assert told.startswith("team/bursar.toml:") and int(told.split(":")[1]) > 1 and words in told, told
    settings.parse(good)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ledger")
    wiring.price_sync.ensure_book(place)
    keys.create(place, "made", now_us=1)
    return place


@pytest.mark.parametrize("kind", WORLD)
def test_what_prices_and_keys_tell(kind: str, folder: Path, tmp_path: Path) -> None:
    bad, words, good = WORLD[kind]
    path = tmp_path / "bursar.toml"
    path.write_text(bad)
    with pytest.raises(settings.BadPolicy) as refused:
        wiring.open_shop(path, folder, mode="gateway")
    assert str(refused.value).startswith(f"{path}:2: [[budget]]: ") and words in str(refused.value), refused.value
    path.write_text(good)
    wiring.open_shop(path, folder, mode="gateway").ledger.close()
