"""Puts the parts of a running daemon together and takes them apart in the reverse order.

The only module that knows every part:

    start   images, network → meter opened → shim connected → output pump → meter's loops,
            prices, /metrics → resolver → supervisor → containers of former daemons taken back
    stop    (containers, if the settings say so) → supervisor → resolver → /metrics, meter's loops
            → pump
            → goodbye to the shim, which pumps from then on → last reading, durable

Containers run on through all of it.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import structlog
import trio

from aruntime.cgroups.detect import detect
from aruntime.cgroups.driver import Driver, open_driver
from aruntime.daemon import adoption, committing, etc_files, exporting, foreign, networking
from aruntime.daemon.billing import BillKeeper
from aruntime.daemon.commands.registry import Registry
from aruntime.daemon.events import Events
from aruntime.daemon.metrics_http import MetricsServer
from aruntime.daemon.parts import Parts
from aruntime.daemon.pricing import Pricing
from aruntime.daemon.pump import Pump
from aruntime.daemon.registries import Registries
from aruntime.daemon.resolver import Resolver
from aruntime.daemon.settings import Settings
from aruntime.daemon.shim_link import ShimLink
from aruntime.daemon.supervisor import Supervisor
from aruntime.daemon.trash import Trash
from aruntime.daemon.web.access import Access
from aruntime.errors import AruntimeError
from aruntime.images.store import Store
from aruntime.metering.clock import boot_id
from aruntime.metering.export import Source, View, load_exporters
from aruntime.metering.foreign import mark
from aruntime.metering.foreign.meter import ForeignMeter
from aruntime.metering.meter import Meter
from aruntime.network import Networks, default_definition

log = structlog.get_logger()

STOP_ALL_SECONDS = 60.0
"""How long a stopping daemon waits for containers it was told to stop."""


class Daemon:
    """What commands reach: the parts of this daemon.

    Attributes:
        settings: replaced by a new record when SIGHUP reloads them.
        started_ns: Unix time of its start.
    """

    def __init__(
        self,
        registry: Registry,
        parts: Parts,
        supervisor: Supervisor,
        pricing: Pricing,
        exports: exporting.Exports,
    ) -> None:
        self.settings = parts.settings
        self.registry = registry
        self.parts = parts
        self.supervisor = supervisor
        self.images = parts.images
        self.registries = Registries(parts.images, parts.settings.registries)
        self.meter = parts.meter
        self.pricing = pricing
        self.network = parts.network
        self.networks = parts.networks
        self.events = parts.events
        self.exports = exports
        self.started_ns = time.time_ns()

    def apply_settings(self, settings: Settings) -> None:
        """Take over reloaded settings; the meter's loops obey at their next turn."""
        self.settings = self.parts.settings = settings
        if settings.prices is not None:
            self.parts.spawn(self.pricing.load_file, str(settings.prices))
        self.meter.rounds.poll_seconds = settings.poll_interval
        self.meter.rounds.slow_seconds = settings.slow_interval


@contextlib.asynccontextmanager
async def opened(settings: Settings, registry: Registry) -> AsyncIterator[Daemon]:
    """Run a daemon's parts while the block runs.

    Raises:
        AruntimeError, OSError: a part cannot be started; those before it are stopped again.
    """
    hierarchy = detect()
    driver = open_driver(hierarchy, settings.cgroup_parent)
    events, pump, shim = Events(), Pump(), ShimLink(settings.run_dir)
    async with contextlib.AsyncExitStack() as undo:
        images = await trio.to_thread.run_sync(Store, str(settings.root))
        undo.callback(images.close)
        networks = Networks(default_definition(settings.bridge, settings.subnet), settings.root)
        await prepare_networks(networks)
        exports = await undo.enter_async_context(exporting.opened(settings))
        meter = await undo.enter_async_context(opened_meter(settings, driver, networks))
        exports.begin()
        held = await shim.open()
        undo.push_async_callback(shielded, shim.leave)
        await undo.enter_async_context(running(pump.run))
        await undo.enter_async_context(running(meter.run))
        pricing = await undo.enter_async_context(opened_pricing(settings, meter))
        if settings.metrics_address != "none":
            view = partial(full_view, pricing, exports)
            await undo.enter_async_context(running(serve_metrics, settings, meter, view))
        trash = Trash()
        await undo.enter_async_context(running(trash.run))
        nursery = await undo.enter_async_context(cancelled_nursery())
        parts = Parts(
            settings=settings, hierarchy=hierarchy, driver=driver, meter=meter, networks=networks,
            images=images, events=events, pump=pump, shim=shim, trash=trash, nursery=nursery,
            boot_id=boot_id(),
        )  # fmt: skip
        await undo.enter_async_context(running(resolver(parts).run))
        supervisor = Supervisor(parts)
        await undo.enter_async_context(running(supervisor.run))
        parts.spawn(networking.sweep, networks)
        parts.spawn(shim.run, lambda held: adoption.after_shim_loss(parts, supervisor, held))
        await undo.enter_async_context(foreign_metered(settings, driver, meter))
        await adoption.adopt_all(parts, supervisor, held)
        await committing.resume_forgotten(parts, supervisor)
        daemon = Daemon(registry, parts, supervisor, pricing, exports)
        yield daemon
        if daemon.settings.stop_containers:
            await stop_containers(supervisor)


