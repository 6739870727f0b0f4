"""The columns of a FOCUS 1.2 cost and usage file as aruntime writes it: kinds, nulls, values.

Of the 57 columns of FOCUS 1.2 these are the 46 that a provider with tenants, containers, public
prices, regions and tags has. Left out are those of zones, capacity reservations, commitments (but
their status, which rules of other columns read) and several kinds of accounts. ``x_`` columns are
our own.

A *row* is a mapping from column to text or None; the text is the one of the CSV file: decimals
with a point and without exponent, times ``YYYY-MM-DDTHH:mm:ssZ``, JSON objects. Out of scope: what
the values are (:mod:`aruntime_exporters.focus`) and whether they fit each other
(:mod:`aruntime_exporters.focus_check`). Source: FOCUS 1.2, columns and attributes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

Kind = Literal["text", "decimal", "integer", "time", "json", "boolean"]

Row = Mapping[str, str | None]

FORMATS: dict[Kind, re.Pattern[str]] = {
    "decimal": re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+"),
    "integer": re.compile(r"-?(?:0|[1-9][0-9]*)"),
    "time": re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"),
    "boolean": re.compile(r"true|false"),
}
"""A decimal always has a point: a column of whole numbers would be taken for integers."""

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

UNIT = re.compile(
    r"(?:(?:[KMGTPE]i?)?[bB]|[A-Za-z][A-Za-z0-9]*(?: [A-Za-z][A-Za-z0-9]*)*)"
    r"(?:-(?:Years|Months|Days|Hours|Minutes|Seconds))?"
)
"""FOCUS UnitFormat: ``GiB``, ``Requests``, ``Core-Hours``."""

CURRENCY = re.compile(r"[A-Z]{3}")
CUSTOM_COLUMN = re.compile(r"x_(?:[A-Z][a-z0-9]*)+")

COMPUTE = "Compute"

SERVICE_CATEGORIES = frozenset({
    "AI and Machine Learning", "Analytics", "Business Applications", COMPUTE, "Databases",
    "Developer Tools", "Multicloud", "Identity", "Integration", "Internet of Things",
    "Management and Governance", "Media", "Migration", "Mobile", "Networking", "Security",
    "Storage", "Web", "Other",
})  # fmt: skip

COMPUTE_SUBCATEGORIES = frozenset({
    "Containers", "End User Computing", "Quantum Compute", "Serverless Compute",
    "Virtual Machines", "Other (Compute)",
})  # fmt: skip


class Column(NamedTuple):
    """One column."""

    name: str
    kind: Kind = "text"
    nullable: bool = True
    values: frozenset[str] | None = None
    """The only values there may be."""


def _required(name: str, kind: Kind = "text", *values: str) -> Column:
    return Column(name, kind, nullable=False, values=frozenset(values) or None)


FOCUS_COLUMNS = (
    _required("BilledCost", "decimal"),
    _required("BillingAccountId"),
    _required("BillingAccountName"),
    _required("BillingCurrency"),
    _required("BillingPeriodEnd", "time"),
    _required("BillingPeriodStart", "time"),
    _required("ChargeCategory", "text", "Usage", "Purchase", "Tax", "Credit", "Adjustment"),
    Column("ChargeClass", values=frozenset({"Correction"})),
    _required("ChargeDescription"),
    _required("ChargeFrequency", "text", "One-Time", "Recurring", "Usage-Based"),
    _required("ChargePeriodEnd", "time"),
    _required("ChargePeriodStart", "time"),
    Column("CommitmentDiscountStatus", values=frozenset({"Used", "Unused"})),
    Column("ConsumedQuantity", "decimal"),
    Column("ConsumedUnit"),
    _required("ContractedCost", "decimal"),
    Column("ContractedUnitPrice", "decimal"),
    _required("EffectiveCost", "decimal"),
    Column("InvoiceId"),
    _required("InvoiceIssuerName"),
    _required("ListCost", "decimal"),
    Column("ListUnitPrice", "decimal"),
    Column("PricingCategory", values=frozenset({"Standard", "Dynamic", "Committed", "Other"})),
    _required("PricingCurrency"),
    Column("PricingCurrencyContractedUnitPrice", "decimal"),
    _required("PricingCurrencyEffectiveCost", "decimal"),
    Column("PricingCurrencyListUnitPrice", "decimal"),
    Column("PricingQuantity", "decimal"),
    Column("PricingUnit"),
    _required("ProviderName"),
    _required("PublisherName"),
    Column("RegionId"),
    Column("RegionName"),
    Column("ResourceId"),
    Column("ResourceName"),
    Column("ResourceType"),
    Column("ServiceCategory", nullable=False, values=SERVICE_CATEGORIES),
    _required("ServiceName"),
    Column("ServiceSubcategory", nullable=False, values=COMPUTE_SUBCATEGORIES),
    Column("SkuId"),
    Column("SkuMeter"),
    Column("SkuPriceDetails", "json"),
    Column("SkuPriceId"),
    Column("SubAccountId"),
    Column("SubAccountName"),
    Column("Tags", "json"),
)
"""The profile, in the order of the file."""

CUSTOM_COLUMNS = (
    Column("x_BilledNanoseconds", "integer"),
    Column("x_ClockSteps", "integer"),
    Column("x_CorrectsLedgerSequence", "integer"),
    _required("x_Estimated", "boolean"),
    Column("x_EstimateReasons"),
    _required("x_FreeTier", "boolean"),
    _required("x_HostId"),
    Column("x_ImageDigest"),
    Column("x_Incarnation"),
    Column("x_InvoiceNumber", "integer"),
    _required("x_InvoicePayable", "decimal"),
    _required("x_LedgerHeadHash"),
    _required("x_LedgerHeadSequence", "integer"),
    Column("x_LedgerSequence", "integer"),
    Column("x_MeteredEnd", "integer"),
    Column("x_MeteredNanoseconds", "integer"),
    Column("x_MeteredStart", "integer"),
    Column("x_PreviousMeteredEnd", "integer"),
    _required("x_PriceBookVersion"),
    _required("x_Provisional", "boolean"),
)
"""Ours: what was estimated and why; the record in the ledger that a row comes from, and the head
of the ledger that vouches for it; the run of the container and the exact span in Unix
nanoseconds, and where the row before it of that run and SKU ended (nothing was charged between);
how often the host's clock had been set by then; the record that a correction amends;
its time before and after quantum and minimum; the invoice's number, once it was issued, and what
it says is to be paid."""

COLUMNS = FOCUS_COLUMNS + CUSTOM_COLUMNS
