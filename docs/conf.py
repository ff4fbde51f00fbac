"""How Sphinx builds these pages: `sphinx-build -W docs docs/_build`."""

project = "llama-token-tracker"
author = "The llama-token-tracker authors"
copyright = "2026, the llama-token-tracker authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

# Docstrings are written as LlamaIndex writes them: single backticks are code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_custom_sections = ["Source"]

html_theme = "furo"
html_title = "llama-token-tracker"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
# What a block prints has no button.
copybutton_selector = "div[class*='highlight-']:not(.highlight-text) pre"


def keep_colons(_app, what, _name, _found, _options, lines):
    """Put an empty comment in front: Napoleon takes what stands before a first colon for a type."""
    if what in {"attribute", "data", "property"}:
        lines[:0] = ["..", ""]


def setup(app):
    """Call it before Napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
