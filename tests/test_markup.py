"""Names of any characters stand in Markdown, LaTeX and HTML as text: what parsers read back is the name."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from airpipe.reporting.figures.charts import open_figure
from airpipe.reporting.markup import md, tex, visible
from airpipe.reporting.page import Section, _template, choices, provenance_block
from airpipe.reporting.table import Block, Cell, Line, Part, Table, latex, markdown

MARKUP = st.text(st.sampled_from(list("\\|`<>[]()*_~$#&;:!\"'-–=+.,?@{}%^/ \n\t1ab\u00a0±∞†")), min_size=1, max_size=12)
NAMES = st.one_of(st.text(st.characters(), min_size=1, max_size=12), MARKUP)
NASTY = [
    *("<b>one", "`code`", "[a](b)", "![a](b)", "a\nb", "a\\|b", "a|b", "\\", "\\\\|", "**x**", "_x_", "a_b", "~~x~~"),
    *(
        "$x$",
        "- x",
        "+ x",
        "1. x",
        "1) x",
        "> x",
        "---",
        "===",
        "# x #",
        "&amp;",
        "&#65;",
        "<!-- x -->",
        "http://a_/_b",
    ),
    *(" x ", "\x00\x1b[31m", "\ud800", "\ufffe", "\u2028", "`` ''", "<<a>>", 'a"b', "--", "–-", ",,", "[2pt]", "*"),
    *("\\\\", "%", "{}"),
]


def with_examples(test):
    for name in NASTY:
        test = example(name=name)(test)
    return test


def text_of(tokens):
    """The text of inline tokens; anything but text, softly broken lines and bold makes it differ."""
    kinds = {"text", "text_special", "strong_open", "strong_close"}
    assert {token.type for token in tokens} <= kinds, tokens
    return "".join(token.content for token in tokens)


def read_markdown(text):
    """Headings, cells of tables and items of lists, in order."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    kinds = {"heading", "table", "thead", "tbody", "tr", "th", "td", "bullet_list", "list_item", "paragraph"}
    assert {token.type.removesuffix("_open").removesuffix("_close") for token in tokens} <= kinds | {"inline"}
    return [text_of(token.children) for token in tokens if token.type == "inline"]


COMMANDS = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">"}
COMMANDS |= {"textbar": "|", "textquotedbl": '"', "textquotesingle": "'", "textasciigrave": "`"}
MATH = {r"\pm": "±", r"^\dagger": "†", r"^\ddagger": "‡", r"\downarrow": "↓", r"\approx": "≈", r"\infty": "∞"}
LIGATURES = {"---": "—", "--": "–", "``": "“", "''": "”", ",,": "„", "<<": "«", ">>": "»", "?`": "¿", "!`": "¡"}
GLYPHS = {
    "'": "’",
    "`": "‘",
    '"': "”",
    "<": "¡",
    ">": "¿",
    "|": "—",
    "~": "\u00a0",
}  # of the encoding that needs no package


def read_latex(text):
    """Cells of the rows that LaTeX would print, without outer blanks."""
    rows, cell, i = [[]], "", 0
    while i < len(text):
        if (found := re.compile(r"\\([A-Za-z]+) *|\\(.)|\$([^$]+)\$", re.S).match(text, i)) and (i := found.end()):
            word, symbol, formula = found.groups()
            if symbol == "\\":
                option = re.compile(r"\s*(\[|\*)").match(text, i)
                assert not option, "an option of the end of a row"
                rows[-1].append(cell)
                rows, cell = [*rows, []], ""
            elif word != "textbf":
                cell += COMMANDS[word] if word else MATH[formula] if formula else {" ": "\0"}.get(symbol, symbol)
        elif found := next((pair for pair in LIGATURES if text.startswith(pair, i)), None):
            cell, i = cell + LIGATURES[found], i + len(found)
        elif text[i] == "&":
            rows[-1].append(cell)
            cell, i = "", i + 1
        else:
            assert text[i] not in "%#^_$\\"
            cell, i = cell + ("" if text[i] in "{}" else GLYPHS.get(text[i], text[i])), i + 1
    rows[-1].append(cell)
    if not rows[-1][-1].strip() and len(rows) > 1:  # what stands behind the last end of a row
        rows.pop()
    return [[re.sub(" +", " ", cell).strip(" \n").replace("\0", " ") for cell in row] for row in rows]


