"""Settings of Sphinx: MyST pages beside this file, the API reference from the docstrings; `make docs` builds them."""

import mcl_hf

project = "mcl_hf"
author = "The mcl_hf authors"
project_copyright = "The mcl_hf authors, Apache-2.0"
release = version = mcl_hf.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
nb_execution_mode = "off"  # a notebook is shown as it was run
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
exclude_patterns = ["build"]
suppress_warnings = ["ref.python"]  # a name that two modules define, in a type of a signature

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Docstrings are written with single backticks: read them as code.
default_role = "code"

html_theme = "furo"
html_title = f"mcl_hf {version}"
html_static_path: list[str] = []
