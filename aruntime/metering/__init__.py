"""Metering: what every container used, exactly, whatever crashes.

Reading order: :mod:`~aruntime.metering.account` and
:mod:`~aruntime.metering.integrals` (the arithmetic), :mod:`~aruntime.metering.totals`
(what survives a crash), :mod:`~aruntime.metering.subject` and :mod:`~aruntime.metering.sampler`
(reading, in worker threads), :mod:`~aruntime.metering.meter` (what the supervisor calls),
:mod:`~aruntime.metering.export` (what exporters see).
"""
