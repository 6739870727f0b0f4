"""What the PostgreSQL exporter's views say since there are corrections, as SQL: migration 3.

A correction that bears its record's span is taken together with it; a later one is charged in the
month in which it was made, as the difference between what it left and what it found, beside the
free tier. Records get columns of what left the host, which the views before did not bill.

Out of scope: tables, earlier views (:mod:`aruntime_exporters.postgres_schema`).
"""

from __future__ import annotations

from aruntime_exporters.postgres_columns import COUNTERS, EGRESS, ONE, SUMS
from aruntime_exporters.postgres_views import BILLS, METERED

_TERMS = ("cpu_request_milli", "cpu_limit_milli", "mem_request", "mem_limit")
_AMOUNTS = tuple(name for name in (*COUNTERS, *SUMS, *EGRESS) if name not in _TERMS)

_SUMMED = ", ".join(f"sum(c.{name}) AS {name}" for name in _AMOUNTS)
_CHANGED = ", ".join(f"r.{name} + coalesce(x.{name}, 0) AS {name}" for name in _AMOUNTS)
_AMENDED = ", ".join(
    f"coalesce((c.amended->>'{name}')::numeric, 0) + side.part * c.{name}" for name in _AMOUNTS
)
_KEPT = (
    "host_id, container_id, incarnation, seq, name, tenant, account_name, labels, month,"
    " part_start, part_end, sku, price_id, currency, minor_digits, rounding, unit, unit_price,"
    " book_version, free, counts_ns, estimated, wall_end"
)

