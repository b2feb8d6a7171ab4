"""Settings of the documentation. `make docs` builds it."""

import re
from pathlib import Path

from sphinx.ext.autodoc.mock import _MockObject

import offramp

project = "Offramp"
author = "The Offramp maintainers"
version = release = offramp.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "myst_parser", "sphinx_gallery.gen_gallery"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "literal"  # in docstrings, `name` is code
highlight_language = "text"  # shell commands and plain output
nitpicky = True  # a reference that leads nowhere is a warning, and thus an error
nitpick_ignore = [("py:obj", "default_thresholds")]  # named without its module in a docstring

myst_heading_anchors = 4  # anchors as on a code host: choosing.md#which-policy

autosummary_generate = True
autodoc_mock_imports = ["torch", "timm", "transformers", "torchvision", "onnx", "onnxscript", "onnxruntime"]
_MockObject.__or__ = lambda self, _: self  # Tensor | None
autodoc_typehints = "none"  # numpydoc sections describe the types
autodoc_default_options = {"members": True}
numpydoc_show_class_members = False  # autodoc lists the members

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "examples",
    "abort_on_example_error": True,
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "remove_config_comments": True,
    "ignore_repr_types": "matplotlib|displays|tuple",
    "show_memory": False,
    "write_computation_times": False,
    "show_signature": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "Offramp"
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"show_prev_next": True, "secondary_sidebar_items": ["page-toc"]}


def download_files_of_the_repository(app, page, source):
    """Let links out of this folder, for example to the tables of a reference report, download the file."""
    folder = (Path(app.srcdir) / page).parent

    def link(match):
        image, target = match.groups()
        inside = image or "://" in target or (folder / target).resolve().is_relative_to(app.srcdir)
        return match[0] if inside else f"](path:{target})"

    source[0] = re.sub(r"(!\[[^]]*\]\(.*?\))|\]\(([^)\s#]+)\)", link, source[0])


def setup(app):
    app.connect("source-read", download_files_of_the_repository)
