"""Builds the site: nbdev's processed notebooks -> one small adapter -> Sphinx (docs/conf.py) -> docs/_build/html.

nbdev runs the cells that its signatures need and leaves out what is hidden; its output is meant for Quarto. The
adapter turns that into what myst-nb reads: Quarto's options become cell tags, signatures become headings with
anchors, and links lead to this site's own pages, relative, so that it can be read from a folder as well.
"""
import ast, os, re, shutil, subprocess, sys
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT/"docs/_build"
PLAIN, PROCESSED, SOURCE, HTML = BUILD/"nbs", ROOT/"_proc", BUILD/"source", BUILD/"html"
LONG = 25  # lines; longer code is folded
SHORT = 20  # lines; an implementation that is no longer stands open and is its own signature
DIRECTIVE = re.compile(r"^#\|[ \t]*([\w-]+)(?:[ \t]*:[ \t]*(.*?))?(?:[ \t].*)?$\n?", flags=re.M)


def page_name(stem):
    "10_source_reconstruction -> source_reconstruction, as nbdev names its pages."
    return re.sub(r"^\d+[a-zA-Z0-9]*_", "", stem.lower())


def settings():
    from nbdev.config import get_config
    return get_config()


# ---- nbdev ----------------------------------------------------------------------------------------------------

def imports_and_more(source):
    "nbdev runs cells that import; one that does more, and is not exported, is shown as it was executed instead."
    try: tree = ast.parse(source)
    except SyntaxError: return False
    has_import = any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(tree))
    return has_import and "exports" not in source and not all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree.body)


def process():
    "nbdev's own processing, of copies in which exported code stays visible below its signature."
    from nbdev.serve import proc_nbs
    shutil.rmtree(PLAIN, ignore_errors=True); PLAIN.mkdir(parents=True)
    for path in sorted((ROOT/"nbs").glob("[!_.]*.ipynb")):
        nb = nbformat.read(path, as_version=4)
        for cell in nb.cells:
            if cell.cell_type != "code": continue
            cell.source = re.sub(r"^#\|\s*exporti?(?=\s*$)", "#| exports", cell.source, flags=re.M)
            if imports_and_more(cell.source): cell.source = f"#| eval: false\n{cell.source}"
        nbformat.write(nb, PLAIN/path.name)
    os.environ.update(HTCV_SCALE="tiny", NO_ALBUMENTATIONS_UPDATE="1")
    os.chdir(ROOT)
    proc_nbs(path=str(PLAIN.relative_to(ROOT)), n_workers=os.cpu_count(), force=True)
    return sorted(PROCESSED.glob("*.ipynb"))


# ---- links ----------------------------------------------------------------------------------------------------

class Links:
    "Where names, notebooks and files are found on this site."
    def __init__(self, books):
        cfg = settings()
        self.site = f"{cfg.doc_host}{cfg.doc_baseurl}/"
        self.blob = f"{cfg.git_url}/blob/{cfg.branch}/"
        self.modules = {f"{cfg.lib_name}.{page_name(m)}": page_name(m) for m in books}
        self.anchors = {page_name(stem): set(documented(nb)) for stem, nb in books.items()}

    def symbol(self, match):
        "nbdev's link to its published site -> this page's anchor, its class's, or at least the page."
        text, page, name = match.groups()
        parts = name.split(".")
        for known in (name, parts[0]):
            if known in self.anchors.get(page, ()): return f"[{text}](#{anchor(page, known)})"
        return f"[{text}]({page}.ipynb)" if page in self.anchors else text

    def line(self, line):
        line = re.sub(rf"\[(`[^`]*`)\]\({re.escape(self.site)}(\w+)\.html#([^)]*)\)", self.symbol, line)
        if line.startswith("#"): line = re.sub(r"\[(`[^`]*`)\]\([^)]*\)", r"\1", line)  # no links in headings
        else: line = re.sub(r"(?<!\[)`([\w.]+)`", self.module, line)
        line = re.sub(r"\]\(([\w-]+)\.ipynb(#[^)]*)?\)", lambda m: f"]({page_name(m[1])}.ipynb{m[2] or ''})", line)
        line = re.sub(r"(\]\(|src=\")\.\./figures/", r"\1figures/", line)
        return re.sub(r"(?<!!)(\[[^\]]*\]\()\.\./", rf"\1{self.blob}", line)

    def module(self, match):
        page = self.modules.get(match[1])
        return f"[`{match[1]}`]({page}.ipynb)" if page else match[0]

    def __call__(self, markdown):
        "All lines; in code blocks, what nbdev made a link of in a comment is a plain name again."
        fenced, lines = False, []
        for line in markdown.split("\n"):
            if line.lstrip().startswith("```"): fenced = not fenced
            lines.append(re.sub(r"\[(`[^`]*`)\]\(http[^)]*\)", r"\1", line) if fenced else self.line(line))
        return "\n".join(lines)


