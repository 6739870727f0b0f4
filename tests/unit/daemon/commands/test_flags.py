"""Flag parsing against the grammar of pflag."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.daemon.commands.flags import Command, Flag, Parsed, parse
from aruntime.errors import UsageError


async def _run(_session: Any, _parsed: Parsed, _daemon: Any) -> int:
    return 0


FLAGS = (
    Flag("interactive", "i", "bool"),
    Flag("tty", "t", "bool"),
    Flag("rm", kind="bool"),
    Flag("sig-proxy", kind="bool", default=True),
    Flag("cpu-shares", "c", "int"),
    Flag("name"),
    Flag("env", "e", "list"),
    Flag("label", "l", "map"),
    Flag("filter", "f", "filter"),
    Flag("memory", "m", "bytes"),
    Flag("memory-swap", kind="bytes_or_unlimited"),
    Flag("health-interval", kind="duration"),
    Flag("network", aliases=("net",), default="bridge"),
    Flag("pull", kind="choice", choices=("always", "missing", "never"), default="missing"),
    Flag("publish", "p", "list", refused="published ports come later"),
)
RUN = Command("run", "Run it", _run, flags=FLAGS, minimum=1, interspersed=False)
LOOSE = Command("loose", "Any order", _run, flags=FLAGS)


def failure(command: Command, *words: str) -> str:
    """The message with which the line is refused."""
    with pytest.raises(UsageError) as caught:
        parse(command, words)
    return caught.value.message


def test_joined_short_flags_are_each_set() -> None:
    """-it sets both."""
    parsed = parse(RUN, ["-it", "busybox"])
    assert parsed.boolean("interactive")
    assert parsed.boolean("tty")
    assert parsed.given == {"interactive", "tty"}


@pytest.mark.parametrize("words", [["-c512"], ["-c", "512"], ["-c=512"], ["--cpu-shares=0x200"]])
def test_a_value_may_be_joined_or_follow(words: list[str]) -> None:
    """All spellings of one value are equal."""
    assert parse(RUN, [*words, "busybox"]).integer("cpu-shares") == 512


def test_the_last_short_flag_of_a_group_may_take_the_value() -> None:
    """-ite A=1 is -i -t -e A=1, and -iteA=1 too."""
    assert parse(RUN, ["-ite", "A=1", "x"]).strings("env") == ["A=1"]
    assert parse(RUN, ["-iteA=1", "x"]).strings("env") == ["A=1"]


def test_a_bool_takes_a_value_only_after_an_equals_sign() -> None:
    """--rm false leaves false as the first argument."""
    assert not parse(RUN, ["--rm=false", "x"]).boolean("rm")
    parsed = parse(RUN, ["--rm", "false"])
    assert parsed.boolean("rm")
    assert parsed.args == ["false"]
    assert not parse(RUN, ["-t=0", "x"]).boolean("tty")


def test_the_first_argument_ends_the_flags_of_run() -> None:
    """What follows the image belongs to the container, -- included."""
    assert parse(RUN, ["busybox", "ls", "-l", "--", "--rm"]).args == [
        "busybox", "ls", "-l", "--", "--rm",
    ]  # fmt: skip


def test_flags_and_arguments_mix_elsewhere() -> None:
    """Interspersed commands read flags anywhere, until --."""
    parsed = parse(LOOSE, ["a", "-t", "b", "--name", "n", "--", "-i"])
    assert parsed.args == ["a", "b", "-i"]
    assert parsed.boolean("tty")
    assert not parsed.boolean("interactive")


def test_a_lone_dash_is_an_argument() -> None:
    """- means standard input to many commands."""
    assert parse(LOOSE, ["-", ""]).args == ["-", ""]


def test_an_alias_fills_the_flag_it_stands_for() -> None:
    """--net is --network."""
    parsed = parse(RUN, ["--net", "none", "x"])
    assert parsed.string("network") == "none"
    assert "network" in parsed.given


def test_values_not_given_have_their_defaults() -> None:
    """Defaults and zero values by kind."""
    parsed = parse(RUN, ["x"])
    assert parsed.boolean("sig-proxy")
    assert parsed.string("network") == "bridge"
    assert parsed.strings("env") == []
    assert parsed.mapping("label") == {}
    assert parsed["memory"] == 0
    assert parsed.given == frozenset()


def test_lists_and_maps_collect_and_commas_stay() -> None:
    """Lists keep the order, maps the last value."""
    parsed = parse(RUN, ["-e", "A=1,2", "-e", "B", "-l", "k=v=w", "-l", "k=x", "-l", "lone", "i"])
    assert parsed.strings("env") == ["A=1,2", "B"]
    assert parsed.mapping("label") == {"k": "x", "lone": ""}


def test_filters_keep_every_value_of_a_key() -> None:
    """-f status=a -f status=b asks for either."""
    parsed = parse(LOOSE, ["-f", "status=a", "--filter", "status=b", "-f", "label=x=y"])
    assert parsed.filters() == {"status": ["a", "b"], "label": ["x=y"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--foo"], "unknown flag: --foo"),
        (["--foo=1"], "unknown flag: --foo"),
        (["-x"], "unknown shorthand flag: 'x' in -x"),
        (["-itx"], "unknown shorthand flag: 'x' in -x"),
        (["--name"], "flag needs an argument: --name"),
        (["-te"], "flag needs an argument: 'e' in -e"),
        (["--=1"], "bad flag syntax: --=1"),
        (["---x"], "bad flag syntax: ---x"),
        (["-m", "abc"], 'invalid argument "abc" for "-m, --memory" flag: invalid size: \'abc\''),
        (["--rm=maybe"], 'invalid argument "maybe" for "--rm" flag: strconv.ParseBool: parsing '
                         '"maybe": invalid syntax'),
        (["-c", "1.5"], 'invalid argument "1.5" for "-c, --cpu-shares" flag: strconv.ParseInt: '
                        'parsing "1.5": invalid syntax'),
        (["--health-interval=5"], 'invalid argument "5" for "--health-interval" flag: time: '
                                  'missing unit in duration "5"'),
        (["--pull=often"], 'invalid argument "often" for "--pull" flag: must be one of always, '
                           "missing, never"),
        (["-l", "=v"], 'invalid argument "=v" for "-l, --label" flag: invalid label \'=v\': '
                       "empty name"),
        (["-p", "80:80"], "--publish is not supported: published ports come later"),
    ],
)  # fmt: skip
def test_refusals_are_in_docker_s_words(words: list[str], message: str) -> None:
    """Each mistake has pflag's message and says where the help is."""
    assert failure(RUN, *words) == f"{message}; see 'aruntime run --help'"


