"""The docs site: `make docs`. Its source is the whole repository, so that a link means the same here and on GitHub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ackd

project = "ACKD"
author = "ACKD developers"
version = release = ackd.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
root_doc = "docs/index"
exclude_patterns = [".git", ".venv", "build", "runs"]
include_patterns = ["docs/*.md", "docs/systems/*.md", "benchmarks/results/*.md", "CONTRIBUTING.md", "CHANGELOG.md"]
highlight_language = "none"  # of blocks that do not say theirs: commands

myst_heading_anchors = 4

default_role = "code"  # docstrings have single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 96
autodoc_preserve_defaults = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"ACKD {release}"
html_show_sourcelink = False
html_show_copyright = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}


def as_block(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Shows what stands under `Example:` as code; what a property is stays one sentence."""
    if what in ("attribute", "property") and lines:
        lines[0] = lines[0].replace(": ", ", ", 1)  # napoleon would take what is before it for a type
    for place, line in enumerate(lines):
        if line == "Example:":
            inside = [re.sub(r"^(\s*)", r"\1    ", one) if one.strip() else one for one in lines[place + 1 :]]
            lines[place:] = [".. rubric:: Example", "", ".. code-block:: python", "", *inside]
            return


def first_page(app: Any, problem: Exception | None) -> None:
    """The site's address leads to its first page."""
    if problem is None and app.builder.name == "html":
        text = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html"><title>ACKD</title>\n'
        (Path(app.outdir) / "index.html").write_text(text, encoding="utf-8")


def setup(app: Any) -> None:
    """Both of them."""
    app.connect("autodoc-process-docstring", as_block, priority=400)  # before napoleon
    app.connect("build-finished", first_page)
