"""Cgroups: detecting the hierarchies, making and limiting groups, reading their counters.

Start at :mod:`aruntime.cgroups.driver` (what can be done) and :mod:`aruntime.cgroups.stats` (what
can be read). ``detect`` finds the hierarchies, ``v1`` and ``v2`` are the two drivers, ``limits_*``
turn the specification's resources into writes, ``reader_*`` keep the counters open, ``freezer``
suspends and kills, ``block`` decides which I/O counters to believe, ``devices`` which device nodes
work. Nothing here knows containers, prices or clocks.
"""