def anchor(page, name): return f"api.{page}.{name}"


# ---- the adapter ----------------------------------------------------------------------------------------------

def joined(text): return text if isinstance(text, str) else "".join(text)


def signature(cell):
    "The Markdown that `show_doc` displayed, or None."
    if cell.cell_type != "code" or not re.search(r"^show_doc\(", cell.source, flags=re.M): return None
    return "\n".join(joined(o.data["text/markdown"]) for o in cell.outputs if "text/markdown" in o.get("data", {}))


def documented(nb):
    "The names under which a notebook's signatures are found: lower case, as nbdev links to them."
    for cell in nb.cells:
        for name in re.findall(r"^#+ (\S+)\s*$", signature(cell) or "", flags=re.M): yield name.lower()


def title_cell(front, original, stem):
    "Title, the notebook's one line on what it is, and where it lives."
    fm = yaml.safe_load(front.strip().strip("-")) or {}
    first = next((c.source for c in original.cells if c.cell_type == "markdown"), "")
    lede = re.search(r"^>\s+(.+)$", first, flags=re.M)
    module = re.search(r"^#\|\s*default_exp\s+(\S+)", "\n".join(c.source for c in original.cells), flags=re.M)
    cfg = settings()
    where = f"[nbs/{stem}.ipynb]({cfg.git_url}/blob/{cfg.branch}/nbs/{stem}.ipynb)"
    if module: where += f" · `{cfg.lib_name}.{module[1]}`"
    parts = [f"# {fm.get('title', stem)}"]
    if lede: parts.append(f'{{.lede}}\n{lede[1]}')
    if stem != "index": parts.append(f"{{.where}}\n{where}")
    return "\n\n".join(parts)


def signature_cell(text, page, level, seen):
    "A heading one level below its section, with the anchor that backticks lead to."
    text = re.sub(r"^---\s*$|^\[source\]\(.*$", "", text, flags=re.M).strip()
    if re.search(r"^def [A-Z]", text, flags=re.M):  # a class, whose signature is that of its __init__
        text = re.sub(r"^def ", "class ", text, count=1, flags=re.M).replace(")->None:", "):", 1)

    def heading(match):
        name = match[1]
        label = "" if name.lower() in seen else f"({anchor(page, name.lower())})=\n"
        seen.add(name.lower())
        return f"{label}{'#'*min(level + 1, 6)} {name}"

    return re.sub(r"^#+ (\S+)\s*$", heading, text, flags=re.M)


def fold(cell, directives, exported, names, short=False, refusal=False):
    "Tags for myst-nb: what is left out, what is folded and what it says on the fold."
    tags, lines = [], cell.source.count("\n") + 1
    if directives.get("echo") == "false": tags.append("remove-input")
    elif exported and not short or refusal or directives.get("code-fold") == "true" or lines > LONG: tags.append("hide-input")
    if directives.get("output") == "false": tags.append("remove-output")
    if "hide-input" in tags:
        only_imports = all(re.match(r"(import|from|#|\s|\)|$)", line) for line in cell.source.splitlines())
        what = ("Source of " + ", ".join(names) if names else "Imports" if only_imports else
                f"Refusals, {lines} lines" if refusal else f"Code, {lines} lines")
        cell.metadata["mystnb"] = {"code_prompt_show": what, "code_prompt_hide": what}
    if tags: cell.metadata["tags"] = tags