@contextlib.asynccontextmanager
async def running(run: Callable[..., Awaitable[Any]], *args: Any) -> AsyncIterator[Any]:
    """Run a part in a nursery of its own while the block runs; yields what it started with."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(run, *args)
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def cancelled_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks are cancelled when the block ends."""
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


async def shielded(call: Callable[[], Awaitable[None]]) -> None:
    """Call something that must happen although we are being cancelled."""
    with trio.CancelScope(shield=True):
        await call()


def resolver(parts: Parts) -> Resolver:
    """Return the resolver of users' networks; it hears of every endpoint from now on."""
    made = Resolver(parts.networks, functools.partial(etc_files.servers, parts))
    parts.networks.endpoints.listen(made.changed)
    return made


async def prepare_networks(networks: Networks) -> None:
    """Make the bridges. Without the default one the daemon serves containers that need none."""
    changes = []
    try:
        changes += await trio.to_thread.run_sync(networks.default.ensure)
    except (AruntimeError, OSError) as error:
        log.warning("no bridge: containers can use host and none only", reason=str(error))
    changes += await trio.to_thread.run_sync(networks.open)
    for change in changes:
        log.info("network prepared", change=change)


@contextlib.asynccontextmanager
async def opened_meter(
    settings: Settings, driver: Driver, networks: Networks
) -> AsyncIterator[ForeignMeter]:
    """Open the meter and what it reads; its last reading is durable when the block ends."""
    meter = ForeignMeter(
        str(settings.root / "ledger.db"),
        driver,
        poll_seconds=settings.poll_interval,
        slow_seconds=settings.slow_interval,
        network=networks.counters,
        ledger_key=settings.ledger.key,
        on_ledger_failure=settings.ledger.on_failure,
        retention=settings.ledger.retention,
    )
    with contextlib.closing(networks):
        await meter.open()
        try:
            await choose_block_counters(meter, driver)
            yield meter
        finally:
            await meter.aclose()


async def choose_block_counters(meter: Meter, driver: Driver) -> None:
    """Switch the disks' counters on and log which are believed, or why there are none."""
    try:
        meter.block_sources = list(await trio.to_thread.run_sync(driver.activate_block_counters))
    except (AruntimeError, OSError) as error:
        log.warning("block I/O is not counted", reason=str(error))
        return
    for source in meter.block_sources:
        log.info("block counters", disk=source.disk.name, source=source.source, error=source.error)


@contextlib.asynccontextmanager
async def opened_pricing(settings: Settings, meter: Meter) -> AsyncIterator[Pricing]:
    """Price what the meter counts while the block runs."""
    pricing = Pricing(settings.root, meter)
    await pricing.open()
    meter.checkpoints.keep_bills = BillKeeper(meter, pricing).keep
    async with running(pricing.run):
        if settings.prices is not None:
            await pricing.load_file(str(settings.prices))
        yield pricing


@contextlib.asynccontextmanager
async def foreign_metered(
    settings: Settings, driver: Driver, meter: ForeignMeter
) -> AsyncIterator[None]:
    """Meter cgroups of other programs while the block runs, if the settings name any.

    Those that are there are registered before the accounts of unknown containers are dropped.
    """
    if not settings.meter_cgroups:
        await trio.to_thread.run_sync(mark.forget, str(settings.run_dir / foreign.MARKS))
        yield
        return
    async with running(foreign.ForeignCgroups(settings, driver, meter).run):
        yield


def full_view(pricing: Pricing, exports: exporting.Exports) -> View:
    """Everything scrapers see. Safe in any thread."""
    return pricing.view()._replace(exports=exports.states())


async def serve_metrics(
    settings: Settings,
    meter: Meter,
    view: Source,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve every installed exporter; answers 503 until all containers are taken back."""
    exporters = await trio.to_thread.run_sync(load_exporters, view)
    access = await trio.to_thread.run_sync(Access, settings.web_config)
    metrics = MetricsServer(exporters, is_ready=lambda: meter.settled, access=access)
    address_file = str(settings.run_dir / "metrics.addr")
    await metrics.serve(settings.metrics_address, address_file, task_status=task_status)


async def stop_containers(supervisor: Supervisor) -> None:
    """Stop all containers at once, each with its own signal and patience."""

    async def stop(container: Any) -> None:
        try:
            await supervisor.stop(container, by_user=False)
        except (AruntimeError, OSError) as error:
            log.error("not stopped", container=container.short_id, error=str(error))

    with trio.move_on_after(STOP_ALL_SECONDS):
        async with trio.open_nursery() as nursery:
            for container in supervisor:
                if container.is_running:
                    nursery.start_soon(stop, container)
