"""Writes README.md from nbs/index.ipynb: what the notebook shows, without hidden cells and nbdev's directives."""
import re, sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
DIRECTIVE = re.compile(r"^#\|\s*(.+?)\s*$\n?", flags=re.M)


def directives(cell):
    return {re.sub(r"\s*:\s*", ": ", d) for d in DIRECTIVE.findall(cell.source)} if cell.cell_type == "code" else set()


def for_readers(nb):
    "Without hidden cells; code that says `#| echo: false` leaves only its output."
    nb.cells = [cell for cell in nb.cells if not {"hide", "default_exp"} & {d.split()[0] for d in directives(cell)}]
    for cell in nb.cells:
        if cell.cell_type != "code": continue
        if "echo: false" in directives(cell): cell.metadata["transient"] = {"remove_source": True}
        cell.source = DIRECTIVE.sub("", cell.source).strip()
    nb.metadata["language_info"] = {"name": "python"}
    first = nb.cells[0]
    first.source = re.sub(r"^- \w+: .*\n?", "", first.source, flags=re.M).strip()  # front matter
    return nb


def from_root(markdown):
    "Paths as seen from the repository root instead of from nbs/."
    markdown = re.sub(r"(\]\(|src=\")\.\./", r"\1", markdown)
    return re.sub(r"(\]\()(?=[\w-]+\.ipynb)", r"\1nbs/", markdown)


def text():
    nb = for_readers(nbformat.read(ROOT/"nbs/index.ipynb", as_version=4))
    markdown, extras = MarkdownExporter(exclude_input_prompt=True, exclude_output_prompt=True).from_notebook_node(nb)
    if extras["outputs"]: sys.exit("index.ipynb embeds pictures; show files of figures/ through Markdown instead")
    note = "<!-- Written by `make readme` from nbs/index.ipynb: edit that. -->\n"
    return note + re.sub(r"\n{3,}", "\n\n", from_root(markdown)).strip() + "\n"


if __name__ == "__main__":
    (ROOT/"README.md").write_text(text(), encoding="utf-8")
    print("README.md")
