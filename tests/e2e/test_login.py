"""login and logout, and what pull and push do with them, against registries that really check."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import archives, certificates, proxies, registries, token_server
from tests.conftest import require_program
from tests.harness import RunningDaemon
from tests.images import made
from tests.registries import RunningRegistry
from tests.terminal import Terminal
from tests.token_server import TokenServer

pytestmark = pytest.mark.e2e

USER, PASSWORD = "ann", "correct horse: battery"
HELPER = """#!/bin/sh
# Keeps one secret in a file, as the credential helpers of desktops do in their stores.
echo "$1" >> "$STORE.calls"
case $1 in
store) cat > "$STORE" ;;
get) read -r server
    if [ -f "$STORE" ] && grep -q "\\"$server\\"" "$STORE"; then cat "$STORE"
    else echo "credentials not found in native keychain"; exit 1; fi ;;
erase) rm "$STORE" ;;
esac
"""


@pytest.fixture
def home(tmp_path: Path, shared_daemon: RunningDaemon) -> Iterator[Path]:
    """Yield the home directory of the client, empty at first."""
    path = tmp_path / "home"
    path.mkdir()
    before = dict(shared_daemon.env)
    shared_daemon.env["HOME"] = str(path)
    yield path
    shared_daemon.env.clear()
    shared_daemon.env.update(before)


def config(home: Path) -> dict[str, Any]:
    """Return the client's config.json."""
    found: dict[str, Any] = json.loads((home / ".docker/config.json").read_text())
    return found


