"""How the documentation is built: everything from this checkout, nothing from the network."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

import depprobe  # noqa: E402

project = "depprobe"
author = "The depprobe developers"
copyright = author
version = release = depprobe.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "house_docstrings",
    "numpydoc",
    "myst_parser",
    "mathml",
    "registry_pages",
    "bibliography",
    "schema_page",
    "house_picture",
    "claims_page",
    "study_gallery",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "generated/study_scripts"]
templates_path = ["_templates"]
nitpicky = True

myst_enable_extensions = ["dollarmath", "amsmath", "attrs_block", "colon_fence"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": ["generated/study_scripts"],
    "gallery_dirs": ["generated/studies"],
    # the pictures are drawn by study_gallery
    "filename_pattern": "(?!)",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "remove_config_comments": True,
    "thumbnail_size": (640, 400),
    "within_subsection_order": "FileNameSortKey",
}

html_theme = "pydata_sphinx_theme"
html_title = f"depprobe {release}"
html_static_path = ["_static"]
html_css_files = ["depprobe.css"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
html_copy_source = False
html_show_sourcelink = False
# pages without others below them have nothing to list at their left
ALONE = ("tutorial", "theory", "generated/claims", "verification", "trust", "performance", "how-it-is-built")
ALONE += ("own-model", "trained-models", "checkpoint-tutorial")
html_sidebars: dict[str, list[str]] = {page: [] for page in ALONE}
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "header_links_before_dropdown": 8,
    "navbar_align": "left",
}
