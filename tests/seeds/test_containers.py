"""The source document, 1.3: containers that share the host's kernel and look like systems.

One test per command shown there, typed at a real terminal. ``pull`` belongs to a later release:
the images are loaded by :mod:`conftest`.
"""

from __future__ import annotations

import os
import re

import pytest

from tests.harness import RunningDaemon
from tests.terminal import PROMPT, Terminal

pytestmark = pytest.mark.e2e

ROOT_LISTING = """
bin  home  lib  media  opt   root  sbin  sys  usr
dev  etc   mnt  proc   run   srv   tmp   var
"""
ROOT_ENTRIES = frozenset(ROOT_LISTING.split())
"""What both listings of the document have in common."""


def test_run_gives_a_shell_at_a_prompt(host: RunningDaemon) -> None:
    """``run -it --name test centos /bin/bash``: a root shell whose host name is the short id."""
    with Terminal(host, "run", "-it", "--name", "test", "centos", "/bin/bash") as terminal:
        prompt = terminal.expect(PROMPT)
        container = host.out("ps", "-q", "--no-trunc", "--filter", "name=test")

        assert prompt[1] == container[:12]
        assert prompt[2] == "/"
        assert terminal.leave() == 0


def test_ls_shows_a_root_directory(host: RunningDaemon) -> None:
    """``ls``: the root directory of a whole system."""
    with Terminal(host, "run", "-it", "centos", "/bin/bash") as terminal:
        terminal.expect(PROMPT)

        assert set(terminal.ask("ls").split()) >= ROOT_ENTRIES


def test_uname_is_the_hosts_kernel(host: RunningDaemon) -> None:
    """``uname -r``: the kernel is the host's, as every container shares it."""
    with Terminal(host, "run", "-it", "centos", "/bin/bash") as terminal:
        terminal.expect(PROMPT)

        assert terminal.ask("uname -r") == os.uname().release


def test_images_lists_all_three(host: RunningDaemon) -> None:
    """``images``: REPOSITORY, TAG, IMAGE ID, CREATED and SIZE of centos, centos:7, ubuntu."""
    header, *rows = host.out("images").splitlines()

    assert header.split("  ")[0] == "REPOSITORY"
    assert re.split(r" {2,}", header.strip()) == [
        "REPOSITORY",
        "TAG",
        "IMAGE ID",
        "CREATED",
        "SIZE",
    ]
    columns = [re.split(r" {2,}", row.strip()) for row in rows]
    assert {(name, tag) for name, tag, *_ in columns} == {
        ("centos", "latest"),
        ("centos", "7"),
        ("ubuntu", "latest"),
    }
    for _, _, image, created, size in columns:
        assert re.fullmatch(r"[0-9a-f]{12}", image)
        assert re.fullmatch(r"[0-9]+ (weeks|months|years) ago", created)
        assert re.fullmatch(r"[0-9.]+MB", size)


def test_run_ubuntu_gives_a_shell(host: RunningDaemon) -> None:
    """``run -it ubuntu:latest /bin/bash``: without a name, the container still has its id."""
    with Terminal(host, "run", "-it", "ubuntu:latest", "/bin/bash") as terminal:
        short = terminal.expect(PROMPT)[1]

        assert host.out("inspect", "-f", "{{.Config.Image}}", short) == "ubuntu:latest"
        assert terminal.leave() == 0


def test_ls_of_the_ubuntu_root(host: RunningDaemon) -> None:
    """``ls /`` in ubuntu: what the document lists, boot and lib64 included."""
    with Terminal(host, "run", "-it", "ubuntu:latest", "/bin/bash") as terminal:
        terminal.expect(PROMPT)

        assert ROOT_ENTRIES | {"boot", "lib64"} <= set(terminal.ask("ls /").split())


def test_uname_in_ubuntu_is_the_hosts_kernel(host: RunningDaemon) -> None:
    """``uname -r`` in ubuntu: the same kernel as in centos and on the host."""
    with Terminal(host, "run", "-it", "ubuntu:latest", "/bin/bash") as terminal:
        terminal.expect(PROMPT)

        assert terminal.ask("uname -r") == os.uname().release
