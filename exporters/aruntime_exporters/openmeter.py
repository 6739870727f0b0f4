"""Usage as CloudEvents, to OpenMeter or any receiver of their batched JSON form.

Every record of the ledger becomes one event per measure that is not zero (CloudEvents 1.0, JSON
batch format). The id is a hash of the record's key and the measure, the source names the host: an
event that is sent twice is the same event, and a receiver that knows ids (OpenMeter knows
namespace, source and id) counts it once. Quantities are decimal strings, exact, in base units.

The event's ``time`` is the last nanosecond of its period, not the end: periods end at the full
hour, and a receiver that adds up hours would count them in the next.

Out of scope: retries, cursor, batches (:mod:`aruntime.metering.courier`).
"""

from __future__ import annotations

import email.utils
import hashlib
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import h11
import msgspec

from aruntime.errors import InvalidParameter
from aruntime.metering.push import (
    LedgerRecord,
    NotDelivered,
    PushOptions,
    Rejected,
    Seconds,
    read_secret,
)
from aruntime.metering.quantities import MEASURES, counts, decimal_text, quantity
from aruntime_exporters.posting import Poster, Reply, parse_url, tls_context

CONTENT_TYPE = "application/cloudevents-batch+json"
EVENT_TYPE = "aruntime.usage.v1"
ID_DIGITS = 32
NS = 1_000_000_000

AT_FAULT = frozenset({400, 413, 415, 422})
"""Statuses that say the events are wrong; others say something of the receiver or of our rights."""
SNIPPET_CHARACTERS = 200


class OpenMeterOptions(PushOptions, frozen=True, kw_only=True):
    """Keys of its table."""

    url: str
    """Where events are posted, such as ``https://openmeter.example/api/v1/events``."""
    token_file: str = ""
    """Holds the API token; sent as ``Authorization: Bearer``."""
    ca_file: str = ""
    """Certificates (PEM) that may sign the server's, instead of the system's."""
    timeout: Seconds = 30.0
    """For one request, from connecting to the end of the answer."""
    event_type: str = EVENT_TYPE
    """CloudEvents type, if a receiver asks for another."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvent 1.0 in JSON."""

    specversion: str = "1.0"
    id: str
    source: str
    type: str
    subject: str
    time: str
    datacontenttype: str = "application/json"
    data: dict[str, Any]


def event_id(record: LedgerRecord, measure: str) -> str:
    """The same 32 hex digits whenever they are computed (R5)."""
    key = (record.host_id, record.container_id, record.incarnation, str(record.seq), measure)
    return hashlib.sha256("\n".join(key).encode()).hexdigest()[:ID_DIGITS]


def utc(time_ns: int) -> str:
    """A time as RFC 3339, to the nanosecond."""
    seconds, ns = divmod(time_ns, NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


def events(record: LedgerRecord, event_type: str = EVENT_TYPE) -> list[Event]:
    """The events of a record, in the order of the measures; none if nothing was used."""
    started, ended = utc(record.wall_start), utc(record.wall_end)
    last = utc(max(record.wall_start, record.wall_end - 1))
    about = {
        "container_id": record.container_id,
        "name": record.name,
        "period_start": started,
        "period_end": ended,
        "estimated": bool(record.estimated),
        "labels": record.labels,
    }
    if record.corrects:
        about |= {"corrects": record.corrects, "reason": record.reason}
    return [
        Event(
            id=event_id(record, measure),
            source=f"aruntime://{record.host_id}",
            type=event_type,
            subject=record.tenant,
            time=last,
            data={
                "sku": measure,
                "quantity": decimal_text(quantity(measure, count)),
                "unit": MEASURES[measure].unit,
                **about,
            },
        )
        for measure, count in counts(record).items()
        if count
    ]


class OpenMeterExporter:
    """Posts events; satisfies :class:`aruntime.metering.push.PushExporter`.

    Raises:
        InvalidParameter: the URL is wrong, the token may be read by others or would cross a
            network in clear, certificates cannot be read.
    """

    kind = "push"
    Options = OpenMeterOptions

    def __init__(self, _name: str, options: OpenMeterOptions) -> None:
        address = parse_url(options.url)
        if options.token_file:
            read_secret(options.token_file)
            if not address.is_encrypted and not address.is_local:
                raise InvalidParameter("url must be https where a token is sent")
        if options.ca_file and not address.is_encrypted:
            raise InvalidParameter("ca-file needs a url of https")
        context = tls_context(options.ca_file) if address.is_encrypted else None
        self.target = address.url
        self._options = options
        self._poster = Poster(address, context=context, timeout=options.timeout)

    def items(self, record: LedgerRecord) -> list[bytes]:
        """The record's events as JSON."""
        return [msgspec.json.encode(event) for event in events(record, self._options.event_type)]

    def send(self, items: Sequence[bytes]) -> None:
        """Post a batch of events; as the protocol says."""
        headers = {"content-type": CONTENT_TYPE, "user-agent": "aruntime"}
        if self._options.token_file:
            headers["authorization"] = f"Bearer {read_secret(self._options.token_file)}"
        try:
            reply = self._poster.post(b"[" + b",".join(items) + b"]", headers)
        except ssl.SSLCertVerificationError as error:
            raise NotDelivered(
                f"{self.target}: its certificate is not trusted: {error.verify_message};"
                " check url and ca-file"
            ) from error
        except (OSError, h11.RemoteProtocolError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise NotDelivered(f"{self.target}: {str(reason).lower()}") from error
        judge(self.target, reply)

    def shown(self, item: bytes) -> msgspec.Raw:
        """The event itself."""
        return msgspec.Raw(item)

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()


def judge(target: str, reply: Reply) -> None:
    """Return if an answer acknowledges.

    Raises:
        Rejected: the events are at fault.
        NotDelivered: anything else is.
    """
    if 200 <= reply.status < 300:
        return
    snippet = " ".join(reply.body.decode("utf-8", "replace").split())[:SNIPPET_CHARACTERS]
    shown = "".join(letter for letter in snippet if letter.isprintable())
    text = f"{target} answered {reply.status} {reply.reason}".rstrip()
    if shown:
        text += f": {shown}"
    if reply.status in AT_FAULT:
        raise Rejected(text)
    if reply.status in (401, 403):
        text += "; check token-file"
    elif 300 <= reply.status < 400:
        place = reply.headers.get("location", "")
        text += f"; redirects are not followed, set url to {place!r} if that is right"
    raise NotDelivered(text, retry_after=retry_after(reply.headers.get("retry-after", "")))


def retry_after(header: str) -> float:
    """Seconds of a ``Retry-After`` header, a number or a date (RFC 9110 §10.2.3); 0 if none."""
    if header.strip().isascii() and header.strip().isdigit():
        return float(header)
    try:
        when = email.utils.parsedate_to_datetime(header)
    except (TypeError, ValueError):
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, when.timestamp() - time.time())