@pytest.fixture
def basic_registry(tmp_path: Path) -> Iterator[RunningRegistry]:
    """Yield a registry that speaks HTTPS and knows one user."""
    signed = certificates.server(tmp_path, certificates.authority(tmp_path))
    htpasswd = subprocess.run(
        [require_program("htpasswd"), "-Bbn", "-C", "4", USER, PASSWORD],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (tmp_path / "htpasswd").write_text(htpasswd.stdout)
    more = (
        f"  tls: {{certificate: {signed.certificate}, key: {signed.key}}}\n"
        f"auth: {{htpasswd: {{realm: tests, path: {tmp_path}/htpasswd}}}}\n"
    )
    with registries.running(tmp_path / "registry", more) as registry:
        yield registry


def test_login_with_a_password_on_stdin(
    shared_daemon: RunningDaemon, home: Path, basic_registry: RunningRegistry
) -> None:
    """docker's words and docker's file; push and pull use it; logout forgets it."""
    host = basic_registry.host
    name = f"{host}/busybox"
    shared_daemon.run("tag", "busybox", name)
    refused = shared_daemon.run("push", name, code=125)
    assert refused.stderr.startswith(f"aruntime: push access denied for {name}: ")
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text('{"psFormat": "table {{.ID}}"}')

    login = shared_daemon.run(
        "login", "-u", USER, "--password-stdin", host, stdin=f"{PASSWORD}\n".encode()
    )

    assert login.stdout == "Login Succeeded\n"
    assert f"stored unencrypted in {home}/.docker/config.json" in login.stderr
    entry = config(home)["auths"][host]["auth"]
    assert base64.b64decode(entry).decode() == f"{USER}:{PASSWORD}"
    assert config(home)["psFormat"] == "table {{.ID}}"
    assert (home / ".docker/config.json").stat().st_mode & 0o777 == 0o600
    shared_daemon.run("push", name)
    shared_daemon.run("rmi", name)
    assert shared_daemon.out("pull", "-q", name) == f"{name}:latest"
    assert "existing credentials" in shared_daemon.out("login", host)

    out = shared_daemon.out("logout", host)

    assert out == f"Removing login credentials for {host}"
    assert config(home)["auths"] == {}
    denied = shared_daemon.run("pull", name, code=125)
    [line] = denied.stderr.splitlines()
    assert line.startswith(f"aruntime: access denied for {name}:latest: it does not exist, or may")
    assert shared_daemon.out("logout", host) == f"Not logged in to {host}"


def test_a_wrong_password_is_not_kept(
    shared_daemon: RunningDaemon, home: Path, basic_registry: RunningRegistry
) -> None:
    """The registry is asked before anything is written."""
    failed = shared_daemon.run("login", "-u", USER, "-p", "wrong", basic_registry.host, code=125)

    assert failed.stderr.splitlines()[0].startswith("WARNING! Using --password via the CLI")
    assert "aruntime: registry" in failed.stderr
    assert not (home / ".docker").exists()


def test_login_asks_at_a_terminal(
    shared_daemon: RunningDaemon, home: Path, basic_registry: RunningRegistry
) -> None:
    """Name and password are asked for; the password is not shown."""
    with Terminal(shared_daemon, "login", basic_registry.host) as terminal:
        terminal.expect("Username: ")
        terminal.type(f"{USER}x\x7f\r")
        terminal.expect("Password: ")
        terminal.type(f"{PASSWORD}\r")
        shown = terminal.expect("(?s).*Login Succeeded")
        assert PASSWORD not in shown[0]
        assert terminal.wait() == 0
    assert basic_registry.host in config(home)["auths"]
    failed = shared_daemon.run("login", "-u", USER, basic_registry.host, code=125)
    assert "cannot ask for a password without a terminal" in failed.stderr


@pytest.mark.parametrize("setting", ["credsStore", "credHelpers"])
def test_a_credential_helper_keeps_it(
    shared_daemon: RunningDaemon, home: Path, basic_registry: RunningRegistry, setting: str
) -> None:
    """The helper is run by the client; the file has the registry's name and no secret."""
    host = basic_registry.host
    programs = home / "bin"
    programs.mkdir()
    (programs / "docker-credential-box").write_text(HELPER)
    (programs / "docker-credential-box").chmod(0o755)
    shared_daemon.env["PATH"] = f"{programs}:{shared_daemon.env['PATH']}"
    shared_daemon.env["STORE"] = str(home / "secret")
    (home / ".docker").mkdir()
    value = "box" if setting == "credsStore" else {host: "box"}
    (home / ".docker/config.json").write_text(json.dumps({setting: value}))

    login = shared_daemon.run(
        "login", "-u", USER, "--password-stdin", host, stdin=PASSWORD.encode()
    )

    assert "unencrypted" not in login.stderr
    assert config(home)["auths"] == {host: {}}
    assert json.loads((home / "secret").read_text()) == {
        "ServerURL": host, "Username": USER, "Secret": PASSWORD,
    }  # fmt: skip
    name = f"{host}/busybox"
    shared_daemon.run("tag", "busybox", name)
    shared_daemon.run("push", name)
    shared_daemon.run("logout", host)
    assert not (home / "secret").exists()
    assert (home / "secret.calls").read_text().split() == ["store", "get", "erase"]
    shutil.rmtree(programs)
    failed = shared_daemon.run("pull", name, code=125)
    assert "docker-credential-box is not in your PATH" in failed.stderr


def test_a_broken_config_is_named(shared_daemon: RunningDaemon, home: Path) -> None:
    """What is wrong with config.json is said with its path, and nothing is overwritten."""
    path = home / ".docker/config.json"
    path.parent.mkdir()
    for text in ("{", "[]", '{"auths": []}', '{"auths": {"127.0.0.1:1": {"auth": "!"}}}'):
        path.write_text(text)
        failed = shared_daemon.run("login", "127.0.0.1:1", code=125)
        [line] = failed.stderr.splitlines()
        assert "config.json" in line
        assert path.read_text() == text


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    """Yield a token server that knows one user."""
    signed = certificates.authority(tmp_path / "tokens")
    with token_server.running(signed) as server:
        server.users[USER] = PASSWORD
        yield server


def test_tokens_are_asked_for_with_scopes(
    shared_daemon: RunningDaemon, home: Path, tokens: TokenServer, tmp_path: Path
) -> None:
    """Pull asks for pull, push for both, a mount for the other repository's pull too."""
    with registries.running(tmp_path / "registry", tokens.registry_config) as registry:
        host = registry.host
        for repository in ("team/one", "team/two", "public/three"):
            tokens.rights[USER, repository] = {"pull", "push"}
        shared_daemon.run("login", "-u", USER, "-p", PASSWORD, host)
        assert tokens.asked == [[]]

        shared_daemon.run("tag", "busybox", f"{host}/team/one")
        shared_daemon.run("push", f"{host}/team/one")
        assert tokens.asked.pop() == ["repository:team/one:pull,push"]
        shared_daemon.run("tag", "busybox", f"{host}/team/two")
        mounted = shared_daemon.out("push", f"{host}/team/two")
        assert ": Mounted from team/one" in mounted
        assert ["repository:team/two:pull,push", "repository:team/one:pull"] in tokens.asked
        shared_daemon.run("tag", "busybox", f"{host}/public/three")
        shared_daemon.run("push", f"{host}/public/three")
        shared_daemon.run("logout", host)

        tokens.asked.clear()
        shared_daemon.run("pull", f"{host}/public/three")
        assert tokens.asked == [["repository:public/three:pull"]]
        denied = shared_daemon.run("pull", f"{host}/team/one", code=125)
        assert "access denied for" in denied.stderr
        refused = shared_daemon.run("push", f"{host}/public/three", code=125)
        assert "push access denied for" in refused.stderr


def test_a_wrong_password_at_the_token_server(
    shared_daemon: RunningDaemon, home: Path, tokens: TokenServer, tmp_path: Path
) -> None:
    """It is the token server that refuses, and is named."""
    with registries.running(tmp_path / "registry", tokens.registry_config) as registry:
        failed = shared_daemon.run("login", "-u", USER, "-p", "wrong", registry.host, code=125)
        assert f"{tokens.realm} refuses the user name or password" in failed.stderr
        assert not (home / ".docker").exists()


def test_an_identity_token_is_a_refresh_token(
    shared_daemon: RunningDaemon, home: Path, tokens: TokenServer, tmp_path: Path
) -> None:
    """What other tools keep as identitytoken is good for a token (OAuth2)."""
    tokens.rights[USER, "team/one"] = {"pull", "push"}
    tokens.refresh["r3fr3sh"] = USER
    with registries.running(tmp_path / "registry", tokens.registry_config) as registry:
        (home / ".docker").mkdir()
        auth = base64.b64encode(b"00000000-0000-0000-0000-000000000000:").decode()
        entry = {"auth": auth, "identitytoken": "r3fr3sh"}
        (home / ".docker/config.json").write_text(json.dumps({"auths": {registry.host: entry}}))
        shared_daemon.run("tag", "busybox", f"{registry.host}/team/one")
        shared_daemon.run("push", f"{registry.host}/team/one")
        assert registry.digest_of("team/one", "latest").startswith("sha256:")


def test_a_token_that_expires_in_mid_push_is_renewed(
    shared_daemon: RunningDaemon, home: Path, tokens: TokenServer, tmp_path: Path
) -> None:
    """A token no longer good enough costs a request, not the push."""
    tokens.rights[USER, "team/one"] = {"pull", "push"}
    content = archives.tar(archives.file("large", b"\0" * (1 << 20)))
    with (
        registries.running(tmp_path / "registry", tokens.registry_config) as registry,
        proxies.running(registry.host) as proxy,
    ):
        name = f"{proxy.host}/team/one"
        shared_daemon.run("import", "-", name, stdin=content)
        shared_daemon.run("login", "-u", USER, "-p", PASSWORD, proxy.host)
        asks = f'Bearer realm="{tokens.realm}",service="{token_server.SERVICE}"'
        expired = proxy.spoil(
            "/blobs/uploads/", method="PUT", status=401, headers={"WWW-Authenticate": asks}
        )
        asked = len(tokens.asked)
        shared_daemon.run("push", name)
        assert expired.reached.is_set()
        assert len(tokens.asked) >= asked + 2
        assert registry.digest_of("team/one", "latest").startswith("sha256:")


def test_a_login_is_for_its_registry_alone(
    bare_daemon: RunningDaemon, registry: RunningRegistry, tmp_path: Path
) -> None:
    """Neither a mirror nor a host that is redirected to sees it, however they ask."""
    image = made(tmp_path, 1)
    registry.push(image.path, "secret:1")
    config_file = tmp_path / ".docker/config.json"
    config_file.parent.mkdir()
    bare_daemon.env["HOME"] = str(tmp_path)
    asks = {"WWW-Authenticate": 'Basic realm="give it to me"'}
    with (
        proxies.running(registry.host) as own,
        proxies.running(registry.host) as mirror,
        proxies.running(registry.host) as elsewhere,
    ):
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        config_file.write_text(json.dumps({"auths": {own.host: {"auth": auth}}}))
        bare_daemon.stop()
        bare_daemon.start(f"--registry-mirror={own.host}=http://{mirror.host}")
        mirror.spoil("/manifests/", times=20, status=401, headers=asks)
        own.spoil("/manifests/", status=401, headers=asks)
        [part] = image.parts
        place = f"http://{elsewhere.host}/v2/secret/{part}"
        own.spoil(part, status=307, headers={"Location": place})

        bare_daemon.run("pull", f"{own.host}/secret:1")

        assert [one.status for one in mirror.requests("GET", "/manifests/")] == [401]
        assert {one.authorization for one in mirror.seen + elsewhere.seen} == {""}
        assert elsewhere.requests("GET", part)
        assert own.requests("GET", "/manifests/")[-1].authorization == f"Basic {auth}"
