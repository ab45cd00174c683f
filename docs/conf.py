"Sphinx configuration. scripts/build_docs.py prepares docs/_build/source and calls Sphinx with this."
import re
from configparser import ConfigParser
from pathlib import Path

from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)
ini = ConfigParser(delimiters=["="])
ini.read(Path(__file__).parents[1]/"settings.ini", encoding="utf-8")
settings = ini["DEFAULT"]

project = settings["title"]
author = settings["author"]
copyright = settings["copyright"]
release = settings["version"]
language = "en"

extensions = ["myst_nb"]
root_doc = "index"
exclude_patterns = ["**/.*"]

# ---- notebooks: shown as they were executed --------------------------------------------------------------------
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
myst_update_mathjax = False
html_math_renderer = "mathml"

# `sphinx-build -W` turns every warning into an error but these:
suppress_warnings = [
    "mystnb.unknown_mime_type",  # a widget's live form has no place on a page without a kernel
    "myst.header",  # a section may open with its function, one level deeper than its prose
]

# ---- looks -----------------------------------------------------------------------------------------------------
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
pygments_style = "github-light-high-contrast"  # at least 4.5:1; comments document the arguments
pygments_dark_style = "github-dark-high-contrast"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2f5d9b", "color-brand-content": "#2f5d9b", "color-brand-visited": "#2f5d9b"},
    "dark_css_variables": {"color-brand-primary": "#8db4e8", "color-brand-content": "#8db4e8", "color-brand-visited": "#8db4e8"},
    "top_of_page_buttons": [],
}


# ---- maths: MathML, which browsers draw by themselves, so that the site needs nothing from elsewhere ------------
# A stretchy bracket is laid out as wide as its largest form, and one that carries an exponent does not stretch at all:
# \big is written plain, and so is \left … \right around what is no taller than a line.
BIG = re.compile(r'<mo stretchy="true" fence="true" minsize="1\.2em" maxsize="1\.2em">')
LOW_PAIR = re.compile(r'<mo stretchy="true" fence="true" form="prefix">([^<]*</mo>(?:(?!<mo stretchy="true"|<mfrac|<munder|<mtable).)*)'
                      r'<mo stretchy="true" fence="true" form="postfix">', flags=re.S)


def with_plain_brackets(made):
    return LOW_PAIR.sub(r'<mo stretchy="false">\1<mo stretchy="false">', BIG.sub('<mo stretchy="false">', made))


def known(tex):
    "The same formula in commands that latex2mathml knows: it takes a double bar after \\big for two characters."
    for unknown in ("aligned", "gathered"): tex = tex.replace(f"{{{unknown}}}", "{split}")
    return re.sub(r"(\\[bB]ig+[lr]?)\s*(?:\\\||\\[lr]?Vert(?![a-zA-Z]))", r"\1‖", tex)


def mathml(node, display):
    tex = node.astext()
    made = with_plain_brackets(convert(known(tex), display=display))
    if re.search(r"<m[io][^>]*>\\", made) or "<mi>&</mi>" in made: logger.warning("beyond latex2mathml: %s", tex, location=node)
    return made


def visit_inline(self, node):
    self.body.append(f'<span class="math">{mathml(node, "inline")}</span>')
    raise SkipNode


def visit_block(self, node):
    self.body.append(self.starttag(node, "div", CLASS="math") + mathml(node, "block") + "</div>")
    raise SkipNode


# ---- images: numbered, and each a link to its full size ---------------------------------------------------------
IMAGE = re.compile(r'(<a [^>]*>\s*)?(<img\b[^>]*?\bsrc="((?:_images|figures)/[^"]+)"[^>]*>)(\s*</a>)?')


def with_captions(body):
    "Every image of a page as a figure with its number, what it shows (its alternative text) and a link to all of it."
    count, before, place = 0, None, 0

    def figure(match):
        nonlocal count, before, place
        opened, image, address, _ = match.groups()
        if opened and "image-reference" not in opened: return match[0]  # that class is Sphinx's own link to a scaled image
        count += 1
        alt = re.search(r'\balt="([^"]*)"', image)[1] if "alt=" in image else ""
        place, before = place + 1 if alt == before else 0, alt
        texts = alt.split(" ‖ ")  # one for each image of a cell
        what = texts[min(place, len(texts) - 1)]
        if alt: image = image.replace(f'alt="{alt}"', f'alt="{what}"')
        what = "" if re.match(r"\S+/\S+\.\w+$", what) else what  # a path says nothing
        what = f": {what}".removesuffix(".") if what else ""
        return (f'<span class="figure" role="figure"><a class="full-size" href="{address}" title="full size">{image}</a>'
                f'<span class="caption">Figure {count}{what} · <a href="{address}">full size</a></span></span>')

    return IMAGE.sub(figure, body)


def caption_images(app, pagename, templatename, context, doctree):
    if context.get("body"): context["body"] = with_captions(context["body"])


def setup(app):
    app.connect("html-page-context", caption_images)
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
