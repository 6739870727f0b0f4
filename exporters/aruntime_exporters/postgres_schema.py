"""What the PostgreSQL exporter keeps, as SQL: migrations, each one a step from the last.

    records     one row per ledger record, keyed by (host_id, container_id, incarnation, seq)
    price_books, prices, price_tenants      the books that were given; the last one given bills
    charges     view: what each price bills of each record, by the rules of rating
    bill        view: sums of that by month, tenant and SKU
    invoices    view: what a tenant pays for a month

Quantities are integers in the ledger's base units (numeric: sums never overflow); money and
quantities of prices are exact decimals. The views say in SQL what :mod:`aruntime.metering.charges`
and :mod:`aruntime.metering.rating` say in Python, with all hosts as one: tests compare the two.

A migration is never changed once it was released; a change of a view is a new one.
"""

from __future__ import annotations

from aruntime_exporters.postgres_columns import COUNTERS, ONE, SUMS
from aruntime_exporters.postgres_corrections import CORRECTIONS
from aruntime_exporters.postgres_views import BILLS, METERED

_NUMBERS = ",\n    ".join(f"{name} numeric NOT NULL" for name in (*COUNTERS, *SUMS))

RECORDS = f"""
CREATE TABLE records (
    host_id text NOT NULL,
    container_id text NOT NULL,
    incarnation text NOT NULL,
    seq bigint NOT NULL,
    kind text NOT NULL,
    tenant text NOT NULL,
    name text NOT NULL,
    state text NOT NULL,
    wall_start bigint NOT NULL,
    wall_end bigint NOT NULL,
    {_NUMBERS},
    exit_code integer,
    end_reason text NOT NULL,
    price_version text NOT NULL,
    corrects bigint NOT NULL,
    estimated text[] NOT NULL,
    labels jsonb NOT NULL,
    hash text NOT NULL,
    record jsonb NOT NULL,
    PRIMARY KEY (host_id, container_id, incarnation, seq)
);
CREATE UNIQUE INDEX records_by_chain ON records (host_id, seq);
CREATE INDEX records_by_time ON records (wall_end);
CREATE INDEX records_by_tenant ON records (tenant, wall_end);
COMMENT ON TABLE records IS
    'Usage of containers between two cuts, as in the ledgers of the hosts. Times are Unix '
    'nanoseconds, durations nanoseconds, sizes bytes; *_bytens2 are twice byte-nanoseconds.';
"""

PRICES = """
CREATE TABLE price_books (
    version text PRIMARY KEY,
    name text NOT NULL,
    provider text NOT NULL,
    default_currency text NOT NULL,
    rounding text NOT NULL,
    given_at timestamptz NOT NULL
);
CREATE TABLE price_tenants (
    version text NOT NULL REFERENCES price_books ON DELETE CASCADE,
    tenant text NOT NULL,
    currency text NOT NULL,
    account_name text NOT NULL,
    PRIMARY KEY (version, tenant)
);
CREATE TABLE prices (
    version text NOT NULL REFERENCES price_books ON DELETE CASCADE,
    sku text NOT NULL,
    price_id text NOT NULL,
    currency text NOT NULL,
    minor_digits integer NOT NULL,
    measure text NOT NULL,
    basis text NOT NULL,
    quantity_name text NOT NULL,
    unit text NOT NULL,
    unit_price numeric NOT NULL,
    divisor numeric NOT NULL,
    valid_from_ns bigint NOT NULL,
    valid_to_ns bigint,
    quantum_ns bigint NOT NULL,
    minimum_ns bigint NOT NULL,
    free numeric NOT NULL,
    bills_paused boolean NOT NULL,
    is_integral boolean NOT NULL,
    has_run_time boolean NOT NULL,
    PRIMARY KEY (version, currency, sku, valid_from_ns)
);
COMMENT ON COLUMN prices.divisor IS 'So many of what the record counts are one unit of the price.';
"""

