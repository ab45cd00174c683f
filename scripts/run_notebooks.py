"""Runs the notebooks in order and keeps them clean.

    run_notebooks.py                 run all of them, `index` last
    run_notebooks.py 01 30           run those whose names start so
    run_notebooks.py --clean         clean without running
    run_notebooks.py --check         change nothing; fail where a notebook is not clean or was not run, or
                                     where code changed after the outputs below it were made

An execution leaves hashes of the code that it ran in the notebook's metadata (`executed`): the check compares
them. They are of syntax trees, so comments, line breaks and docstrings do not count. A notebook that was executed before
there were hashes has none and passes.

At the default scale (HTCV_SCALE=cpu) notebooks are executed in place. At any other the executed copies go to
`scratch/<scale>/nbs/`, because what is committed is what the default scale shows.
"""
import argparse, ast, hashlib, os, re, sys, threading, time
from difflib import SequenceMatcher
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbdev.clean import clean_nb
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/"nbs"
SHOWS = {"print", "display", "show_table", "save_figure"}  # calls that leave an output behind
EXECUTED = "executed"  # the key of the hashes in a notebook's metadata; settings.ini allows it, so that nbdev_clean keeps it
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def notebooks(prefixes=()):
    "All notebooks in the order in which they run: by number, `index` last."
    names = sorted(NBS.glob("[!_.]*.ipynb"), key=lambda p: (p.stem == "index", p.name))
    return [p for p in names if not prefixes or p.stem.startswith(tuple(prefixes))]


# ---- clean ----------------------------------------------------------------------------------------------------

def is_widget(output):
    return any("widget" in mime for mime in output.get("data", {}))


def last_state(text):
    "A progress line that rewrote itself, as the terminal would finally show it."
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def clean_outputs(outputs):
    "No warnings, no widgets (their ids are random), no sizes of nothing; neighbouring prints joined."
    kept = []
    for output in outputs:
        if is_widget(output) or (output.output_type == "stream" and output.name == "stderr"): continue
        if output.output_type == "stream":
            if kept and kept[-1].output_type == "stream": kept[-1].text += output.text; continue
        if "metadata" in output:  # the size that a picture was displayed at is the one thing worth keeping
            output.metadata = {mime: value for mime, value in output.metadata.items() if mime.startswith("image/")}
        kept.append(output)
    for output in kept:
        if output.output_type == "stream": output.text = last_state(ANSI.sub("", output.text))
    return kept


def clean(nb):
    "What `nbdev_clean` does, and then the outputs."
    for cell in nb.cells:
        if cell.cell_type == "code": cell.outputs = clean_outputs(cell.outputs)
    nb.metadata.pop("widgets", None)
    clean_nb(nb, allowed_metadata_keys=[EXECUTED])
    return nb


def as_text(nb):
    return nbformat.writes(nb).rstrip("\n") + "\n"


def write(path, nb):
    "All or nothing: a notebook is never left half written."
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(as_text(nb), encoding="utf-8")
    draft.replace(path)


# ---- what was executed ----------------------------------------------------------------------------------------

def code_only(source):
    "A cell's code as its syntax tree, without comments, line breaks and docstrings; as it is, where it is not Python."
    try: tree = ast.parse(source)
    except SyntaxError: return source
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None: node.body[0].value.value = ""
    return ast.dump(tree)


def hashes(nb):
    "One short hash for each code cell, in order."
    cells = (cell for cell in nb.cells if cell.cell_type == "code")
    return [hashlib.sha256(code_only(cell.source).encode()).hexdigest()[:8] for cell in cells]


def remember(nb):
    "Stores what was executed, as one line, so that it takes one line of a diff."
    nb.metadata[EXECUTED] = " ".join(hashes(nb))
    return nb


def stale(nb):
    "The cells whose code is not what made the notebook's outputs, as text; nothing where no hashes are stored."
    if EXECUTED not in nb.metadata: return
    before, now = nb.metadata[EXECUTED].split(), hashes(nb)
    places = [i for i, cell in enumerate(nb.cells) if cell.cell_type == "code"]
    for tag, a, b, c, d in SequenceMatcher(None, before, now, autojunk=False).get_opcodes():
        if tag == "delete": yield f"{b - a} cells were removed before cell {places[c] if c < len(places) else len(nb.cells)}"
        elif tag != "equal": yield from (f"cell {places[i]} changed" for i in range(c, d))