CORRECTIONS = (
    """
ALTER TABLE records
    ADD COLUMN net_egress numeric NOT NULL DEFAULT 0,
    ADD COLUMN net_egress_packets numeric NOT NULL DEFAULT 0;
UPDATE records SET net_egress = counted.bytes, net_egress_packets = counted.packets
FROM (
    SELECT host_id, seq, sum(coalesce((line.value->>4)::numeric, 0)) AS bytes,
        sum(coalesce((line.value->>5)::numeric, 0)) AS packets
    FROM records, jsonb_each(record->'net') AS line
    GROUP BY host_id, seq
) AS counted
WHERE records.host_id = counted.host_id AND records.seq = counted.seq;

DROP VIEW invoices, bill, charges;

CREATE VIEW charges AS
WITH changes AS (  -- corrections that count where the record does that they amend
    SELECT c.host_id, c.corrects AS seq, @SUMMED@
    FROM records c
    JOIN records r ON r.host_id = c.host_id AND r.seq = c.corrects
        AND r.wall_start = c.wall_start AND r.wall_end = c.wall_end
    WHERE c.kind = 'correction'
    GROUP BY c.host_id, c.corrects
),
late AS (  -- others: charged when they were made, as the difference to what they found
    SELECT c.*, coalesce(c.record->'amended', '{}') AS amended
    FROM records c
    WHERE c.kind = 'correction' AND NOT EXISTS (
        SELECT FROM records r WHERE r.host_id = c.host_id AND r.seq = c.corrects
            AND r.wall_start = c.wall_start AND r.wall_end = c.wall_end
    )
),
lives AS (
    SELECT host_id, container_id, incarnation, sum(running_ns) AS running_ns
    FROM records
    WHERE kind <> 'correction' OR (corrects > 0 AND NOT EXISTS (
        SELECT FROM late WHERE late.host_id = records.host_id AND late.seq = records.seq
            AND late.amended ? 'run_ns'
    ))
    GROUP BY host_id, container_id, incarnation
),
facts AS (  -- what is priced; a late correction is what it left (1) less what it found (-1)
    SELECT r.host_id, r.container_id, r.incarnation, r.seq, r.name, r.tenant, r.labels,
        r.estimated, r.wall_start, r.wall_end, r.cpu_request_milli, r.cpu_limit_milli,
        r.mem_request, r.mem_limit, 1 AS sign, NULL::bigint AS counts_ns,
        l.running_ns AS life_ns, r.kind = 'final' AND r.end_reason <> 'host_lost' AS is_end,
        @CHANGED@
    FROM records r
    JOIN lives l ON l.host_id = r.host_id AND l.container_id = r.container_id
        AND l.incarnation = r.incarnation
    LEFT JOIN changes x ON x.host_id = r.host_id AND x.seq = r.seq
    WHERE r.kind <> 'correction' AND r.container_id <> ''
    UNION ALL
    SELECT c.host_id, c.container_id, c.incarnation, c.seq, c.name, c.tenant, c.labels,
        c.estimated, coalesce((c.amended->>'wall_start')::bigint, c.wall_start),
        coalesce((c.amended->>'wall_end')::bigint, c.wall_start), c.cpu_request_milli,
        c.cpu_limit_milli, c.mem_request, c.mem_limit, side.sign, c.wall_start,
        (c.amended->>'run_ns')::numeric + side.part * c.running_ns, c.amended ? 'run_ns',
        @AMENDED@
    FROM late c CROSS JOIN (VALUES (-1, 0), (1, 1)) AS side (sign, part)
    WHERE c.container_id <> ''
),
cuts AS (  -- the starts of months inside a record, where it is cut, and its own start and end
    SELECT r.host_id, r.seq, r.sign, edge.at_ns,
        lead(edge.at_ns) OVER (
            PARTITION BY r.host_id, r.seq, r.sign ORDER BY edge.at_ns, edge.last
        ) AS until_ns
    FROM facts r, LATERAL (
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
            AND r.counts_ns IS NULL
    ) AS edge
),
parts AS (  -- shares of records under one price
    SELECT r.*, p.sku, p.price_id, p.currency, p.minor_digits, p.measure, p.basis,
        p.quantity_name, p.unit, p.unit_price, p.divisor, p.quantum_ns, p.minimum_ns, p.free,
        p.bills_paused, p.is_integral, p.has_run_time, book.version AS book_version,
        coalesce(nullif(t.account_name, ''), r.tenant) AS account_name, book.rounding,
        greatest(c.at_ns, p.valid_from_ns) AS part_start,
        least(c.until_ns, coalesce(p.valid_to_ns, c.until_ns)) AS part_end
    FROM book
    CROSS JOIN facts r
    JOIN cuts c ON c.host_id = r.host_id AND c.seq = r.seq AND c.sign = r.sign
        AND c.until_ns IS NOT NULL
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
            WHEN 'network_egress' THEN net_egress
            WHEN 'network_egress_packets' THEN net_egress_packets
        END AS count,
        CASE WHEN bills_paused THEN paused_ns ELSE 0 END AS billed_paused_ns,
        coalesce(nullif(cpu_request_milli, 0), cpu_limit_milli) AS set_aside_milli,
        CASE WHEN basis = 'max' THEN mem_request
            ELSE coalesce(nullif(mem_request, 0), mem_limit) END AS set_aside_bytes,
        CASE WHEN has_run_time AND is_end AND part_end = wall_end AND life_ns > 0
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
        to_char(to_timestamp(coalesce(counts_ns, part_start) / 1000000000) AT TIME ZONE 'UTC',
            'YYYY-MM') AS month
    FROM metered
),
netted AS (
    SELECT @KEPT@, sum(sign * quantity) AS quantity
    FROM quantified
    GROUP BY @KEPT@
),
tiered AS (
    SELECT netted.*,
        CASE WHEN quantity <= 0 OR counts_ns IS NOT NULL THEN 0
            ELSE least(quantity, greatest(0, free - coalesce(sum(
                CASE WHEN counts_ns IS NULL THEN greatest(quantity, 0) ELSE 0 END
            ) OVER (
                PARTITION BY tenant, sku, currency, month
                ORDER BY wall_end, seq, container_id, incarnation, host_id, part_start
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)))
        END AS covered
    FROM netted
)
SELECT host_id, container_id, incarnation, seq, name, tenant, account_name, labels, month,
    part_start, part_end, sku, price_id, currency, minor_digits, rounding, unit, unit_price,
    book_version, round(quantity - covered, 15) AS quantity, round(covered, 15) AS free_quantity,
    round(quantity - covered, 15) * unit_price AS cost,
    (round(quantity - covered, 15) + round(covered, 15)) * unit_price AS list_cost, estimated,
    counts_ns IS NOT NULL AS is_correction
FROM tiered
WHERE quantity <> 0;

@BILLS@""".replace("@METERED@", METERED)
    .replace("@BILLS@", BILLS)
    .replace("@ONE@", ONE)
    .replace("@SUMMED@", _SUMMED)
    .replace("@CHANGED@", _CHANGED)
    .replace("@AMENDED@", _AMENDED)
    .replace("@KEPT@", _KEPT)
)
