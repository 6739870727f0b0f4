"""Write the dashboards' JSON to ``grafana/dashboards``."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.boards import container, containers, health, host, tenants

BOARDS: tuple[ModuleType, ...] = (containers, container, tenants, host, health)
DIRECTORY = Path(__file__).resolve().parent.parent / "dashboards"


def encoded(board: Dashboard) -> str:
    """The JSON of a dashboard as it is committed."""
    return JSONEncoder(sort_keys=True, indent=2).encode(board) + "\n"


def files() -> dict[Path, str]:
    """Every file there is to write, with its content."""
    made = [module.build() for module in BOARDS]
    return {DIRECTORY / f"{board.uid}.json": encoded(board) for board in made}


def main() -> int:
    """Write all; returns the exit code."""
    DIRECTORY.mkdir(exist_ok=True)
    for path, content in files().items():
        path.write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
