"""Exporters of aruntime's numbers, found through the entry-point group ``aruntime.exporters``."""
