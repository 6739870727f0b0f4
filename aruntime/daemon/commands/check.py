"""check: whether what is on the disk is whole, and what to do about what is not."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from aruntime.daemon import unpacking
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.values import format_size
from aruntime.daemon.session import Session
from aruntime.errors import AruntimeError, os_error_text
from aruntime.images import catalogue, checking, layout
from aruntime.images.checking import Report

if TYPE_CHECKING:
    from aruntime.daemon.main import Daemon

FAULTY = 1
PART = "images"


async def run_check(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Check the image store, and repair what can be repaired."""
    read_content = not parsed.boolean("fast")
    report = await examine(daemon, read_content=read_content)
    if parsed.boolean("repair") and report.findings:
        for done in await repaired(daemon, report):
            await session.out(f"{PART}: {done}\n")
        report = await examine(daemon, read_content=False)
    for finding in report.findings:
        await session.out(f"{PART}: {finding.what}; {finding.advice}\n")
    grave = sum(finding.grave for finding in report.findings)
    if not parsed.boolean("quiet"):
        verdict = f"{grave} {'problem' if grave == 1 else 'problems'}" if grave else "clean"
        content = f", {format_size(report.bytes)} read" if report.bytes else ""
        await session.out(
            f"{PART}: {verdict} ({report.images} images, {report.blobs} blobs{content},"
            f" {report.layers} layers)\n"
        )
    return FAULTY if grave else 0


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
        async with unpacking.ingesting(store) as ingest:
            await unpacking.unpack_layer(
                store, ingest, layout.blob_path(store.base, blob), there, digest=blob,
                diff_ids=chain,
            )  # fmt: skip
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
            Flag("fast", "", "bool", help="Look at sizes only, read no content"),
            Flag("quiet", "q", "bool", help="Print problems only"),
            Flag("repair", "", "bool", help="Remove what is damaged or not needed, unpack anew"),
        ),
        maximum=0, section="common",
    ),
]  # fmt: skip
