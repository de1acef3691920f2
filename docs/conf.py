"""Settings of Sphinx for `make docs`: the repository's Markdown files as they are, README.md first.

Every link to a file or a heading has to lead somewhere: `make lint` builds with warnings as errors.
What belongs to the site alone, the order of its pages, is appended to the pages while they are
read, so that the files themselves stay plain Markdown.
"""

from sphinx.application import Sphinx

project = "spreadflow"
html_title = "spreadflow"
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
root_doc = "README"
extensions = ["myst_parser"]
myst_heading_anchors = 4
highlight_language = "text"

DECISIONS = "docs/decisions/README"
"""The page above the decisions, which are listed by their numbers."""

PARTS = {
    "To use": [
        "Runs and trials <config/README>",
        "Keys <docs/config>",
        "docs/files",
        "docs/images",
        "docs/interop",
        "docs/summaries",
        "docs/faults",
        "docs/doctor",
        "docs/correlate",
        "docs/own-calculation",
        "docs/callbacks",
        "docs/diffbragg",
        "docs/facilities",
        "docs/devices",
        "profiles/README",
        "docs/commands",
        "containers/README",
    ],
    "To understand": [
        "docs/physics",
        "docs/status",
        "docs/spread",
        "docs/performance",
        "docs/scaling",
        "benchmarks/README",
    ],
    "To develop": ["docs/architecture", DECISIONS, "CONTRIBUTING", "CHANGELOG"],
}
"""The pages of the site by part, in the order of the table of contents."""

include_patterns = ["*.md", "*/README.md", "docs/**.md"]
exclude_patterns = [".*", "src", "tests", "workflow", "results", "data", "site"]


def toctree(pages: list[str], caption: str = "") -> str:
    """Return the directive, unseen on the page itself, that lists pages in the contents."""
    title = f":caption: {caption}\n" if caption else ""
    return f"\n\n```{{toctree}}\n:hidden:\n:glob:\n{title}\n" + "\n".join(pages) + "\n```\n"


def with_contents(_app: Sphinx, page: str, source: list[str]) -> None:
    """Append the table of contents to the text of a page that has other pages below it."""
    if page == root_doc:
        source[0] += "".join(toctree(pages, part) for part, pages in PARTS.items())
    elif page == DECISIONS:
        source[0] += toctree(["00*"])


def setup(app: Sphinx) -> None:
    """Register the handler; Sphinx calls this function."""
    app.connect("source-read", with_contents)