# ---- check ----------------------------------------------------------------------------------------------------

def shows_something(source):
    "True if a line at the top of this cell prints or displays."
    try: tree = ast.parse(source)
    except SyntaxError: return False  # magics
    calls = (n.value for n in tree.body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call))
    return any(getattr(call.func, "id", None) in SHOWS for call in calls)


def faults(path):
    "What is wrong with a committed notebook, as lines of text."
    text = path.read_text(encoding="utf-8")
    nb = nbformat.reads(text, as_version=4)
    for i, cell in enumerate(nb.cells):
        if cell.cell_type != "code": continue
        if any(o.output_type == "error" for o in cell.outputs): yield f"cell {i} stored an error"
        skipped = re.search(r"^#\|\s*eval:\s*false", cell.source, flags=re.M)
        if shows_something(cell.source) and not cell.outputs and not skipped: yield f"cell {i} was not executed"
    changed = ", ".join(stale(nb))
    if changed: yield f"its outputs were made by other code ({changed}): `run_notebooks.py {path.stem.split('_')[0]}`"
    if as_text(clean(nb)) != text: yield "is not clean: `make clean-notebooks`"


def check(paths):
    found = [f"{path.relative_to(ROOT)}: {fault}" for path in paths for fault in faults(path)]
    print("\n".join(found) if found else f"{len(paths)} notebooks are clean and executed")
    return 1 if found else 0


# ---- run ------------------------------------------------------------------------------------------------------

class Progress:
    "One bar over all cells, with the notebook's name and a clock that also moves during long cells."
    def __init__(self, total):
        self.bar = tqdm(total=total, unit="cell", disable=None, dynamic_ncols=True, smoothing=0,
                        bar_format="{desc:<26} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} cells, {elapsed}")
        self.done = threading.Event()
        threading.Thread(target=self.tick, daemon=True).start()

    def tick(self):
        while not self.done.wait(1): self.bar.refresh()

    def say(self, line): self.bar.write(line) if not self.bar.disable else print(line, flush=True)

    def close(self): self.done.set(); self.bar.close()


def explain(path, error, cell):
    "The cell that failed and its traceback, without colours."
    text = ANSI.sub("", str(error))
    return f"\n{'='*80}\n{path.relative_to(ROOT)} failed in cell {cell}; the file was left as it was\n\n{text}\n"


def run(paths):
    scale = os.environ.get("HTCV_SCALE") or "cpu"
    target = NBS if scale == "cpu" else ROOT/"scratch"/scale/"nbs"
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ.update(PYTHONHASHSEED="0", NO_ALBUMENTATIONS_UPDATE="1")
    loaded = [(path, nbformat.read(path, as_version=4)) for path in paths]
    progress = Progress(sum(len(nb.cells) for _, nb in loaded))
    began = time.time()
    progress.say(f"{len(paths)} notebooks at scale {scale}")
    for path, nb in loaded:
        start, ran = time.time(), []
        progress.bar.set_description_str(path.stem)

        def after(cell, cell_index, **_): ran.append(cell_index); progress.bar.update()

        client = NotebookClient(nb, timeout=None, kernel_name="python3", record_timing=False, extra_arguments=["--log-level=ERROR"],
                                resources={"metadata": {"path": str(NBS)}}, on_cell_complete=after)
        try: client.execute()
        except (CellExecutionError, DeadKernelError) as error:
            progress.close()
            print(explain(path, error, ran[-1] if ran else 0), file=sys.stderr)
            return 1
        write(target/path.name, clean(remember(nb)))
        progress.bar.update(len(nb.cells) - len(ran))
        progress.say(f"  {path.stem:<28}{time.time() - start:7.1f} s")
    progress.close()
    print(f"all of them in {(time.time() - began)/60:.1f} minutes")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefixes", nargs="*", help="run only notebooks whose names start so, e.g. 01 30")
    parser.add_argument("--check", action="store_true", help="verify instead of running")
    parser.add_argument("--clean", action="store_true", help="clean instead of running")
    options = parser.parse_args()
    paths = notebooks(options.prefixes)
    if not paths: parser.error("no such notebook")
    if options.check: return check(paths)
    if options.clean:
        for path in paths: write(path, clean(nbformat.read(path, as_version=4)))
        return 0
    return run(paths)


if __name__ == "__main__": sys.exit(main())
