"""A report as one self-contained HTML page: no scripts, no links, every text escaped."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #5c5c5c; --paper: #fafafa; --line: #dcdcdc; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --soft: #a3a3a3; --paper: #181818; --line: #3a3a3a; }
  img { filter: brightness(.92); }
}
body { max-width: 58rem; margin: 0 auto; padding: 1rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1, h2, p, figure { max-width: 44rem; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
p { margin: .4rem 0; } .note { border-left: 3px solid var(--line); padding-left: .8rem; }
figure { margin: 0; } figcaption { color: var(--soft); margin-bottom: .5rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; } td { max-width: 40rem; overflow-wrap: break-word; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 400; white-space: nowrap; } .figure { white-space: nowrap; }
summary { cursor: pointer; font-size: 1.15rem; font-weight: 600; margin-top: 2.2rem; }
"""


BREAKS = r"(?<=[,+/_])(?=[\w.-])"  # possible line breaks in a name


@dataclass(frozen=True)
class Picture:
    """A PNG with its caption and alternative text."""

    name: str
    title: str
    caption: str
    alt: str
    content: bytes


@dataclass(frozen=True)
class Table:
    """A heading and rows of text; `header` may be empty. A folded table opens at a click."""

    title: str
    rows: Sequence[Sequence[str]]
    header: Sequence[str] = ()
    folded: bool = False


def page(title: str, notes: Sequence[str], facts: Table, pictures: Sequence[Picture], tables: Sequence[Table]) -> str:
    """The HTML page: title, notes, results, pictures and tables."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="note">{escape(note)}</p>' for note in notes),
        _table(facts),
        *map(_picture, pictures),
        *map(_table, tables),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _picture(picture: Picture) -> str:
    width, height = struct.unpack(">II", picture.content[16:24])  # size of the PNG, drawn with two dots per pixel
    source = base64.b64encode(picture.content).decode()
    return (
        f"<figure>\n<h2>{escape(picture.title)}</h2>\n<figcaption>{escape(picture.caption)}</figcaption>\n"
        f'<img alt="{escape(picture.alt)}" width="{width // 2}" height="{height // 2}" '
        f'src="data:image/png;base64,{source}">\n</figure>'
    )


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    body = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(map(_cell, rest)) + "</tr>" for first, *rest in table.rows
    )
    content = (
        f'<div class="wide"><table>{f"<thead><tr>{head}</tr></thead>" if head else ""}'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )
    if table.folded:
        return f"<details><summary>{escape(table.title)}</summary>\n{content}\n</details>"
    return f"<h2>{escape(table.title)}</h2>\n{content}"


def _cell(text: str) -> str:
    """A table cell: texts that begin with a digit stay on one line; names break only after , + / and _."""
    if text[:1].isdigit() and len(text) < 32:
        return f'<td class="figure">{escape(text)}</td>'
    return f"<td>{re.sub(BREAKS, '<wbr>', escape(text))}</td>"