def saved_figures(code):
    "The names under which a cell saves its figures: strings in it that are names of files in figures/."
    return [name for name in re.findall(r"['\"]([\w./-]+)['\"]", code) if (ROOT/"figures"/f"{name}.png").exists()]


# ---- captions: what a figure shows, in the chapter's own words ---------------------------------------------------

CAPTION = re.compile(r"^#\|[ \t]*fig-cap[ \t]*:[ \t]*(.+?)[ \t]*$", flags=re.M)  # Quarto's own; one line for each image of a cell
LONGEST = 260  # characters
NEXT = " ‖ "  # between the captions of one cell's images; docs/conf.py deals them out
GREEK = dict(lambda_="λ", sigma="σ", oplus="⊕", times="×", equiv="≡", approx="≈", geq="≥", leq="≤", tau="τ", pm="±", hat="")


def plain(markdown):
    "One line of prose without marks, as a caption and an alternative text need it."
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(markdown.split()))
    def formula(match):
        tex = re.sub(r"\\([a-zA-Z]+)", lambda m: GREEK.get(m[1], GREEK.get(f"{m[1]}_", "")), match[1])
        return re.sub(r"[{}\\]", "", tex)
    text = re.sub(r"\$([^$]+)\$", formula, text)
    return re.sub(r"\*+|`|(?<!\w)_(?=\w)|(?<=\w)_(?!\w)", "", text).strip()


def paragraphs(markdown):
    "Its paragraphs that are prose: no headings, tables, lists, code, images or formulas."
    text = re.sub(r"```.*?```|\$\$.*?\$\$|^:::.*?$", "", markdown, flags=re.S | re.M)
    text = re.sub(r"^#+ .*$", "\n", text, flags=re.M)
    return [part.strip() for part in re.split(r"\n\s*\n", text) if re.match(r"\s*[^\s|>!<-]", part) and not re.match(r"\s*\d+\. ", part)]


def sentences(markdown):
    "The sentences of its prose, without marks."
    for part in paragraphs(markdown):
        for sentence in re.split(r"(?<=[.!?])\s+(?=[\"*A-Z(])", plain(part)):
            if 12 < len(sentence) <= LONGEST and not sentence.endswith(":"): yield sentence


def findings(cell):
    "What a cell tells: the first sentence of each text that it displays."
    for output in cell.get("outputs", []) if cell.cell_type == "code" and signature(cell) is None else []:
        text = joined(output.get("data", {}).get("text/markdown", ""))
        if text and (first := next(sentences(text), None)): yield first


def caption(cells, i):
    "Of the images of a cell: given, or what the cell or the next one tells, or what the prose above says to look at."
    given = CAPTION.findall(cells[i].source)
    if given: return NEXT.join(plain(text.strip("\"'")) for text in given)
    for cell in cells[i:i + 2]:
        if found := next(findings(cell), None): return found
    above = [cell.source for cell in cells[max(i - 6, 0):i] if cell.cell_type == "markdown"]
    for said in (list(sentences(text)) for text in above[::-1]):
        look = next((sentence for sentence in said if sentence.startswith("Look")), None)
        if look or said: return look or said[0]
    headings = [found for cell in cells[:i] if cell.cell_type == "markdown" for found in re.findall(r"^#+ (.*)$", cell.source, flags=re.M)]
    return plain(headings[-1]) if headings else ""


def shows_image(cell):
    return cell.cell_type == "code" and any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {}))


def sharpen(cell):
    "Plots as SVG, where figures/ has them: notebooks hold PNG, which JupyterLab shows before it trusts a notebook."
    names = saved_figures(cell.source)
    pictures = [output.data for output in cell.outputs if "image/png" in output.get("data", {})]
    if len(names) != len(pictures): return  # which is which is not certain
    for name, data in zip(names, pictures):
        drawn = ROOT/"figures"/f"{name}.svg"
        if drawn.exists(): data.pop("image/png"); data["image/svg+xml"] = drawn.read_text(encoding="utf-8")


