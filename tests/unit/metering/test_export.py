"""How exporters are found: by name and kind, with a clear word when one is not there."""

from __future__ import annotations

import pytest
from aruntime_exporters.prometheus import PrometheusExporter

from aruntime.errors import InvalidParameter
from aruntime.metering.export import exporter_class


def test_an_exporter_is_found_by_kind_and_name() -> None:
    """The class itself comes back, not an instance."""
    assert exporter_class("scrape", "prometheus") is PrometheusExporter


@pytest.mark.parametrize(("kind", "name"), [("push", "prometheus"), ("scrape", "promiscuous")])
def test_a_wrong_kind_or_name_lists_what_there_is(kind: str, name: str) -> None:
    """An exporter of another kind is not what was asked for."""
    with pytest.raises(InvalidParameter, match=f"there is no {kind} exporter '{name}'; installed"):
        exporter_class(kind, name)