class Page(HTMLParser):
    """The texts of headings and cells of a page, and the names of its elements."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.elements, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        if tag in ("td", "th", "h3"):
            self.texts.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th", "h3")

    def handle_data(self, data):
        if self.inside:
            self.texts[-1] += data


TEMPLATE = _template()


def page_of(table):
    """What the template of the page is given: one table, its title in every other place."""
    given = {"title": table.title, "scale": "demo", "summary": table.title, "choices": choices([table])}
    given |= {"sections": [Section(table.title, [table], [])], "remarks": {table.title: [table.title]}, "sliders": []}
    return {**given, "pictures": {}, "provenance": provenance_block({})}


def table_of(name):
    """A table that has a name in every place, and what its block shows of it."""
    cells = (Cell((Part(name),)), Cell((Part("1.00", 1.0), Part(name))))
    block = Block(name, (name, "other column", name), (Line(name, cells), Line("x", cells)))
    shown = visible(name)
    row = [shown, f"1.00 / {shown}"]
    return Table("t", name, (block,), (name, "note")), [shown, "other column", shown, shown, *row, "x", *row]


@with_examples
@given(name=NAMES)
def test_markdown_reads_back_every_name(name):
    table, cells = table_of(name)
    shown = visible(name)
    assert read_markdown(markdown(table)) == [shown, shown, *cells, shown, "note"]
    bold = Table("t", "t", (Block("", ("a", "b"), (Line("x", (Cell((Part(name, 1.0, "best"),)),)),)),), ())
    assert read_markdown(markdown(bold))[-1] == shown


@with_examples
@given(name=NAMES)
def test_latex_reads_back_every_name(name):
    table, cells = table_of(name)
    assert read_latex(tex(name)) == [[visible(name)]]
    body = re.search(r"\\toprule\n(.*)\\midrule\n(.*)    \\bottomrule", latex(table), re.S)
    assert [cell for part in body.groups() for row in read_latex(part) for cell in row] == cells


@with_examples
@given(name=NAMES)
def test_html_reads_back_every_name(name):
    table, cells = table_of(name)
    page, plain = (Page(TEMPLATE.render(**shown)) for shown in (page_of(table), page_of(table_of("n")[0])))
    start = page.texts.index("other column") - 2
    assert page.texts[start : start + 1 + len(cells)] == [visible(name), *cells]
    assert [tag for tag in page.elements if tag != "wbr"] == plain.elements


@given(name=NAMES)
def test_what_is_written_is_one_line_that_files_hold(name):
    for text in (visible(name), md(name), tex(name)):
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", text)
        assert text.encode().decode() == text
    assert visible(visible(name)) == visible(name)


def test_what_is_readable_stays_readable():
    assert md("PSNR 31.02 ± 0.10 dB (baseline/nafnet_5d/train@s); R&D, +0.50") == (
        "PSNR 31.02 ± 0.10 dB (baseline/nafnet_5d/train@s); R&D, +0.50"
    )
    assert tex("nafnet_5d, 3 %") == r"nafnet\_5d, 3 \%"
    assert visible("Zoë 写真 👩‍🚀 a\u00a0b") == "Zoë 写真 👩‍🚀 a\u00a0b"
    assert visible("a\r\nb\tc\x00\ud800") == "a  b c\\x00\\ud800"


@pytest.mark.parametrize("name", ["$\\frac{$", "a$b$c", "$$"])
def test_figures_take_no_name_for_a_formula(tmp_path, name):
    with open_figure(tmp_path / "f.png", 3, 2) as (_, axes):
        axes[0][0].set_title(name)
    assert (tmp_path / "f.png").stat().st_size > 1000