def sources_below(cells):
    "Each signature with its own part of the exported source below it; nbdev leaves neighbours mixed."
    done, run = [], []
    for cell in [*cells, None]:
        if cell is not None and cell.cell_type == "code" and (is_exported(cell.source) or signature(cell) is not None):
            run.append(cell)
            continue
        shown = [cell for cell in run if signature(cell) is not None]
        for source in [cell for cell in run if signature(cell) is None]:
            own = [cell for cell in shown if defines(source, cell)]
            shown = [cell for cell in shown if not any(cell is one for one in own)]
            done += interleaved(source, sorted(own, key=lambda cell: defines(source, cell).start()))
        done += shown
        if cell is not None: done.append(cell)
        run = []
    return done


def is_exported(source): return '#| code-summary: "Exported source"' in source  # nbdev's own mark


def shown_name(cell): return re.search(r"show_doc\(([\w.]+)", cell.source)[1].split(".")[-1]


def defines(source, shown):
    "Where in an exported cell the thing is defined whose signature another cell shows."
    if signature(shown) is None: return None
    return re.search(rf"^\s*(async\s+)?(def|class)\s+{shown_name(shown)}\b", source.source, flags=re.M)


def interleaved(source, shown):
    "Signature, its code, next signature, its code; a short one is marked, because its code shows the signature too."
    marks = "".join(match[0] for match in DIRECTIVE.finditer(source.source))
    code = DIRECTIVE.sub("", source.source).strip("\n")
    names = [shown_name(cell) for cell in shown]
    tree = ast.parse(code)
    ends = {node.name: node.end_lineno for node in tree.body if hasattr(node, "name")}
    if not shown or any(name not in ends for name in names): return [*shown, source]  # a method inside its class
    lines, done, start = code.split("\n"), [], 0
    for k, (cell, name) in enumerate(zip(shown, names)):
        end = ends[name] if k + 1 < len(shown) else len(lines)
        part = "\n".join(lines[start:end]).strip("\n")
        own = new_code_cell(f"{marks}{part}", outputs=source.outputs if k + 1 == len(shown) else [])
        own["short"] = cell["short"] = part.count("\n") < SHORT
        done += [cell, own]
        start = end
    return done


# ---- refusals: tests of what a function must not take ---------------------------------------------------------

def is_refusal(node):
    "`test_fail(...)`, or a block that expects an exception, or a loop over such."
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call): return getattr(node.value.func, "id", "") == "test_fail"
    if isinstance(node, ast.For): return all(map(is_refusal, node.body))
    if not isinstance(node, ast.With): return False
    return any("ExceptionExpected" in ast.unparse(item.context_expr) for item in node.items) or all(map(is_refusal, node.body))


def split_refusals(code):
    "A cell's code, and the refusals that it ends with, if they take more than a line."
    try: body = ast.parse(code).body
    except SyntaxError: return code, ""
    lines, first = code.split("\n"), len(body)
    while first and is_refusal(body[first - 1]): first -= 1
    while first < len(body) and first and body[first].lineno <= body[first - 1].end_lineno: first += 1  # a; b
    if first == len(body): return code, ""
    start = body[first].lineno - 1
    above = body[first - 1].end_lineno if first else 0
    while start > above and lines[start - 1].lstrip().startswith("#"): start -= 1  # the comment that introduces them
    if len(lines) - start < 2: return code, ""
    return "\n".join(lines[:start]).rstrip(), "\n".join(lines[start:])


