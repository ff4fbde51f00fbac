"""A ledger as cost data in the format of FinOps: FOCUS 1.2, a row an hour, model and label.

What the ledger doesn't know stays null, such as a billing account that nobody named. Columns of
our own begin with `x_`, as the specification has it.

Source: FOCUS 1.2, https://focus.finops.org/focus-specification/v1-2/ (checked 2026-11-29).
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import text

from llama_token_tracker.events.frames import Type
from llama_token_tracker.sinks.ledger.conditions import Statement
from llama_token_tracker.sinks.ledger.existing import reading
from llama_token_tracker.sinks.ledger.periods import EPOCH, FIRST_US, LAST_US
from llama_token_tracker.sinks.ledger.query import Query
from llama_token_tracker.sinks.ledger.schema import MEASURES
from llama_token_tracker.sinks.ledger.sums import NANO
from llama_token_tracker.usage import BUCKETS

_OURS: Final = {
    f"x_{''.join(map(str.capitalize, name.split('_')))}": name
    for name in BUCKETS
    if not name.startswith("seen_")
}

COLUMNS: Final[Mapping[str, Type]] = {
    # The mandatory ones, in the order of the specification.
    "BilledCost": "money",
    "BillingAccountId": "text",
    "BillingAccountName": "text",
    "BillingCurrency": "text",
    "BillingPeriodEnd": "time",
    "BillingPeriodStart": "time",
    "ChargeCategory": "text",
    "ChargeClass": "text",
    "ChargeDescription": "text",
    "ChargePeriodEnd": "time",
    "ChargePeriodStart": "time",
    "ContractedCost": "money",
    "EffectiveCost": "money",
    "InvoiceIssuerName": "text",
    "ListCost": "money",
    "PricingQuantity": "money",
    "PricingUnit": "text",
    "ProviderName": "text",
    "PublisherName": "text",
    "ServiceCategory": "text",
    "ServiceName": "text",
    # What else is known.
    "ChargeFrequency": "text",
    "ConsumedQuantity": "money",
    "ConsumedUnit": "text",
    "RegionId": "text",
    "ServiceSubcategory": "text",
    "SkuId": "text",
    "Tags": "json",
    "x_CertainCost": "money",
    "x_Calls": "integer",
    "x_UnpricedCalls": "integer",
    "x_Operation": "text",
    "x_Status": "text",
    "x_Scope": "text",
    **dict.fromkeys(_OURS, "integer"),
}


def rows(query: Query, account: str | None) -> Iterator[dict[str, Any]]:
    """The charges of a ledger, by the hour, as they're read.

    Args:
        query: Which calls are meant; of its times, the hours that begin within them.
        account: The billing account, as the provider names it.

    Raises:
        LedgerError: The ledger can't be read.
    """
    with reading(query.engine) as connection:
        statement = Statement(connection.dialect.name)
        conditions = statement.conditions(query.where)
        said = [one for several in conditions.values() for one in several]
        since = f"start_us >= {query.since_us or FIRST_US}"
        until = f"start_us < {LAST_US if query.until_us is None else query.until_us}"
        sql = (
            "SELECT start_us, provider, model, region, operation, status, scope, tags, calls, "
            f"unpriced_calls, {', '.join(MEASURES)} FROM ledger_hours "
            "JOIN ledger_kinds kinds ON kinds.id = kind_id "
            "JOIN ledger_labels labels ON labels.id = label_id "
            f"WHERE {' AND '.join([since, until, *said])} ORDER BY start_us"
        )
        found = connection.execution_options(yield_per=2_000).execute(text(sql), statement.values)
        for values in found.mappings():
            yield _row(values, account)


def _row(values: Mapping[Any, Any], account: str | None) -> dict[str, Any]:
    start = EPOCH + timedelta(microseconds=values["start_us"])
    month = start.replace(day=1, hour=0)
    cost, certain = (
        None if nano is None else nano / NANO
        for nano in (values["cost_nanodollars"], values["certain_nanodollars"])
    )
    counts = [values["input_tokens"], values["output_tokens"]]
    # A decimal, as FOCUS has it.
    quantity = None if counts == [None, None] else Decimal(sum(count or 0 for count in counts))
    unit = None if quantity is None else "Tokens"
    provider = values["provider"]
    return {
        "BilledCost": cost,
        "BillingAccountId": account,
        "BillingAccountName": None,
        "BillingCurrency": "USD",
        "BillingPeriodEnd": _next_month(month),
        "BillingPeriodStart": month,
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeDescription": f"{values['operation']} with {values['model'] or 'an unknown model'}",
        "ChargePeriodEnd": start + timedelta(hours=1),
        "ChargePeriodStart": start,
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "InvoiceIssuerName": provider,
        "ListCost": cost,
        "PricingQuantity": quantity,
        "PricingUnit": unit,
        "ProviderName": provider,
        "PublisherName": provider,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": provider,
        "ChargeFrequency": "Usage-Based",
        "ConsumedQuantity": quantity,
        "ConsumedUnit": unit,
        "RegionId": values["region"],
        "ServiceSubcategory": "Generative AI",
        "SkuId": values["model"],
        "Tags": json.loads(values["tags"]),
        "x_CertainCost": certain,
        "x_Calls": values["calls"],
        "x_UnpricedCalls": values["unpriced_calls"],
        "x_Operation": values["operation"],
        "x_Status": values["status"],
        "x_Scope": values["scope"],
        **{name: values[bucket] for name, bucket in _OURS.items()},
    }


def _next_month(month: datetime) -> datetime:
    return (month + timedelta(days=32)).replace(day=1)
