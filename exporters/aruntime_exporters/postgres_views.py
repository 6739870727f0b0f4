"""Parts of the PostgreSQL exporter's views that migrations 2 and 3 have word for word.

What was applied never changes: a later migration that says it otherwise has a text of its own.
"""

from __future__ import annotations

METERED = """\
metered AS (
    SELECT counted.*,
        CASE
            WHEN measure = 'paused' THEN paused_ns
            WHEN measure = 'container' THEN running_ns + billed_paused_ns
            WHEN quantity_name = 'cpu_allocated'
                THEN set_aside_milli * (running_ns + billed_paused_ns)
            WHEN quantity_name = 'cpu_max'
                THEN cpu_alloc_ns + cpu_request_milli * billed_paused_ns / 1000
            WHEN billed_paused_ns = paused_ns THEN count
            WHEN is_integral AND measure <> 'cpu' THEN count * running_ns
            WHEN running_ns > 0 THEN count
            ELSE 0
        END AS numerator,
        CASE
            WHEN measure IN ('paused', 'container', 'cpu') OR billed_paused_ns = paused_ns THEN 1
            WHEN is_integral THEN running_ns + paused_ns
            ELSE 1
        END AS denominator,
        CASE
            WHEN extra_ns = 0 THEN 0
            WHEN measure = 'container' THEN extra_ns
            WHEN quantity_name = 'cpu_allocated' THEN set_aside_milli * extra_ns
            WHEN quantity_name = 'cpu_max' THEN cpu_request_milli * extra_ns / 1000
            WHEN quantity_name = 'memory_max' THEN 2 * set_aside_bytes * extra_ns
            ELSE set_aside_bytes * extra_ns
        END AS extra
    FROM counted
),
"""
"""What a price bills of a part of a record, before units, and what rounding up a run adds to it."""

BILLS = """\
CREATE VIEW bill AS
SELECT month, tenant, account_name, currency, sku, unit, sum(quantity) AS quantity,
    sum(free_quantity) AS free_quantity, sum(cost) AS cost, count(*) AS charges,
    count(*) FILTER (WHERE estimated <> '{}') AS estimated_charges
FROM charges
GROUP BY month, tenant, account_name, currency, sku, unit;

CREATE VIEW invoices AS
WITH totals AS (
    SELECT month, tenant, account_name, currency, book_version, rounding, sum(cost) AS total,
        power(10::numeric, minor_digits) AS minor, minor_digits
    FROM charges
    GROUP BY month, tenant, account_name, currency, book_version, rounding, minor_digits
),
whole AS (
    SELECT totals.*, trunc(total * minor) AS units, total * minor - trunc(total * minor) AS rest
    FROM totals
)
SELECT month, tenant, account_name, currency, total,
    round((units + sign(rest) * CASE
        WHEN rest = 0 THEN 0
        WHEN rounding = 'up' THEN 1
        WHEN rounding = 'down' THEN 0
        WHEN abs(rest) <> 0.5 THEN (abs(rest) > 0.5)::int
        WHEN rounding = 'half_up' THEN 1
        WHEN rounding = 'half_down' THEN 0
        ELSE mod(abs(units), 2)
    END) / minor, minor_digits) AS payable, book_version
FROM whole;
COMMENT ON VIEW invoices IS 'What every tenant pays for a month, on all hosts together.';
"""
"""The views that add charges up."""
