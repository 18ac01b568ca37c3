"""How ``make docs`` builds its pages: README.md in front, those of this folder, and a reference.

The reference is made of docstrings and of the command line's own help; nothing is kept by hand.
"""

import sys
from pathlib import Path

# A checkout need not be installed, and `generating` lies beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pitome_fx

project = "pitome-fx"
version = release = pitome_fx.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "generating.command_line",
    "generating.links",
    "generating.names",
]
root_doc = "index"
highlight_language = "none"
# Dashes alone: N' is no quotation.
smartquotes_action = "D"
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 80

napoleon_numpy_docstring = False
# "args, kwargs: inputs" is one entry about two: as fields Sphinx would take one for a type.
napoleon_use_param = False
napoleon_custom_sections = [("Attributes", "params_style")]

html_theme = "furo"
html_title = f"pitome-fx {version}"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
