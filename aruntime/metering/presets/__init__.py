"""Price books that reproduce the rules of known services, to start one's own from.

Their amounts are list prices of one day and region. Out of scope: keeping them up to date.
"""

from __future__ import annotations

from importlib import resources

SUFFIX = ".toml"


def preset_names() -> list[str]:
    """What there is, sorted."""
    return sorted(
        entry.name.removesuffix(SUFFIX)
        for entry in resources.files(__name__).iterdir()
        if entry.name.endswith(SUFFIX)
    )


def preset_text(name: str) -> str:
    """The text of a preset.

    Raises:
        KeyError: there is none of this name.
    """
    if name not in preset_names():
        raise KeyError(name)
    return (resources.files(__name__) / f"{name}{SUFFIX}").read_text(encoding="utf-8")
