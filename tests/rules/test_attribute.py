"""Who pays: every source of labels, their order, and what strangers may not do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bursar.domain.call import Asked
from bursar.domain.labels import CHARGEABLE, FREE_LABELS_MAX, VALUE_CHARS_MAX
from bursar.rules.attribute import attribute

NOTHING = Asked(model="m")


def labels(headers=(), asked=NOTHING, bound=None, context=None, defaults=None):
    return attribute(list(headers), asked, bound or {}, context or {}, defaults or {})


def test_a_client_can_never_charge_another_tenant_than_its_key_binds():
    """The key is the strongest source; a header, a body and the process all lose against it."""
    found = labels(
        [(b"x-bursar-tenant", b"rival"), (b"x-bursar-labels", b'{"tenant": "rival"}')],
        Asked(metadata=(("tenant", "rival"),)), {"tenant": "acme"}, {"tenant": "rival"}, {"tenant": "rival"},
    )  # fmt: skip
    assert found.tenant == "acme"
    assert dict(found.sources)["tenant"] == "key"


def test_sources_are_asked_strongest_first():
    """Key, header, body, process, default: take the strongest away and the next one speaks."""
    sources = [
        ("header", dict(headers=[(b"x-bursar-feature", b"header")])),
        ("metadata", dict(asked=Asked(metadata=(("feature", "metadata"),)))),
        ("context", dict(context={"feature": "context"})),
        ("default", dict(defaults={"feature": "default"})),
    ]
    for first in range(len(sources)):
        given_: dict = {}
        for _, part in sources[first:]:
            given_.update(part)
        found = labels(**given_)
        assert found.feature == sources[first][0]
        assert dict(found.sources)["feature"] == sources[first][0]


def test_other_gateways_headers_are_read():
    """A team that comes from another gateway keeps its labels without touching a client."""
    cases = [
        ((b"helicone-user-id", b"u1"), "user", "u1"),
        ((b"helicone-session-id", b"s1"), "conversation", "s1"),
        ((b"helicone-property-feature", b"chat"), "feature", "chat"),
        ((b"x-litellm-customer-id", b"acme"), "tenant", "acme"),
        ((b"x-litellm-session-id", b"s2"), "conversation", "s2"),
        ((b"x-litellm-tags", b"feature:search,canary"), "feature", "search"),
        ((b"x-portkey-metadata", b'{"tenant": "t9", "step": 4}'), "tenant", "t9"),
        ((b"x-portkey-trace-id", b"tr"), "conversation", "tr"),
        ((b"x-claude-code-session-id", b"cc"), "conversation", "cc"),
        ((b"thread-id", b"cx"), "conversation", "cx"),
        ((b"x-session-id", b"oc"), "conversation", "oc"),
        ((b"baggage", b"gen_ai.conversation.id=c%207;x=1,other=2,bursar.flow=refund"), "conversation", "c 7"),
    ]
    for header, name, value in cases:
        assert labels([header]).get(name) == value, header


def test_an_operation_outside_the_vocabulary_stays_a_free_label():
    """A bill by operation must stay comparable, and nothing anyone said may be lost."""
    found = labels([(b"x-bursar-operation", b"nightly-thing")])
    assert found.operation == ""
    assert found.get("operation_said") == "nightly-thing"
    assert labels([(b"x-bursar-operation", b"eval")]).operation == "eval"


def test_embeddings_are_known_by_their_endpoint():
    """Nobody has to label an embedding call."""
    assert labels(asked=Asked(embedding=True)).operation == "embedding"


@given(st.dictionaries(st.text(min_size=1, max_size=80), st.text(max_size=600), max_size=60), st.binary(max_size=300))
def test_hostile_labels_are_bounded_and_never_an_error(context, junk):
    """A call must not fail because of a label, and one caller must not fill the ledger with them."""
    found = labels([(b"x-bursar-labels", junk), (b"x-bursar-tenant", junk), (b"baggage", junk), (b"x-portkey-metadata", junk)],
                   context=context)  # fmt: skip
    assert len(found.extra) <= FREE_LABELS_MAX
    for name in CHARGEABLE:
        assert len(found.get(name)) <= VALUE_CHARS_MAX and (found.get(name).isprintable())
    for name, value in found.extra:
        assert name.isprintable() and value.isprintable() and len(value) <= VALUE_CHARS_MAX
