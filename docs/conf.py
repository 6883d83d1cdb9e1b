"""Settings of the documentation: `make docs` builds it with Sphinx, MyST and the theme furo."""

import re
from importlib.metadata import version as installed_version

project = "Streamward"
author = "The Streamward authors"
copyright = "The Streamward authors, Apache-2.0"
release = version = installed_version("streamward")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_class_signature = "separated"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

html_theme = "furo"
html_title = f"Streamward {release}"
html_extra_path = ["llms.txt"]
html_show_sourcelink = False


def link_files_of_the_repository(app, docname, source):
    """Turn links to files outside `docs/` into downloads, since they are no pages of the site."""
    source[0] = re.sub(r"\[([^\]]+)\]\(((?:\.\./){2}[^)#]+)\)", r"{download}`\1 <\2>`", source[0])


def setup(app):
    """Register the hooks of this configuration."""
    app.connect("source-read", link_files_of_the_repository)
