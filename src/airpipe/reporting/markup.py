"""Text in Markdown, LaTeX and HTML: whatever a name is made of, it reads as that name and as no markup.

One function per format. All write first what no line of text can hold (`visible`).
"""

import re
import unicodedata


def visible(text: str) -> str:
    r"""Write a text on one line of characters that files can hold.

    Line breaks and tabs become blanks; control characters, halves of surrogate pairs and noncharacters become their
    number, such as \x00.
    """
    if text.isprintable():  # embedded pictures are millions of such characters
        return text
    return "".join(char if char.isprintable() else _visible(char) for char in text)


def _visible(char: str) -> str:
    kind, number = unicodedata.category(char), ord(char)
    if char in "\t\n\v\f\r\x85" or kind in ("Zl", "Zp"):
        return " "
    hidden = kind in ("Cc", "Cs") or (kind == "Cn" and (number & 0xFFFE == 0xFFFE or 0xFDD0 <= number <= 0xFDEF))
    return ascii(char)[1:-1] if hidden else char


MD_INLINE = re.compile(r"[\\|`<\[*~$#]|&(?=#?\w+;)|:(?=//)|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown (CommonMark; GitHub's tables, math, strikethrough and addresses) reads as markup anywhere: underscores
only at the edge of a word, ampersands only before what looks like an entity."""
MD_BLOCK = re.compile(r"^(\d{1,9}(?=[.)](\s|$))|(?=>|[-+](\s|$)|[-=]+\s*$))([.)>+=-])")
"""What it reads as a list, a quote, a rule or a heading at the beginning of a line."""


def md(text: str) -> str:
    """Escape a text for Markdown, for a cell of a table, a heading or an item of a list."""
    text = visible(text)
    stripped = text.strip()
    if not stripped:
        return _entities(text)
    start = text.index(stripped[0])
    before, after = text[:start], text[start + len(stripped) :]
    escaped = MD_BLOCK.sub(r"\1\\\4", MD_INLINE.sub(r"\\\g<0>", stripped))
    return _entities(before) + escaped + _entities(after)


def _entities(blanks: str) -> str:
    """Blanks at the edges as entities, which Markdown keeps."""
    return "".join(f"&#{ord(char)};" for char in blanks)


TEX = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "\\textquotedbl{}",
    "'": "\\textquotesingle{}",
    "`": "\\textasciigrave{}",
    "±": "$\\pm$",
    "†": "$^\\dagger$",
    "‡": "$^\\ddagger$",
    "–": "--",
    "↓": "$\\downarrow$",
    "≈": "$\\approx$",
    "∞": "$\\infty$",
}
"""How LaTeX writes the characters that it reads as commands, prints as others, or lacks."""
TEX_PAIRS = re.compile(r"(?<=[-–])(?=[-–])|(?<=,)(?=,)")
"""Places between characters that LaTeX would print as one other character."""
TEX_BLANKS = re.compile(r"^ | $|(?<= ) ")
"""Blanks that LaTeX would swallow: at the edges, and behind another one."""


def tex(text: str) -> str:
    """Escape a text for LaTeX (font encoding T1; packages amssymb and, before 2020, textcomp)."""
    blanks = TEX_BLANKS.sub("\0", visible(text))
    apart = TEX_PAIRS.sub("\1", blanks)
    return "".join({"\0": "\\ ", "\1": "{}"}.get(char) or TEX.get(char, char) for char in apart)
