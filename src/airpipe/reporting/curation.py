"""The report of a curation: what each filter removed, with sample pictures, as one HTML file."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from airpipe.curation.listing import Line
from airpipe.curation.opening import Key, Opener, open_picture
from airpipe.pixels import Rgb8
from airpipe.provenance import write_text
from airpipe.settings.curation import PictureScoring

SIDE = 160
"""Longer side of a sample picture in pixels."""
QUALITY = 80
"""JPEG quality of sample pictures."""
WORDS = {
    "unreadable": "cannot be read",
    "leak": "shows an image of a test",
    "patches": "no patch is kept: too small, or too flat",
    "duplicate": "shows the same as a better picture",
}
STYLE = (
    "body{font:15px/1.4 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
    "td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ccc}td.n{text-align:right}"
    "figure{display:inline-block;margin:.5em;width:170px;vertical-align:top;overflow-wrap:anywhere}"
    "figcaption{font-size:12px}img{max-width:160px}"
)


def write_report(name: str, facts: Mapping[str, Any], opener: Opener, output: Path) -> None:
    """Write the report.

    Args:
        name: name of the data set.
        facts: what `airpipe.curation.choosing.choose` returned.
        opener: opener of the pictures, entered.
        output: the HTML file; it needs no other.

    Raises:
        AirpipeError: the file cannot be written, or a source is not here.
    """
    largest = PictureScoring().largest
    samples = _samples(facts["examples"], opener, largest)
    lines = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>Curation of {html.escape(name)}</title><style>{STYLE}</style>",
        f"<h1>Curation of {html.escape(name)}</h1>",
        f"<p>{facts['chosen']:,} of {facts['pictures']:,} pictures are kept, with {facts['patches']:,} patches.",
        "<table><tr><th>filter<th>keeps<th>removes<th>alone</tr>",
        *(_row(reason, facts) for reason in facts["removed"]),
        "</table><p>A picture may fail several filters; <i>alone</i> counts those that no other one removes.",
    ]
    for reason, rows in facts["examples"].items():
        lines += [f"<h2>{html.escape(reason)}</h2>", *(_figure(reason, row, samples) for row in rows)]
    write_text(output, "\n".join([*lines, "</html>\n"]))


def keeps(reason: str, facts: Mapping[str, Any]) -> str:
    """Say in words what a filter keeps, or why it removes.

    Args:
        reason: name of the filter.
        facts: what `airpipe.curation.choosing.choose` returned.
    """
    bound = facts["bounds"].get(reason)
    if bound is None:
        return WORDS[reason]
    words = {"least": "from", "most": "to"}
    return " ".join(f"{word} {bound[side]:.6g}" for side, word in words.items() if bound[side] is not None)


def _row(reason: str, facts: Mapping[str, Any]) -> str:
    removed, alone = facts["removed"][reason], facts["removed_alone"].get(reason, 0)
    words = html.escape(keeps(reason, facts))
    return f"<tr><td>{html.escape(reason)}<td>{words}<td class=n>{removed:,}<td class=n>{alone:,}</tr>"


def _samples(examples: Mapping[str, Sequence[Mapping[str, str]]], opener: Opener, largest: int) -> dict[Key, str]:
    """Small pictures in base64, each read once; those that could not be read are left out."""
    readable = [row for group in examples.values() for row in group if not row["problem"]]
    rows = {Key(int(row["line"]), int(row["member"])): row for row in readable}
    lines = {key.line: Line(key.line, row["source"], row["path"]) for key, row in rows.items()}
    samples = {}
    for number in sorted(lines):
        for found in opener.find(lines[number], rows.__contains__):
            opened = open_picture(found, "", largest)
            if not isinstance(opened, str):
                samples[found.key] = _small(opened.pixels)
    return samples


def _small(pixels: Rgb8) -> str:
    height, width = pixels.shape[:2]
    factor = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return base64.b64encode(jpeg.tobytes()).decode()


def _figure(reason: str, row: Mapping[str, str], samples: Mapping[Key, str]) -> str:
    key = Key(int(row["line"]), int(row["member"]))
    shown = html.escape("/".join(filter(None, (row["source"], row["path"], row["name"]))))
    notes = {"unreadable": row["problem"], "leak": row["leak"], "duplicate": f"like {row['twin']}"}
    note = html.escape(notes.get(reason) or (f"{reason} {row[reason] or 'unknown'}" if reason in row else ""))
    image = f'<img alt="{shown}" src="data:image/jpeg;base64,{samples[key]}">' if key in samples else ""
    return f"<figure>{image}<figcaption>{shown}<br>{note}</figcaption></figure>"
