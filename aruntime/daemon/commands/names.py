"""Ids and names of containers: what is allowed, and names for those that were given none."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

from aruntime.errors import InvalidParameter

_NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_ALLOWED = "[a-zA-Z0-9][a-zA-Z0-9_.-]"

_ADJECTIVES = (
    "agile amber ample azure bold brave brief bright brisk calm candid clear clever cosy crisp "
    "curious daring deft eager early easy even exact fair fancy fleet fluent fond frank free "
    "fresh gentle glad golden grand happy hardy hasty honest humble ideal jolly keen kind "
    "lively loyal lucid lucky mellow merry mild modest neat nimble noble novel open patient "
    "placid plucky polite prime proud quick quiet rapid ready robust rosy serene sharp shiny "
    "silent simple sleek smart smooth snug sober solid sound spry stable steady stoic subtle "
    "sunny sure swift tender tidy tranquil trusty upbeat valiant vivid warm wise witty zesty"
)
_NOUNS = (
    "adze agate anvil auger awl badger basalt bat beaver beetle bellows beryl bison bobbin "
    "bodkin bronze calcite caliper camel cedar chisel clamp cobalt compass copper crane cricket "
    "crow dolphin dove drill eagle egret falcon feldspar file finch flint fox froe garnet gecko "
    "geode gibbon gimlet gneiss gouge granite hammer hare heron hoe ibex jackdaw jade jasper "
    "jigsaw kestrel lathe level lever lizard loom lynx magpie mallet marble marmot marten mica "
    "mole newt nickel obsidian onyx opal osprey otter owl panda pantograph pincer plane plover "
    "plumb pulley puma pumice quartz raven rasp reed robin ruby sable salmon sander sapphire "
    "schist seal sextant shale shears shuttle sickle silver slate sparrow spindle spinel square "
    "squirrel starling stork swallow swan swift tapir tern thrush tiger tongs topaz trowel "
    "turtle vise vole walnut wedge whale whetstone winch wombat wren wrench yak zebra zinc"
)


def new_id() -> str:
    """Make a container id: 64 hex digits whose first twelve are not a number.

    A short id of digits only would be taken for an address when it is used as a host name.
    """
    while True:
        found = secrets.token_hex(32)
        if not found[:12].isdecimal():
            return found


def check_name(name: str) -> str:
    """Return a container name without the leading slash that docker allows.

    Raises:
        InvalidParameter: it holds other characters, or is shorter than two.
    """
    if not _NAME.fullmatch(name):
        raise InvalidParameter(f"invalid container name ({name}), only {_ALLOWED} are allowed")
    return name.removeprefix("/")


def random_name(is_taken: Callable[[str], bool]) -> str:
    """Make an ``adjective_noun`` that is not taken, with a number once words run out."""
    adjectives, nouns = _ADJECTIVES.split(), _NOUNS.split()
    for attempt in range(16):
        name = f"{secrets.choice(adjectives)}_{secrets.choice(nouns)}"
        name += "" if attempt < 8 else str(secrets.randbelow(10**attempt))
        if not is_taken(name):
            return name
    return f"{secrets.choice(adjectives)}_{secrets.token_hex(8)}"