def test_the_count_of_arguments_is_checked() -> None:
    """docker's sentences for too few and too many."""

    def rule(least: int, most: int | None, *args: str) -> str:
        return failure(Command("rm", "", _run, minimum=least, maximum=most), *args)

    see = "; see 'aruntime rm --help'"
    assert rule(1, None) == f'"aruntime rm" requires at least 1 argument{see}'
    assert rule(2, None, "a") == f'"aruntime rm" requires at least 2 arguments{see}'
    assert rule(0, 0, "a") == f'"aruntime rm" accepts no arguments{see}'
    assert rule(1, 1) == f'"aruntime rm" requires exactly 1 argument{see}'
    assert rule(0, 1, "a", "b") == f'"aruntime rm" requires at most 1 argument{see}'
    assert rule(1, 2) == f'"aruntime rm" requires at least 1 and at most 2 arguments{see}'


def test_help_needs_no_arguments() -> None:
    """--help and -h (where no flag is called h) come before the count."""
    assert parse(RUN, ["--help"]).help
    assert parse(RUN, ["-th"]).help
    with_host = Command("create", "", _run, flags=(Flag("hostname", "h"),))
    assert parse(with_host, ["-h", "box"]).string("hostname") == "box"
    assert not parse(RUN, ["x", "--help"]).help


WORDS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12
)  # fmt: skip
TEXTS = WORDS.filter(lambda text: not text.startswith("-"))


@given(
    shares=st.integers(-(2**63), 2**63 - 1),
    env=st.lists(WORDS, max_size=4),
    labels=st.dictionaries(WORDS.filter(lambda k: k != "" and "=" not in k), WORDS, max_size=4),
    tty=st.booleans(),
    name=WORDS,
    args=st.lists(WORDS, max_size=4),
    data=st.data(),
)
def test_what_is_written_is_read_back(
    shares: int,
    env: list[str],
    labels: dict[str, str],
    tty: bool,
    name: str,
    args: list[str],
    data: st.DataObject,
) -> None:
    """Any values survive, in any order and in joined or separate spelling."""
    pairs = [("--cpu-shares", str(shares)), ("--name", name), ("--tty", str(tty).lower())]
    pairs += [("--label", f"{k}={v}") for k, v in labels.items()]
    pairs = data.draw(st.permutations(pairs))
    pairs += [("--env", value) for value in env]
    words: list[str] = []
    for flag, value in pairs:
        joined = flag == "--tty" or data.draw(st.booleans())
        words += [f"{flag}={value}"] if joined else [flag, value]
    parsed = parse(LOOSE, [*words, "--", *args])
    assert parsed.integer("cpu-shares") == shares
    assert parsed.string("name") == name
    assert parsed.boolean("tty") == tty
    assert parsed.strings("env") == env
    assert parsed.mapping("label") == labels
    assert parsed.args == args


@given(st.lists(WORDS, max_size=8))
def test_any_line_is_parsed_or_refused_in_one_line(words: list[str]) -> None:
    """Nothing but a UsageError of one line ever comes out."""
    message = ""
    try:
        parsed = parse(RUN, words)
    except UsageError as error:
        message = error.message
    assert len(message.splitlines()) == 1 if message else parsed.help or parsed.args
