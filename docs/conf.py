"""The settings that Sphinx builds the site with: `make docs`."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

project = "mutualnet_det"
author = "the authors of mutualnet_det"
copyright = "the authors of mutualnet_det. Apache-2.0"

extensions = [
    "generated",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
]

# Pages --------------------------------------------------------------------------------------------
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
# Notebooks keep the outputs of a real run: the site shows them and runs nothing.
nb_execution_mode = "off"
nb_merge_streams = True

# API ----------------------------------------------------------------------------------------------
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True

# Links into the documentation of others need their inventories from the network. A build without it
# must not fail, so only where the variable is set are they fetched.
if os.environ.get("DOCS_INVENTORIES"):
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "detectron2": ("https://detectron2.readthedocs.io/en/latest", None),
    }

# Look ---------------------------------------------------------------------------------------------
html_theme = "furo"
html_title = "mutualnet_det"
html_theme_options = {"navigation_with_keys": True}
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["site.css"]
