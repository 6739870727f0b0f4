"""The --format language against Go's text/template as docker uses it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.daemon.commands.listing import align, render_objects, render_rows
from aruntime.daemon.commands.template import MAX_DEPTH, parse
from aruntime.daemon.commands.template_values import render
from aruntime.errors import UsageError

CONTAINER: dict[str, Any] = {
    "ID": "ab12",
    "Names": ["web", "db"],
    "State": {"Status": "running", "Pid": 42, "Paused": False, "Load": 0.5},
    "Labels": {"a": "1", "b.c": "2"},
    "Config": {"Env": [], "User": None},
    "Label": lambda key: {"a": "1", "b.c": "2"}.get(key, ""),
}


def show(text: str, value: Any = None) -> str:
    """Parse and evaluate."""
    return render(parse(text), CONTAINER if value is None else value)


def failure(text: str) -> str:
    """The message of a template that fails."""
    with pytest.raises(UsageError) as caught:
        show(text)
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("{{.ID}}", "ab12"),
        ("{{ .State.Status }}: {{.State.Pid}}", "running: 42"),
        ("{{$.State.Pid}}", "42"),
        ("{{.Names}}", "[web db]"),
        ("{{.Labels}}", "map[a:1 b.c:2]"),
        ("{{.Config.User}}", "<no value>"),
        ("{{.Labels.a}}{{.Labels.zzz}}", "1<no value>"),
        ('{{index .Labels "b.c"}}|{{index .Labels "zzz"}}|{{index .Names 1}}', "2||db"),
        ('{{.Label "b.c"}}', "2"),
        ("{{.State.Load}} {{.State.Paused}} {{1e3}} {{1e21}} {{0x10}}", "0.5 false 1000 1e+21 16"),
        ("{{json .State}}", '{"Status":"running","Pid":42,"Paused":false,"Load":0.5}'),
        ("{{.Names | json}}", '["web","db"]'),
        ('{{join .Names ", "}}', "web, db"),
        ('{{range split "a,b" ","}}<{{.}}>{{end}}', "<a><b>"),
        ("{{len .Names}}{{len .Labels}}{{len .ID}}", "224"),
        ("{{upper .ID}}{{lower \"AB\"}}{{title \"a bc\"}}", "AB12abA Bc"),
        ('{{truncate .ID 2}}|{{pad .ID 1 2}}|{{pad "" 1 2}}', "ab| ab12  |"),
        ('{{print 1 2 "a" "b" 3}}', "1 2ab3"),
        ('{{println "a" 1}}', "a 1\n"),
        ('{{printf "%-6s|%5d|%05d|%.2f|%q|%v|%t|%x|%%" .ID 7 -7 .State.Load "a" .Names true 255}}',
         'ab12  |    7|-0007|0.50|"a"|[web db]|true|ff|%'),
        ('{{printf "%d %s" "x"}}{{printf "a" 1}}', "%!d(string=x) %!s(MISSING)a%!(EXTRA int=1)"),
        ("{{if .State.Paused}}yes{{else}}no{{end}}", "no"),
        ("{{if .Config.Env}}a{{else if .Names}}b{{else}}c{{end}}", "b"),
        ('{{if eq .State.Status "exited" "running"}}x{{end}}', "x"),
        ("{{if and .Names (not .State.Paused)}}x{{end}}{{or .Config.Env 3}}", "x3"),
        ("{{ne 1 2}} {{lt 1 2}} {{le 2 2}} {{gt 1 2}} {{ge 1.5 2}}", "true true true false false"),
        ("{{range .Names}}[{{.}}]{{end}}", "[web][db]"),
        ("{{range $i, $n := .Names}}{{if $i}},{{end}}{{$n}}{{end}}", "web,db"),
        ("{{range $n := .Names}}{{$n}}{{$.ID}}{{end}}", "webab12dbab12"),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}", "a=1;b.c=2;"),
        ("{{range .Config.Env}}x{{else}}none{{end}}", "none"),
        ("{{range .Names}}{{break}}{{end}}{{range .Names}}{{continue}}x{{end}}ok", "ok"),
        ("{{with .State}}{{.Pid}}{{end}}{{with .Config.User}}x{{else}}y{{end}}", "42y"),
        ('{{$x := "a"}}{{if true}}{{$x = "b"}}{{end}}{{$x}}', "b"),
        ("a {{- .ID -}} b", "aab12b"),
        ("a {{/* comment }} */}}b{{- /* c */ -}} c", "a bc"),
        ("{{(index .Names 0) | upper}}{{(.State).Pid}}", "WEB42"),
        ('{{"a\\tb\\u00e9\\x41"}}{{`raw\\t`}}', "a\tbéAraw\\t"),
        ("{{slice .ID 1 3}}", "b1"),
        ("{{'a'}}{{'\\n'}}{{html `<a>`}}", "9710&lt;a&gt;"),
        ("{{and .Config.Env .Nothing.At.All}}", "[]"),
    ],
)  # fmt: skip
def test_templates_show_what_go_shows(text: str, shown: str) -> None:
    """One template, one text."""
    assert show(text) == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a {{.ID", "template parsing error: column 3: unclosed action"),
        ("{{}}", "template parsing error: column 1: a value is missing"),
        ("{{.ID}", "template parsing error: column 6: unexpected '}'"),
        ("x\n{{if .ID}}", "template parsing error: line 2 column 11: an {{end}} is missing for "
                          "the block before this"),
        ("{{end}}", "template parsing error: column 1: unexpected {{end}}"),
        ("{{if .ID}}{{else}}{{else}}{{end}}", "template parsing error: column 19: unexpected "
                                              "{{else}}"),
        ('{{"a}}', "template parsing error: column 3: unterminated string"),
        ('{{"\\q"}}', 'template parsing error: column 3: bad escape in "\\q"'),
        ("{{(.ID}}", "template parsing error: column 3: unclosed left paren"),
        ("{{$x}}", "template parsing error: column 3: undefined variable $x"),
        ("{{.ID | 3}}", "template parsing error: column 9: only a function can stand behind |"),
        ("{{3 4}}", "template parsing error: column 3: only a function can take arguments"),
        ("{{break}}", "template parsing error: column 1: {{break}} outside of {{range}}"),
        ('{{template "x"}}', "template parsing error: column 1: {{template}} is not supported"),
        ("{{if true}}{{$y := 1}}{{else}}{{$y}}{{end}}",
         "template parsing error: column 33: undefined variable $y"),
        ("{{if false}}{{foo .ID}}{{end}}",
         'template parsing error: column 15: function "foo" not defined'),
        ("{{'ab'}}", "template parsing error: column 3: unexpected \"'\""),
        ("{{.Foo}}", "template execution error: column 3: no field Foo; there are ID, Names, "
                     "State, Labels, Config, Label"),
        ("{{.ID.X}}", "template execution error: column 3: can't evaluate field X in type string"),
        ("{{.ID 1}}", "template execution error: column 3: ID is not a method but has arguments"),
        ("{{.Label}}", "template execution error: column 3: Label: wrong arguments"),
        ("{{index .Names 7}}", "template execution error: column 3: index: index out of range: 7"),
        ("{{len 3}}", "template execution error: column 3: len: len of type int"),
        ("{{eq 1 .ID}}", "template execution error: column 3: eq: incompatible types for "
                         "comparison: int, string"),
        ("{{upper 1}}", "template execution error: column 3: upper: expected a string, found int"),
        ("{{upper}}", "template execution error: column 3: upper: wrong arguments"),
        ("{{range .State.Pid}}{{end}}", "template execution error: column 1: range can't iterate "
                                        "over 42"),
    ],
)  # fmt: skip
def test_mistakes_name_their_position(text: str, message: str) -> None:
    """What is wrong, and where."""
    assert failure(text) == message


def test_depth_is_bounded() -> None:
    """A hostile template cannot exhaust the stack of the daemon."""
    assert "nested too deeply" in failure("{{" + "(" * 5000 + "1" + ")" * 5000 + "}}")
    assert "nested too deeply" in failure("{{if 1}}" * 5000)
    deep = MAX_DEPTH - 1
    assert show("{{if 1}}" * deep + "x" + "{{end}}" * deep) == "x"


TITLES = {"ID": "CONTAINER ID", "Names": "NAMES", "State": "STATE", "Label": "LABEL"}
ROWS: list[dict[str, Any]] = [
    {"ID": "ab", "Names": "web", "State": "running", "Label": lambda key: f"<{key}>"},
    {"ID": "cd", "Names": "a-long-name-here", "State": "exited", "Label": lambda key: ""},
]


def listed(text: str, rows: list[dict[str, Any]] | None = None) -> str:
    """Rows in the given format."""
    table = "{{.ID}}\t{{.Names}}\t{{.State}}"
    return render_rows(ROWS if rows is None else rows, format=text, titles=TITLES, table=table)


def test_the_table_of_a_command_has_docker_s_columns() -> None:
    """Three blanks between columns, ten characters at least, none at the end."""
    expected = (
        "CONTAINER ID   NAMES              STATE\n"
        "ab             web                running\n"
        "cd             a-long-name-here   exited\n"
    )
    assert listed("") == expected
    assert listed("table") == expected
    assert listed("table", []) == "CONTAINER ID   NAMES     STATE\n"


def test_a_table_of_the_user_has_headings() -> None:
    r"""\t separates cells; functions do not touch the headings."""
    assert listed(r"table {{.Names | upper}}\t{{truncate .ID 1}}", ROWS[:1]) == (
        "NAMES     CONTAINER ID\nWEB       a\n"
    )
    assert listed(r'table {{.ID}}\t{{.Label "a.cpu"}}', ROWS[:1]) == (
        "CONTAINER ID   CPU\nab             <a.cpu>\n"
    )
    assert listed('table {{if eq .State "exited"}}{{.ID}}{{end}}') == "CONTAINER ID\n\ncd\n"


def test_a_template_has_no_heading() -> None:
    """One line a row; json is one object a line."""
    assert listed(r"{{.ID}}\t{{.Names}}") == "ab\tweb\ncd\ta-long-name-here\n"
    lines = listed("json", [{"ID": "é", "Names": "x"}]).splitlines()
    assert [json.loads(line) for line in lines] == [{"ID": "é", "Names": "x"}]
    assert json.loads(listed("json", ROWS[:1])) == {"ID": "ab", "Names": "web", "State": "running"}
    assert listed('{{join (split .ID "") "\\n"}}', ROWS[:1]) == "a\nb\n"


def test_an_unknown_field_is_refused_even_without_rows() -> None:
    """A typo in a table shows at once."""
    with pytest.raises(UsageError, match="no field Nmaes; there are ID, Names"):
        listed("table {{.Nmaes}}", [])


def test_objects_are_a_json_array_or_templates() -> None:
    """inspect: indented, compact, or by template."""
    objects = [{"Id": "a", "N": [1]}]
    assert render_objects(objects, "") == json.dumps(objects, indent=4) + "\n"
    assert render_objects([], "") == "[]\n"
    assert render_objects(objects, "json") == '[{"Id":"a","N":[1]}]\n'
    assert render_objects(objects, r"{{.Id}}\t") == "a\\t\n"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_json_reads_back(value: Any) -> None:
    """{{json .}} loses nothing."""
    assert json.loads(render(parse("{{json .}}"), value)) == value


@given(st.text())
def test_strings_survive_quoting(text: str) -> None:
    """A literal written as JSON is that text."""
    quoted = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\x7f")
    if "\\u" not in quoted and "\\b" not in quoted:
        assert render(parse("{{" + quoted + "}}"), None) == text


@given(st.text(alphabet='{}-. $|(),="`/*\n\tabIDifrangeendelse:0', max_size=40))
def test_any_text_is_a_template_or_a_usage_error(text: str) -> None:
    """No other exception ever leaves the parser or the evaluator."""
    try:
        shown = render(parse(text), CONTAINER)
    except UsageError as error:
        assert error.message.startswith("template ")
        return
    assert "{{" in text or shown == text


@given(st.lists(st.lists(st.text("abc", max_size=20), min_size=3, max_size=3), min_size=1))
def test_columns_line_up(cells: list[list[str]]) -> None:
    """Every cell of a column starts at the same place."""
    rows = align(["\t".join(row) for row in cells]).splitlines()
    second = max(10, *(len(row[0]) + 3 for row in cells))
    third = second + max(10, *(len(row[1]) + 3 for row in cells))
    for row, line in zip(cells, rows, strict=True):
        assert line == f"{row[0]:{second}}{row[1]:{third - second}}{row[2]}"
