"""The rows of ``history``."""

from __future__ import annotations

from aruntime.daemon.commands.history import TABLE, TITLES, history_rows, steps
from aruntime.daemon.commands.listing import render_rows
from aruntime.images.image import History, Image, ImageConfig

NOW_NS = 1_700_003_601 * 1_000_000_000
CREATED = "2023-11-14T22:13:20.123Z"


def image(*history: History, sizes: tuple[int, ...] = ()) -> Image:
    """Make an image with a history."""
    return Image(
        id=f"sha256:{'a' * 64}", digest="", names=(), config=ImageConfig(), layers=(), diff_ids=(),
        size=sum(sizes), layer_sizes=sizes, created_ns=NOW_NS, history=history,
    )  # fmt: skip


MADE = image(
    History(created=CREATED, created_by="/bin/sh -c #(nop) ADD file:1 in /"),
    History(created=CREATED, created_by='CMD ["sh"]', empty_layer=True),
    History(created=CREATED, created_by="RUN\techo " + "x" * 60, comment="buildkit"),
    sizes=(4_261_550, 12),
)


def table(found: Image, *, human: bool = True, whole: bool = False) -> list[list[str]]:
    """Render the table and split it into cells."""
    rows = history_rows(found, now_ns=NOW_NS, human=human, whole=whole)
    text = render_rows(rows, format="", titles=TITLES, table=TABLE)
    return [
        [cell.strip() for cell in line.split("   ") if cell.strip()] for line in text.splitlines()
    ]


def test_the_table_is_dockers() -> None:
    """The last step first; only it has an id; commands are cut at 45."""
    assert table(MADE) == [
        ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"],
        ["a" * 12, "About an hour ago", "RUN echo " + "x" * 35 + "…", "12B", "buildkit"],
        ["<missing>", "About an hour ago", 'CMD ["sh"]', "0B"],
        ["<missing>", "About an hour ago", "/bin/sh -c #(nop) ADD file:1 in /", "4.26MB"],
    ]


def test_nothing_is_cut_and_nothing_rounded_if_asked() -> None:
    """--no-trunc and --human=false."""
    rows = table(MADE, human=False, whole=True)
    assert rows[1] == [
        f"sha256:{'a' * 64}", "2023-11-14T22:13:20Z", "RUN echo " + "x" * 60, "12", "buildkit"
    ]  # fmt: skip
    assert rows[3][-1] == "4261550"


def test_layers_without_a_history_are_there() -> None:
    """Images by other tools have none, or too short a one."""
    assert [size for _, size in steps(image(sizes=(1, 2)))] == [1, 2]
    one = image(History(created_by="first"), sizes=(1, 2))
    assert [(step.created_by, size) for step, size in steps(one)] == [("first", 1), (None, 2)]
    assert table(one)[1] == ["a" * 12, "N/A", "2B"]
    assert table(image())[1:] == []


def test_a_history_cannot_speak_to_the_terminal() -> None:
    """Control characters of an image are shown, not obeyed."""
    rows = table(image(History(created_by="\x1b[2J", comment="a\nb")))
    assert rows[1][2:] == ["\\x1b[2J", "0B", "a\\nb"]
