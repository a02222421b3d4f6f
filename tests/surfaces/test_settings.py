"""The policy file: what is wrong in it is told with file, line, and what would be right; nothing of a bad file is used."""

from __future__ import annotations

import pytest

from bursar.surfaces import settings

GOOD = """
[providers.openai]
key = "client"

[[budget]]
scope = "tenant"
limit = "$50"
window = "day"

[[price]]
model = "my-*"
input = "0.5"
output = 2
"""


def test_a_good_file_is_typed():
    """Limits, prices and providers come out as they were written."""
    policy = settings.parse(GOOD)
    assert policy.budget[0].limit == "$50" and policy.providers["openai"].key == "client" and policy.price[0].output == 2


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[[budget]]\nscope = "tenant"\nlimit = "$5"\nwindwo = "day"\n', 4, ["windwo", "window"]),
        ('[[budget]]\nscope = "tennant"\nlimit = "$5"\n', 1, ["tennant", "tenant"]),
        ('[[budget]]\nscope = "tenant"\nlimit = "50"\n', 1, ["50", "$50"]),
        ('\n\n[[budget]]\nscope = "tenant"\nlimit = "$5"\nwindow = "fortnight"\n', 3, ["fortnight", "week"]),
        ('[[budget]]\nscope = "tenant"\nlimit = "$5"\nzone = "Mars/Base"\n', 1, ["Mars/Base", "Europe/Berlin"]),
        ('[providers.openai]\nbase_url = "api.openai.com"\n', 1, ["base_url", "https://"]),
        ('[providers.openai]\nbase_url = "https://user:pass@host"\n', 1, ["base_url"]),
        ('[provider.openai]\nkey = "x"\n', 1, ["provider", "providers"]),
        ('[[price]]\nmodel = "m"\ninput = 0.5\n', 3, ["0.5", "string"]),
        ('[[price]]\nmodel = "m"\ninput = "cheap"\n', 1, ["cheap"]),
        ('[[fallback]]\nfrom = "a"\nto = "a"\n', 1, ["itself"]),
        ('[[fallback]]\nfrom = "a"\nto = "b"\non = ["sometimes"]\n', 4, ["sometimes"]),
        ('[server]\nport = "8787"\n', 2, ["port", "int"]),
        ('[labels]\n\n[[tool]]\nname = "search"\nfailed = ["(no hits"]\n', 3, ["(no hits", "regular expression"]),
        ('[[tool]]\nname = "wait"\npolls = -1\n', 1, ["polls", "-1"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(text, line, words):
    """Somebody who mistyped one word should not have to search for it."""
    with pytest.raises(settings.BadPolicy) as told:
        settings.parse(text, "teams.toml")
    message = str(told.value)
    assert message.startswith("teams.toml")
    assert f"teams.toml:{line}:" in message, message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("text", ["= 3", "[[budget", 'a = "\x00"', "[budget]\n[budget]\n"])
def test_what_is_not_toml_is_said_to_be_none(text):
    """The parser's own position stands in the message."""
    with pytest.raises(settings.BadPolicy, match="TOML"):
        settings.parse(text)


def test_two_budgets_of_one_name_are_refused():
    """Their counters would be one."""
    with pytest.raises(settings.BadPolicy, match="two budgets"):
        settings.parse('[[budget]]\nname="a"\nscope="tenant"\nlimit="$1"\n[[budget]]\nname="a"\nscope="feature"\nlimit="$1"\n')


def test_secrets_come_from_the_environment_or_a_file_and_never_stand_in_a_message(tmp_path, monkeypatch):
    """env: and file: are looked up when the policy is put to use; a missing one is named, its value never."""
    monkeypatch.setenv("MY_KEY", "sk-from-env")
    (tmp_path / "key").write_text("sk-from-file\n")
    assert settings.secret("env:MY_KEY", "x") == "sk-from-env"
    assert settings.secret(f"file:{tmp_path}/key", "x") == "sk-from-file"
    with pytest.raises(settings.BadPolicy, match="NOT_SET"):
        settings.secret("env:NOT_SET", "providers.openai.key")


def test_the_schema_names_every_table():
    """Editors complete from it; it is generated, so it cannot fall behind."""
    schema = settings.schema().decode()
    for table in ("providers", "budget", "fallback", "price", "key", "tool", "server", "ledger", "guard"):
        assert f'"{table}"' in schema


@pytest.mark.parametrize(("line", "said"), [("alarms = '7d'", "five weeks"), ("alarms = ''", "no length"), ("incidents = 'for ever'", "no length")])
def test_how_long_something_is_kept_is_a_length_and_alarms_long_enough_to_learn_from(tmp_path, line: str, said: str):
    path = tmp_path / "bursar.toml"
    path.write_text(f"[retention]\n{line}\n", "utf-8")
    with pytest.raises(settings.BadPolicy, match=said):
        settings.load(path)
