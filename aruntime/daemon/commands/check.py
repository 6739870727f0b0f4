"""check: whether what is on the disk is whole, and what to do about what is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from aruntime.daemon import unpacking
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.ledger import own_keys, verified_file
from aruntime.daemon.commands.values import format_size
from aruntime.daemon.session import Session
from aruntime.errors import AruntimeError, os_error_text
from aruntime.images import catalogue, checking, layout
from aruntime.images.checking import Report
from aruntime.network import checking as leases

if TYPE_CHECKING:
    from aruntime.daemon.main import Daemon

FAULTY = 1
IMAGES, ADDRESSES, LEDGER = "images", "addresses", "ledger"
SETTLE_SECONDS = 0.5
"""Between two looks at leases: longer than a container takes to start or end."""
FAULTS_SHOWN = 10
LEDGER_ADVICE = (
    "nothing repairs a ledger: keep a copy of the file as it is, and see 'aruntime ledger verify'"
)


async def run_check(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Check each part, and repair what can be repaired."""
    grave = 0
    for part in (check_images, check_addresses, check_ledger):
        grave += await part(session, parsed, daemon)
    return FAULTY if grave else 0


async def conclude(session: Session, parsed: Parsed, part: str, grave: int, seen: str) -> int:
    """Say how a part is, in one line, and return the number of its problems."""
    if not parsed.boolean("quiet"):
        verdict = f"{grave} {'problem' if grave == 1 else 'problems'}" if grave else "clean"
        await session.out(f"{part}: {verdict} ({seen})\n")
    return grave


