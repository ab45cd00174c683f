"""Do a notebook's own tests find faults? Changes its exported code in one place at a time, runs it, names what nobody noticed.

    python scripts/mutate.py 01_composition --sample 60      sixty faults, drawn with one seed; at scale tiny

A survivor that is no fault, or that nobody could test well, is argued in tests/argued_mutants.json: {notebook: {"line | change": why}}.
"""
import argparse, ast, copy, json, os, random, re, signal, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.update(HTCV_SCALE="tiny", NO_ALBUMENTATIONS_UPDATE="1", MPLBACKEND="Agg")
sys.path.insert(0, str(ROOT))

SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Pow: ast.Mult,
         ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
         ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
         ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
METHODS = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "mean": "sum", "sum": "mean", "any": "all", "all": "any",
           "argmin": "argmax", "argmax": "argmin", "minimum": "maximum", "maximum": "minimum", "floor": "ceil", "ceil": "floor"}


def mutations(node):
    "What may be changed at one node: (what is said, what does it)."
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        yield f"{type(node.op).__name__} -> {SWAPS[type(node.op)].__name__}", lambda n: setattr(n, "op", SWAPS[type(n.op)]())
    if isinstance(node, ast.BoolOp):
        yield "and <-> or", lambda n: setattr(n, "op", SWAPS[type(n.op)]())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield f"{type(node.ops[0]).__name__} -> {SWAPS[type(node.ops[0])].__name__}", lambda n: n.ops.__setitem__(0, SWAPS[type(n.ops[0])]())
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield f"without {type(node.op).__name__}", lambda n: setattr(n, "op", ast.UAdd() if isinstance(n.op, ast.USub) else ast.Not()) \
            if isinstance(n.op, ast.USub) else setattr(n, "operand", ast.UnaryOp(ast.Not(), n.operand))
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        yield f"{node.value} -> {node.value + 1}", lambda n: setattr(n, "value", n.value + 1)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", lambda n: setattr(n, "value", not n.value)
    if isinstance(node, ast.Attribute) and node.attr in METHODS:
        yield f".{node.attr} -> .{METHODS[node.attr]}", lambda n: setattr(n, "attr", METHODS[n.attr])
    if isinstance(node, ast.IfExp):
        yield "if <-> else", lambda n: n.__dict__.update(body=n.orelse, orelse=n.body)


def exported(cell):
    return cell.cell_type == "code" and re.match(r"#\|\s*exports?i?\b", cell.source) and "def " in cell.source


def mutants(cells):
    "Every single change to the bodies of exported functions: (cell, line and change, changed source)."
    for number, cell in enumerate(cells):
        if not exported(cell): continue
        tree = ast.parse(cell.source)
        notes = {id(c) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.arg, ast.AnnAssign))
                 for a in (getattr(f, "returns", None), getattr(f, "annotation", None)) if a for c in ast.walk(a)}
        for place, node in enumerate(ast.walk(tree)):
            if id(node) in notes: continue
            for k, (what, _) in enumerate(mutations(node)):
                other = copy.deepcopy(tree)
                target = next(n for i, n in enumerate(ast.walk(other)) if i == place)
                list(mutations(target))[k][1](target)
                line = cell.source.splitlines()[getattr(node, "lineno", 1) - 1].strip()
                yield number, f"{line} | {what}", ast.unparse(ast.fix_missing_locations(other))


def quiet():
    "From here on: nothing is shown, and what a mutant saves is its own."
    os.chdir(ROOT/"nbs")
    null = os.open(os.devnull, os.O_WRONLY); os.dup2(null, 1); os.dup2(null, 2)
    import htcv.plots
    kept = Path(tempfile.mkdtemp()) # a mutant leaves no figure in the project, and finds what it saved
    def artefact_folder(kind): (kept/kind).mkdir(exist_ok=True); return kept/kind
    htcv.plots.artefact_folder = artefact_folder


def run(source):
    "Is one cell's code without an error?"
    from IPython.core.interactiveshell import InteractiveShell
    if re.search(r"^#\|\s*(eval:\s*false|slow|gpu|default_exp)", source, re.M): return True
    return InteractiveShell.instance().run_cell(source, store_history=False).success


def passes(sources, limit=300):
    "Runs the cells in a fork, after what ran before; False if any fails, or they take too long."
    child = os.fork()
    if child == 0:
        signal.alarm(limit)
        os._exit(not all(map(run, sources)))
    return os.waitpid(child, 0)[1] == 0


def survivors(cells, found, tell):
    "Those of the mutants that no cell notices. What stands before the changed cell runs once."
    quiet()
    sources = [cell.source if cell.cell_type == "code" else "#| default_exp" for cell in cells]
    started = time.perf_counter()
    if not passes(sources): raise ValueError("the notebook fails as it is")
    limit, done, alive = int(10*(time.perf_counter() - started)) + 20, 0, []
    for i, (number, name, source) in enumerate(sorted(found, key=lambda mutant: mutant[0])):
        while done < number: run(sources[done]); done += 1
        if passes([source, *sources[number + 1:]], limit): alive.append(name)
        tell(i + 1, alive)
    if not passes(sources[done:], limit): raise ValueError("the mutants left something behind: what is as it was fails too")
    return alive


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebook"); parser.add_argument("--sample", type=int, help="so many, drawn with --seed")
    parser.add_argument("--seed", type=int, default=0, help="which sample is drawn")
    parser.add_argument("--only", default="", help="mutants whose line contains this")
    options = parser.parse_args()
    import cv2, nbformat, torch, matplotlib.pyplot, torchmetrics.functional, IPython, fastcore.test, kornia  # once, before the forks
    torch.set_num_threads(1); cv2.setNumThreads(0) # a fork has no threads but its own
    cells = nbformat.read(ROOT/"nbs"/f"{options.notebook}.ipynb", as_version=4).cells
    argued = json.loads((ROOT/"tests"/"argued_mutants.json").read_text()).get(options.notebook, {})
    found = [mutant for mutant in mutants(cells) if options.only in mutant[1]]
    if options.sample: found = random.Random(options.seed).sample(found, min(options.sample, len(found)))
    out, err = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(2), "w")
    said = []

    def tell(i, alive):
        for name in alive[len(said):]: print(f"not found: {name}", file=err); said.append(name)
        print(f"{i}/{len(found)}, {len(alive)} not found, {time.perf_counter():.0f} s", end="\r", file=err, flush=True)

    alive = survivors(cells, found, tell)
    print(json.dumps(dict(notebook=options.notebook, mutants=len(found), found=len(found) - len(alive),
                          argued={name: argued[name] for name in alive if name in argued},
                          survivors=[name for name in alive if name not in argued]), indent=1, ensure_ascii=False), file=out)


if __name__ == "__main__": main()