def adapt(nb, original, stem, links):
    page, level, seen, names, cells = page_name(stem), 1, set(), [], []
    for i, cell in enumerate(nb.cells):
        if shows_image(cell): cell["caption"] = caption(nb.cells, i)
    for cell in sources_below(nb.cells):
        source = cell.get("source") or ""
        if cell.cell_type == "raw" and source.startswith("---"):
            cells.append(new_markdown_cell(title_cell(source, original, stem)))
        elif cell.cell_type == "markdown":
            text = "\n".join(l for l in source.split("\n") if not l.startswith(":::") and "AUTOGENERATED" not in l)
            headings = re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text, flags=re.S), flags=re.M)
            if headings: level = len(headings[-1])
            if text.strip(): cells.append(new_markdown_cell(links(text)))
        elif signature(cell) is not None:
            text = signature(cell)
            names += re.findall(r"^#+ (\S+)\s*$", text, flags=re.M)
            if cell.get("short"): text = "\n\n".join(re.findall(r"^#+ \S+\s*$", text, flags=re.M))
            cells.append(new_markdown_cell(links(signature_cell(text, page, level, seen))))
        elif cell.cell_type == "code" and source.strip():
            cells += code_cells(cell, names, links)
            names = []
    nb.cells = cells
    for i, cell in enumerate(nb.cells): cell["id"] = f"cell-{i:03d}"
    nb.metadata = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"},
                   "language_info": {"name": "python"}}
    return nb


def code_cells(cell, names, links):
    "A cell as readers see it: without directives, folded where it is long, its refusals in a fold of their own."
    directives, exported = dict(DIRECTIVE.findall(cell.source)), is_exported(cell.source)
    said = cell.pop("caption", "")
    code, short = DIRECTIVE.sub("", cell.source).strip("\n"), cell.pop("short", False)
    if not code.strip(): return []
    sharpen(cell)
    for output in cell.outputs:
        data = output.get("data", {})
        if "text/markdown" in data: data["text/markdown"] = links(joined(data["text/markdown"]))
    hidden = exported or directives.get("echo") == "false" or cell.outputs
    kept, refused = (code, "") if hidden else split_refusals(code)
    cell.source, cell.metadata = kept, {}
    if exported and not names: names = re.findall(r"^(?:def|class) (\w+)", code, flags=re.M)  # private ones have no signature
    fold(cell, directives, exported, names if exported else [], short)
    if said: cell.metadata.setdefault("mystnb", {})["image"] = {"alt": said}
    parts = [cell] if kept.strip() else []
    if refused:
        parts.append(new_code_cell(refused))
        fold(parts[-1], {}, False, [], refusal=True)
    return parts


# ---- contents -------------------------------------------------------------------------------------------------

def toctrees(pages):
    "nbs/sidebar.yml as hidden toctrees: its sections are the captions of the site's table of contents."
    sidebar = yaml.safe_load((ROOT/"nbs/sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    for section in sidebar:
        if isinstance(section, str): continue
        entries = []
        for item in section["contents"] or ():
            name, text = (item["href"], item.get("text")) if isinstance(item, dict) else (item, None)
            page = page_name(Path(name).stem)
            if page in pages: entries.append(f"{text} <{page}>" if text else page)
        if entries: yield "\n".join(["```{toctree}", ":hidden:", f":caption: {section['section']}", "", *entries, "```"])


def main():
    books = {path.stem: nbformat.read(path, as_version=4) for path in process()}
    shutil.rmtree(SOURCE, ignore_errors=True); SOURCE.mkdir(parents=True)
    shutil.rmtree(HTML, ignore_errors=True)
    if (ROOT/"figures").exists(): shutil.copytree(ROOT/"figures", SOURCE/"figures")
    links = Links(books)
    for stem, nb in books.items():
        nb = adapt(nb, nbformat.read(ROOT/"nbs"/f"{stem}.ipynb", as_version=4), stem, links)
        if stem == "index": nb.cells += [new_markdown_cell(toc) for toc in toctrees(links.anchors)]
        nbformat.write(nb, SOURCE/f"{page_name(stem)}.ipynb")
    sphinx = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-E",
              "-d", str(BUILD/"doctrees"), "-c", str(ROOT/"docs"), str(SOURCE), str(HTML)]
    if code := subprocess.run(sphinx).returncode: sys.exit(code)
    (HTML/".nojekyll").touch()
    print(f"{len(books)} pages: {(HTML/'index.html').relative_to(ROOT)}")


if __name__ == "__main__": main()