async def check_images(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Check the image store."""
    read_content = not parsed.boolean("fast")
    report = await examine(daemon, read_content=read_content)
    if parsed.boolean("repair") and report.findings:
        for done in await repaired(daemon, report):
            await session.out(f"{IMAGES}: {done}\n")
        report = await examine(daemon, read_content=False)
    for finding in report.findings:
        await session.out(f"{IMAGES}: {finding.what}; {finding.advice}\n")
    content = f", {format_size(report.bytes)} read" if report.bytes else ""
    seen = f"{report.images} images, {report.blobs} blobs{content}, {report.layers} layers"
    return await conclude(
        session, parsed, IMAGES, sum(finding.grave for finding in report.findings), seen
    )


async def check_addresses(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Check the leases of addresses: each somebody's, none of them twice."""
    try:
        report = await examine_leases(daemon)
        if parsed.boolean("repair") and report.findings:
            for finding in report.findings:
                if finding.mend is not None:
                    done = await trio.to_thread.run_sync(mended, finding.mend)
                    await session.out(f"{ADDRESSES}: {done}\n")
            report = await examine_leases(daemon)
    except OSError as error:
        await session.out(f"{ADDRESSES}: the leases cannot be read: {os_error_text(error)}\n")
        return await conclude(session, parsed, ADDRESSES, 1, "not looked at")
    for finding in report.findings:
        await session.out(f"{ADDRESSES}: {finding.what}; {finding.advice}\n")
    seen = f"{report.networks} networks, {report.leases} leases"
    return await conclude(
        session, parsed, ADDRESSES, sum(finding.grave for finding in report.findings), seen
    )


async def examine_leases(daemon: Daemon) -> leases.Report:
    """Look at the leases, twice where the first look found something: it may have been passing.

    Raises:
        OSError: they cannot be read.
    """

    def residents() -> list[leases.Resident]:
        return [
            leases.Resident(
                container.id,
                container.config.name,
                tuple(one.network for one in container.config.networks)
                if container.is_running
                else (),
            )
            for container in daemon.supervisor
        ]

    first = await trio.to_thread.run_sync(leases.check, daemon.networks, residents)
    if not first.findings:
        return first
    await trio.sleep(SETTLE_SECONDS)
    second = await trio.to_thread.run_sync(leases.check, daemon.networks, residents)
    return leases.lasting(first, second)


def mended(mend: Callable[[], str]) -> str:
    """Repair one thing, and say how that went."""
    try:
        return mend()
    except OSError as error:
        return f"cannot repair {os_error_text(error)}"


async def check_ledger(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Verify the ledger, as ``ledger verify`` does; it is never repaired."""
    if parsed.boolean("fast"):
        if not parsed.boolean("quiet"):
            await session.out(f"{LEDGER}: not read, since --fast was given\n")
        return 0
    path = daemon.meter.ledger_path
    try:
        keys = await own_keys(daemon)
        found = await trio.to_thread.run_sync(verified_file, path, keys)
    except AruntimeError as error:
        await session.out(f"{LEDGER}: {error.message}; {LEDGER_ADVICE}\n")
        return await conclude(session, parsed, LEDGER, 1, "not verified")
    for fault in found.faults[:FAULTS_SHOWN]:
        await session.out(f"{LEDGER}: {fault}; {LEDGER_ADVICE}\n")
    if len(found.faults) > FAULTS_SHOWN:
        await session.out(f"{LEDGER}: {len(found.faults) - FAULTS_SHOWN} more\n")
    records = f"records {found.first} to {found.last}" if found.first else "no records"
    seen = f"{records}, {found.checkpoints} checkpoints"
    return await conclude(session, parsed, LEDGER, len(found.faults), seen)


async def examine(daemon: Daemon, *, read_content: bool) -> Report:
    """Look at the image store."""
    return await trio.to_thread.run_sync(
        partial(
            checking.check,
            daemon.images,
            partial(unpacking.holders, daemon.supervisor),
            trio.from_thread.check_cancelled,
            read_content=read_content,
        )
    )


async def repaired(daemon: Daemon, report: Report) -> list[str]:
    """Do what the findings of a report advise; return what was done."""
    done: list[str] = []
    for finding in report.findings:
        if finding.blob:
            await trio.to_thread.run_sync(daemon.images.discard_blob, finding.blob)
            done.append(f"forgot blob {finding.blob}")
        if finding.unpackable is not None:
            done.append(await unpacked(daemon, *finding.unpackable))
    holders = partial(unpacking.holders, daemon.supervisor)
    left = await trio.to_thread.run_sync(daemon.images.unneeded, holders, "")
    await trio.to_thread.run_sync(daemon.images.remove_leftovers, left.ingests)
    collected = await trio.to_thread.run_sync(daemon.images.collect, holders)
    if any(collected) or left.ingests:
        done.append(
            f"removed {collected.blobs} blobs, {collected.layers} layers and"
            f" {len(left.ingests)} leftovers that nothing needed"
        )
    return done


async def unpacked(daemon: Daemon, digest: str, diff_id: str) -> str:
    """Unpack one layer of an image again, from its blob; return how that went."""
    store = daemon.images
    try:
        manifest = await trio.to_thread.run_sync(catalogue.read_manifest, store.base, digest)
        config = await trio.to_thread.run_sync(catalogue.read_config, store.base, manifest)
        number = config.diff_ids.index(diff_id)
        chain = config.diff_ids[: number + 1]
        blob = manifest.layers[number].digest
        there = [trio.Event() for _ in chain[:-1]]
        for event in there:
            event.set()  # findings come lowest first
        path = layout.blob_path(store.base, blob)
        async with unpacking.ingesting(store) as ingest:
            with unpacking.opened(path) as source:
                await unpacking.unpack_layer(
                    store, ingest, source, there, digest=blob, diff_ids=chain
                )
            await trio.to_thread.run_sync(ingest.make_durable)
            await trio.to_thread.run_sync(store.take_layers, ingest, chain)
    except (AruntimeError, OSError) as error:
        why = error.message if isinstance(error, AruntimeError) else os_error_text(error)
        return f"cannot unpack layer {diff_id} again: {why}"
    return f"unpacked layer {diff_id} again"


COMMANDS = [
    Command(
        "check", "Check that what is on the disk is whole", run_check, "",
        (
            Flag("fast", "", "bool", help="Look at sizes only, read no content and no ledger"),
            Flag("quiet", "q", "bool", help="Print problems only"),
            Flag("repair", "", "bool",
                 help="Remove what is damaged or not needed, unpack anew, mend leases"),
        ),
        maximum=0, section="common",
        description="Looks at the images, at the leases of addresses and at the ledger, and says of"
        " each whether it is clean, or what is wrong and what to do. Exit code 1 if something is"
        " wrong. The ledger is verified and never repaired.",
    ),
]  # fmt: skip