CHARGES = (
    """
CREATE VIEW book AS SELECT * FROM price_books ORDER BY given_at DESC, version LIMIT 1;

CREATE VIEW charges AS
WITH lives AS (
    SELECT host_id, container_id, incarnation, sum(running_ns) AS running_ns
    FROM records GROUP BY host_id, container_id, incarnation
),
cuts AS (  -- the starts of months inside a record, where it is cut, and its own start and end
    SELECT r.host_id, r.seq, edge.at_ns,
        lead(edge.at_ns) OVER (PARTITION BY r.host_id, r.seq ORDER BY edge.at_ns, edge.last)
            AS until_ns
    FROM records r, LATERAL (
        SELECT r.wall_start AS at_ns, 0 AS last
        UNION ALL SELECT r.wall_end, 1
        UNION ALL
        SELECT (extract(epoch FROM month) * 1000000000)::bigint, 0
        FROM generate_series(
            date_trunc('month', to_timestamp(r.wall_start / 1000000000) AT TIME ZONE 'UTC'),
            to_timestamp(r.wall_end / 1000000000) AT TIME ZONE 'UTC', interval '1 month'
        ) AS month
        WHERE (extract(epoch FROM month) * 1000000000)::bigint > r.wall_start
            AND (extract(epoch FROM month) * 1000000000)::bigint < r.wall_end
    ) AS edge
),
parts AS (  -- shares of records under one price
    SELECT r.*, p.sku, p.price_id, p.currency, p.minor_digits, p.measure, p.basis,
        p.quantity_name, p.unit, p.unit_price, p.divisor, p.quantum_ns, p.minimum_ns, p.free,
        p.bills_paused, p.is_integral, p.has_run_time, book.version AS book_version,
        coalesce(nullif(t.account_name, ''), r.tenant) AS account_name, book.rounding,
        greatest(c.at_ns, p.valid_from_ns) AS part_start,
        least(c.until_ns, coalesce(p.valid_to_ns, c.until_ns)) AS part_end,
        l.running_ns AS life_ns
    FROM book
    JOIN records r ON r.container_id <> ''
    JOIN cuts c ON c.host_id = r.host_id AND c.seq = r.seq AND c.until_ns IS NOT NULL
    JOIN lives l ON l.host_id = r.host_id AND l.container_id = r.container_id
        AND l.incarnation = r.incarnation
    LEFT JOIN price_tenants t ON t.version = book.version AND t.tenant = r.tenant
    JOIN prices p ON p.version = book.version
        AND p.currency = coalesce(t.currency, book.default_currency)
        AND CASE WHEN c.at_ns = c.until_ns
            THEN p.valid_from_ns <= c.at_ns AND (p.valid_to_ns IS NULL OR c.at_ns < p.valid_to_ns)
            ELSE p.valid_from_ns < c.until_ns
                AND (p.valid_to_ns IS NULL OR c.at_ns < p.valid_to_ns)
        END
),
counted AS (  -- what a price bills of the whole record is numerator / denominator / divisor
    SELECT parts.*,
        CASE quantity_name
            WHEN 'cpu_used' THEN cpu_ns
            WHEN 'memory_used' THEN mem_bytens2
            WHEN 'memory_allocated' THEN coalesce(nullif(mem_request, 0), mem_limit)
                * (running_ns + paused_ns)
            WHEN 'memory_max' THEN mem_alloc_bytens2
            WHEN 'memory_charged' THEN mem_usage_bytens2
            WHEN 'block_read' THEN blk_read
            WHEN 'block_write' THEN blk_write
            WHEN 'block_reads' THEN blk_reads
            WHEN 'block_writes' THEN blk_writes
            WHEN 'process_read' THEN proc_read
            WHEN 'process_write' THEN proc_write
            WHEN 'network_receive' THEN net_receive
            WHEN 'network_transmit' THEN net_transmit
            WHEN 'network_receive_packets' THEN net_receive_packets
            WHEN 'network_transmit_packets' THEN net_transmit_packets
        END AS count,
        CASE WHEN bills_paused THEN paused_ns ELSE 0 END AS billed_paused_ns,
        coalesce(nullif(cpu_request_milli, 0), cpu_limit_milli) AS set_aside_milli,
        CASE WHEN basis = 'max' THEN mem_request
            ELSE coalesce(nullif(mem_request, 0), mem_limit) END AS set_aside_bytes,
        CASE WHEN has_run_time AND kind = 'final' AND end_reason <> 'host_lost'
                AND part_end = wall_end AND life_ns > 0
            THEN greatest(minimum_ns, ceil(life_ns / quantum_ns) * quantum_ns) - life_ns
            ELSE 0 END AS extra_ns
    FROM parts
),
@METERED@quantified AS (
    SELECT metered.*,
        (CASE WHEN wall_end = wall_start THEN numerator / (denominator * @ONE@)
            ELSE numerator * (part_end - part_start)
                / (denominator * (wall_end - wall_start) * @ONE@)
        END + extra) / divisor AS quantity,
        to_char(to_timestamp(part_start / 1000000000) AT TIME ZONE 'UTC', 'YYYY-MM') AS month
    FROM metered
),
tiered AS (
    SELECT quantified.*,
        CASE WHEN quantity <= 0 THEN 0
            ELSE least(quantity, greatest(0, free - coalesce(sum(greatest(quantity, 0)) OVER (
                PARTITION BY tenant, sku, currency, month
                ORDER BY wall_end, seq, container_id, incarnation, host_id, part_start
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)))
        END AS covered
    FROM quantified
)
SELECT host_id, container_id, incarnation, seq, name, tenant, account_name, labels, month,
    part_start, part_end, sku, price_id, currency, minor_digits, rounding, unit, unit_price,
    book_version, round(quantity - covered, 15) AS quantity, round(covered, 15) AS free_quantity,
    round(quantity - covered, 15) * unit_price AS cost,
    (round(quantity - covered, 15) + round(covered, 15)) * unit_price AS list_cost, estimated
FROM tiered
WHERE quantity <> 0;

@BILLS@""".replace("@METERED@", METERED)
    .replace("@BILLS@", BILLS)
    .replace("@ONE@", ONE)
)

MIGRATIONS = (RECORDS, PRICES + CHARGES, CORRECTIONS)
"""The n-th makes schema n of the one before; applied in one transaction with its number."""
