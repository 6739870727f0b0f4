"""login and logout: who the client is to a registry, kept in its own docker config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aruntime.daemon.commands.flags import PROGRAM, Command, Flag, Parsed
from aruntime.daemon.session import Session
from aruntime.errors import InvalidParameter, UsageError
from aruntime.images import reference

if TYPE_CHECKING:
    from aruntime.daemon.main import Daemon

SECRET_BYTES = 64 << 10
END_OF_LINE, ERASE, INTERRUPT, END_OF_FILE = b"\r\n", b"\x7f\x08", b"\x03", b"\x04"


class Interrupted(InvalidParameter):
    """The user gave up at a question."""

    EXIT_CODE = 130


async def run_login(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Check a name and password with a registry and keep them."""
    from aruntime.daemon.registry.authority import Login
    from aruntime.daemon.registry.credentials import Credentials

    domain = registry_of(parsed.args)
    credentials = Credentials(session)
    username = parsed.string("username")
    if parsed.boolean("password-stdin"):
        if parsed.string("password") or not username:
            raise UsageError("--password-stdin goes with --username and without --password")
        password = (await _all_of_stdin(session)).rstrip("\r\n")
    else:
        password = parsed.string("password")
        if password:
            await session.err("WARNING! Using --password via the CLI is insecure."
                              " Use --password-stdin.\n")  # fmt: skip
    if not username and not password:
        known = await credentials.find(domain)
        if known is not None and (known.password or known.identity_token):
            await session.out("Authenticating with existing credentials...\n")
            puller = await daemon.registries.puller()
            await puller.check_login(domain, known)
            await session.out("Login Succeeded\n")
            return 0
    if not username or not password:
        username, password = await _asked(session, username, password)
    puller = await daemon.registries.puller()
    login = Login(username=username, password=password)
    await puller.check_login(domain, login)
    path = await credentials.save(domain, login)
    if path:
        await session.err(
            f"WARNING! Your password is stored unencrypted in {path}.\n"
            "Configure a credential helper (credsStore) to keep it elsewhere.\n"
        )
    await session.out("Login Succeeded\n")
    return 0


async def _asked(session: Session, username: str, password: str) -> tuple[str, str]:
    """Ask at the terminal for what is missing.

    Raises:
        UsageError: there is no terminal.
        InvalidParameter: an answer is empty.
    """
    if not session.stdin_tty:
        raise UsageError(
            f"cannot ask for a password without a terminal: use '{PROGRAM} login -u NAME"
            " --password-stdin'"
        )
    if not username:
        username = await ask(session, "Username: ", echo=True)
    if not password:
        password = await ask(session, "Password: ", echo=False)
    if not username or not password:
        raise InvalidParameter("a user name and a password are needed")
    return username, password


async def ask(session: Session, question: str, *, echo: bool) -> str:
    """Read a line from the client's terminal, key by key.

    Raises:
        Interrupted: the user pressed ctrl-c or ctrl-d.
    """
    await session.raw_mode(True)
    try:
        await session.out(question)
        typed = bytearray()
        async for keys in await session.stdin():
            for key in (keys[i : i + 1] for i in range(len(keys))):
                if key in (INTERRUPT, END_OF_FILE):
                    raise Interrupted("interrupted")
                if key in END_OF_LINE:
                    return typed.decode(errors="replace")
                if key in ERASE:
                    if typed and echo:
                        await session.out("\b \b")
                    del typed[-1:]
                    continue
                typed += key
                if echo:
                    await session.out(key)
        return typed.decode(errors="replace")
    finally:
        await session.raw_mode(False)
        await session.out("\n")


async def _all_of_stdin(session: Session) -> str:
    text = b""
    async for chunk in await session.stdin():
        text += chunk
        if len(text) > SECRET_BYTES:
            raise InvalidParameter(f"a password has at most {SECRET_BYTES} bytes")
    return text.decode(errors="replace")


async def run_logout(session: Session, parsed: Parsed, _daemon: Daemon) -> int:
    """Forget the name and password for a registry."""
    from aruntime.daemon.registry.credentials import Credentials, key_of

    domain = registry_of(parsed.args)
    if not await Credentials(session).erase(domain):
        await session.out(f"Not logged in to {key_of(domain)}\n")
        return 0
    await session.out(f"Removing login credentials for {key_of(domain)}\n")
    return 0


def registry_of(args: list[str]) -> str:
    """Return the registry that was named, docker.io if none was; older forms are URLs.

    Raises:
        UsageError: it cannot be one.
    """
    text = args[0] if args else reference.DEFAULT_DOMAIN
    host = (text.partition("://")[2] or text).partition("/")[0]
    if not reference.is_domain(host):
        raise UsageError(f"{text!r} is not a registry: write HOST[:PORT]")
    return reference.DEFAULT_DOMAIN if host == reference.LEGACY_DOMAIN else host


COMMANDS = [
    Command(
        "login", "Authenticate to a registry", run_login, "[SERVER]",
        (
            Flag("password", "p", "string", help="Password"),
            Flag("password-stdin", "", "bool", help="Take the password from stdin"),
            Flag("username", "u", "string", help="Username"),
        ),
        maximum=1, section="common",
    ),
    Command(
        "logout", "Log out from a registry", run_logout, "[SERVER]", maximum=1, section="common"
    ),
]  # fmt: skip
