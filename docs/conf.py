"""The documentation, made by Sphinx.

Sphinx rather than mkdocs: our docstrings carry Sphinx's cross references, which ``-n -W`` checks one by one, and
napoleon reads their Google sections; nothing of our own is needed between the two.
"""

import re

from sphinx.application import Sphinx

project = "SemShare"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.mermaid",
]
html_theme = "furo"
html_title = "SemShare"
exclude_patterns = ["_build", "agents-table.md"]  # included in agents.md

myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # the README begins a page of its own

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}
python_use_unqualified_type_names = True
napoleon_use_ivar = True
default_role = "code"

# Types of other libraries, and those that only type checkers meet, are named but not linked.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|transformers|numpy|np|pydantic|langchain_core|llama_index\w*|opentelemetry|matplotlib)\b.*"),
    (
        r"py:.*",
        r"(abc|collections|typing|typing_extensions|types|threading|datetime|uuid|enum|annotated_types|dict)\b.*",
    ),
    (r"py:.*", r"os\.PathLike|pathlib\.Path"),
    (
        r"py:.*",
        r"PreTrained\w+|Pair|Blobs|semshare_core\.slots\.C|semshare_core\.match\.plan\.T|semshare_core\.config\.Settings|semshare_core\.model\.lock\.\w+|semshare_core\.pool\.pool\.ReferencePool|semshare_core\.prefill\.selective\.SelectivePrefill|semshare_integrations\.\w+\.(source|fields)\.\w+|semshare_integrations\.serving\.(metrics|exchange)\.\w+",
    ),
]


def link_files(app: object, path: object, page: str, text: list[str]) -> None:
    """The README's links to files of the repository become downloads: they are no pages of the documentation."""
    text[0] = re.sub(r"\]\(([A-Z]+\.(?:md|cff))\)", r"](path:../\1)", text[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("include-read", link_files)
