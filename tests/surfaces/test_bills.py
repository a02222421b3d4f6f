"""Bills as providers write them: what is read from each format, and what is said of a file that is none."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.domain.money import PICO
from bursar.surfaces.bills import BadBill, File, Wanted, read, unit_of


def us(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp()) * 1_000_000


def written(tmp_path: Path, text: str, name: str = "bill.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return path


def of(tmp_path: Path, text: str, name: str = "bill.csv", wanted: Wanted | None = None) -> File:
    return read(written(tmp_path, text, name), wanted or Wanted())


OPENAI_COSTS = {"object": "page", "data": [
    {"object": "bucket", "start_time": 1759622400, "end_time": 1759708800, "results": [
        {"object": "organization.costs.result", "amount": {"value": 0.06000000000000001, "currency": "usd"},
         "line_item": "gpt-5-mini-2025-08-07, cached input", "project_id": "p1", "quantity": 12000, "quantity_unit": "tokens"},
        {"object": "organization.costs.result", "amount": {"value": 1e-05, "currency": "usd"}, "line_item": "web search tool calls"}]},
    {"object": "bucket", "start_time": 1759708800, "end_time": 1759795200, "results": []}]}  # fmt: skip


def test_openais_costs_page(tmp_path: Path) -> None:
    """Floats with their noise come to the pico-dollar that was meant; an empty day is a day of nothing."""
    found = of(tmp_path, json.dumps(OPENAI_COSTS), "costs.json")
    first, search, empty = found.bills
    assert (first.amount, first.model, first.unit, first.project, first.tokens) == (
        60_000_000_000,
        "gpt-5-mini-2025-08-07",
        "cache_read",
        "p1",
        12_000,
    )
    assert (first.since, first.until, first.provider, first.naive) == (us(2025, 10, 5), us(2025, 10, 6), "openai", False)
    assert (search.amount, search.model, search.unit) == (10_000_000, "", "")
    assert (empty.amount, empty.since) == (0, us(2025, 10, 6))
    assert found.format == "openai costs" and found.usages == []


def test_openais_usage_page(tmp_path: Path) -> None:
    result = {
        "object": "organization.usage.completions.result",
        "input_tokens": 1000,
        "input_cached_tokens": 400,
        "input_cache_write_tokens": 100,
        "input_uncached_tokens": 500,
        "output_tokens": 500,
        "model": "gpt-5",
        "batch": True,
        "service_tier": "default",
        "project_id": None,
    }
    page = {"data": [{"start_time": 1759622400, "end_time": 1759708800, "results": [result, {**result, "batch": False, "service_tier": "flex",
                                                                                             "input_uncached_tokens": None}]}]}  # fmt: skip
    one, two = of(tmp_path, "\n".join([json.dumps(page)]), "usage.json").usages
    assert dict(one.tokens) == dict(two.tokens) == {"input": 500, "cache_read": 400, "cache_write": 100, "output": 500}
    assert (one.model, one.tier, two.tier) == ("gpt-5", "batch", "flex")


def test_anthropics_cost_report_is_in_cents(tmp_path: Path) -> None:
    page = {"data": [{"starting_at": "2025-10-05T00:00:00Z", "ending_at": "2025-10-06T00:00:00Z", "results": [
        {"currency": "USD", "amount": "123.78912", "workspace_id": "w1", "cost_type": "tokens", "model": "claude-opus-4-1", "service_tier": "batch",
         "token_type": "uncached_input_tokens", "description": "Claude Opus 4.1 Usage - Input Tokens"},
        {"currency": "USD", "amount": "5", "cost_type": "tokens", "model": "claude-opus-4-1", "token_type": "cache_creation.ephemeral_1h_input_tokens"},
        {"currency": "USD", "amount": "1", "cost_type": "web_search", "model": None, "token_type": None}]}], "has_more": False}  # fmt: skip
    one, two, search = of(tmp_path, json.dumps(page), "cost.json").bills
    assert (one.amount, one.model, one.unit, one.project, one.tier) == (1_237_891_200_000, "claude-opus-4-1", "input", "w1", "batch")
    assert (two.unit, two.amount, search.amount) == ("cache_write", PICO // 20, PICO // 100)
    assert one.grain == 10**5  # a hundred-thousandth of a cent


def test_anthropics_usage_report(tmp_path: Path) -> None:
    page = [{"data": [{"starting_at": "2025-10-05T00:00:00Z", "ending_at": "2025-10-06T00:00:00Z", "results": [
        {"uncached_input_tokens": 10, "cache_creation": {"ephemeral_1h_input_tokens": 2, "ephemeral_5m_input_tokens": 3}, "cache_read_input_tokens": 4,
         "output_tokens": 5, "server_tool_use": {"web_search_requests": 1}, "model": "claude-haiku-4-5", "service_tier": "standard"}]},
        {"starting_at": "2025-10-06T00:00:00Z", "ending_at": "2025-10-07T00:00:00Z", "results": []}]}]  # fmt: skip
    one, empty = of(tmp_path, json.dumps(page), "usage.json").usages
    assert dict(one.tokens) == {"input": 10, "cache_write": 5, "cache_read": 4, "output": 5} and one.tier == ""
    assert empty.tokens == () and empty.model == "" and empty.provider == "anthropic"


def test_pages_one_a_line_are_read_together(tmp_path: Path) -> None:
    found = of(tmp_path, json.dumps(OPENAI_COSTS) + "\n" + json.dumps(OPENAI_COSTS) + "\n", "pages.jsonl")
    assert len(found.bills) == 6


def test_openais_csv_exports(tmp_path: Path) -> None:
    costs = ("start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id,organization_id\n"
             "1759622400,1759708800,2025-10-05T00:00:00+00:00,,0.8958740000000000,usd,,,org\n")  # fmt: skip
    (one,) = of(tmp_path, costs).bills
    assert (one.amount, one.since, one.until, one.model) == (895_874_000_000, us(2025, 10, 5), us(2025, 10, 6), "")
    assert one.grain == 10**6
    usage = ("start_time,end_time,project_id,num_model_requests,model,batch,service_tier,input_tokens,output_tokens,input_cached_tokens,input_uncached_tokens\n"
             "1759622400,1759708800,proj,10,gpt-4o-2024-08-06,FALSE,default,59200,10646,5760,53440\n"
             "1759708800,1759795200,,,,,,,,,\n")  # fmt: skip
    day, empty = of(tmp_path, usage).usages
    assert dict(day.tokens) == {"input": 53_440, "cache_read": 5760, "output": 10_646}
    assert (empty.since, empty.tokens, empty.model) == (us(2025, 10, 6), (), "")


FOCUS = ("BilledCost,BillingCurrency,ChargePeriodStart,ChargePeriodEnd,ProviderName,ServiceCategory,ServiceName,SkuId,SkuPriceId,SkuMeter,"
         "SkuPriceDetails,ConsumedQuantity,ConsumedUnit,SubAccountId,ChargeDescription\n")  # fmt: skip


def test_focus_rows_of_language_models(tmp_path: Path) -> None:
    text = FOCUS + (
        "1.25,USD,2025-10-05T00:00:00Z,2025-10-06T00:00:00Z,OpenAI,AI and Machine Learning,API,gpt-5,gpt-5/input/standard,Input Tokens,,1000000,Tokens,p1,x\n"
        '2,USD,2025-10-05 00:00:00,2025-10-06 00:00:00,"Amazon Web Services, Inc.",AI and Machine Learning,Bedrock,SKU1,SP1,Claude output,'
        '"{""ModelFamily"": ""claude-haiku-4-5"", ""x_TokenType"": ""output""}",5,1K tokens,NULL,x\n'
        "9,USD,2025-10-05 00:00:00,2025-10-06 00:00:00,AWS,Integration,Amazon Simple Queue Service,S,S,,,2,Requests,,x\n"
    )
    found = of(tmp_path, text)
    one, two = found.bills
    assert (one.amount, one.model, one.unit, one.tokens, one.project, one.provider) == (
        PICO * 5 // 4,
        "gpt-5",
        "input",
        1_000_000,
        "p1",
        "openai",
    )
    assert (two.model, two.unit, two.provider, two.project, two.naive) == ("claude-haiku-4-5", "output", "bedrock", "", False)
    assert found.left_out == (1, 9 * PICO)


def test_any_csv_with_a_date_and_an_amount(tmp_path: Path) -> None:
    found = of(
        tmp_path,
        "Day;Model;Token Type;Cost (USD);Quantity;Vendor\n2025-10-05;gpt-5;output tokens;1,250.50;7;OpenAI\n2025-10-06;gpt-5;;;;\n",
    )
    (one,) = found.bills
    assert (one.amount, one.model, one.unit, one.tokens, one.provider, one.naive) == (
        125_050 * PICO // 100,
        "gpt-5",
        "output",
        7,
        "openai",
        True,
    )
    zone = Wanted(zone=ZoneInfo("Europe/Berlin"), provider="openai", columns={"amount": "Sum", "since": "When"})
    (berlin,) = of(tmp_path, "When,Sum,Cost\n2025-10-26,3,99\n", wanted=zone).bills
    assert (berlin.since, berlin.until, berlin.naive) == (us(2025, 10, 25, 22), us(2025, 10, 26, 23), False)  # twenty-five hours
    assert berlin.amount == 3 * PICO and berlin.grain == 10**10  # never more than a cent


@pytest.mark.parametrize(("text", "unit"), [
    ("input", "input"), ("cached input", "cache_read"), ("output", "output"), ("cache_creation.ephemeral_5m_input_tokens", "cache_write"),
    ("uncached_input_tokens", "input"), ("cache_read_input_tokens", "cache_read"), ("Prompt tokens", "input"), ("reasoning", "output"),
    ("web_search", "other"), ("Cache Writes", "cache_write"), ("gpt-5", ""),
])  # fmt: skip
def test_token_classes_are_read_from_what_meters_are_called(text: str, unit: str) -> None:
    assert unit_of(text) == unit


@pytest.mark.parametrize(("text", "name", "told"), [
    ("", "a.csv", "empty"), ("{", "a.json", "not JSON"), ("{}", "a.json", "no cost and no token usage"),
    ('{"data": [{"results": [{"amount": {"value": 1}}]}]}', "a.json", "without a start"),
    ("a,b\n1,2\n", "a.csv", "no column for the date"), ("date,b\n2025-10-05,2\n", "a.csv", "no column for the amount"),
    ("date,cost\n2025-10-05,abc\n", "a.csv", "a.csv:2: cost is 'abc'"), ("date,cost\nsoon,5\n", "a.csv", "no date or time"),
    ("date,cost\n2025-10-05,\n", "a.csv", "no line has an amount"), ("date,cost\n2025-10-05,inf\n", "a.csv", "no plausible number"),
    (FOCUS + "9,USD,2025-10-05,2025-10-06,AWS,Integration,SQS,S,S,,,2,Requests,,x\n", "a.csv", "none of its 1 rows is of a language model"),
    ("start_time,input_tokens,output_tokens,input_cached_tokens,model\n1759622400,5,1,9,m\n", "a.csv", "more cached tokens than input"),
])  # fmt: skip
def test_what_is_no_bill_is_told_with_file_line_and_what_would_be(tmp_path: Path, text: str, name: str, told: str) -> None:
    with pytest.raises(BadBill, match=told):
        of(tmp_path, text, name)


def test_a_named_column_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(BadBill, match="no column 'Total'; there are date, cost"):
        of(tmp_path, "date,cost\n2025-10-05,1\n", wanted=Wanted(columns={"amount": "Total"}))


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=200) | st.builds(lambda rows: "date,cost,model\n" + "\n".join(rows), st.lists(st.text(max_size=40), max_size=5))
)
def test_any_text_is_read_or_refused(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        path.write_text(text, "utf-8", newline="", errors="replace")
        try:
            found = read(path)
        except BadBill:
            return
        assert all(isinstance(one.amount, int) and one.until > one.since for one in found.bills)


def test_the_published_examples_are_read(data_dir: Path, tmp_path: Path) -> None:
    """Each example of OpenAI's API description that has money or tokens; the FOCUS sample, which has no language model, is refused."""
    with gzip.open(data_dir / "billing-exports" / "openai_usage_costs_api_examples.jsonl.gz", "rt", encoding="utf-8") as lines:
        examples = [json.loads(line) for line in lines]
    read_ones = 0
    for n, example in enumerate(examples):
        path = written(tmp_path, json.dumps(example["example_response"]), f"{n}.json")
        try:
            found = read(path)
        except BadBill:
            assert not any(word in example["path"] for word in ("costs", "completions", "embeddings", "moderations"))
            continue
        read_ones += 1
        if example["path"].endswith("completions"):
            assert dict(found.usages[0].tokens) == {"input": 500, "cache_read": 400, "cache_write": 100, "output": 500}
        if example["path"].endswith("costs"):
            assert [one.amount for one in found.bills] == [int(Decimal("0.06") * PICO)]
    assert read_ones >= 4
    with pytest.raises(BadBill, match="none of its 610 rows is of a language model"):
        read(data_dir / "billing-exports" / "focus_1_0_sample.csv.gz")
