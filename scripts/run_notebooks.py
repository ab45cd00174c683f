"""Runs the notebooks in order and keeps them clean.

    run_notebooks.py                 run all of them, `index` and the page of the minutes last
    run_notebooks.py 01 30           run those whose names start so
    run_notebooks.py --jobs 1        one after the other; default: one beside the other on each processor, four at most
    run_notebooks.py --cells 10 50   and name the cells that took 10 seconds of a processor or more
    run_notebooks.py --clean         clean without running
    run_notebooks.py --check         change nothing; fail where a notebook is not clean or was not run, or
                                     where code changed after the outputs below it were made

An execution leaves hashes of the code that it ran in the notebook's metadata (`executed`): the check compares
them. They are of syntax trees, so comments, line breaks and docstrings do not count. A notebook that was executed before
there were hashes has none and passes.

Each notebook has a kernel of its own with one thread, so that its numbers do not depend on how many run. It waits for
those before it that write what it reads, or read what it writes (section `order`); for a stage's weights only until they are
there. The longest chain goes first. Those
in `ALONE` measure, and run with nothing beside them. One that fails is left as it was, with those that wait for it; the
others go on. Ctrl-C and SIGTERM end all kernels. A run of all of them leaves its minutes, and who has to wait for whom, in
results/53_report.json.

At the default scale (HTCV_SCALE=cpu) notebooks are executed in place. At any other the executed copies go to
`scratch/<scale>/nbs/`, because what is committed is what the default scale shows.
"""
import argparse, ast, contextlib, hashlib, json, os, queue, re, signal, sys, tempfile, threading, time
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
LAST = "index", "53_performance"  # they wait for all others; the second shows the minutes of the run itself
RECORD = "53_report"  # in results/: minutes, and who waits for whom
ALONE = {"04_rendering"}  # they store how long something took; who measures with `process_time` needs no quiet
PROBE = Path(__file__).with_name("kernel_probe.py")
ONE_THREAD = dict(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", OPENCV_FOR_THREADS_NUM="1")
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def notebooks(prefixes=()):
    "All notebooks in their order: by number, and then those that show what the others found."
    names = sorted(NBS.glob("[!_.]*.ipynb"), key=lambda p: (p.stem in LAST and LAST.index(p.stem) + 1, p.name))
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
    try:
        draft.write_text(as_text(nb), encoding="utf-8")
        draft.replace(path)
    finally: draft.unlink(missing_ok=True)


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


# ---- order ----------------------------------------------------------------------------------------------------

def named_results(nb):
    "The results that its cells save, and all that could be the name of one, from its source alone."
    saved, named, trees = set(), set(), []
    for cell in nb.cells:
        with contextlib.suppress(SyntaxError):  # magics
            if cell.cell_type == "code": trees.append(ast.parse(cell.source))
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            named.add(node.value.rpartition("results/")[2].removesuffix(".json"))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "save_results":
            saved |= {name.value for name in node.args[:1] if isinstance(name, ast.Constant)}
    return saved, named


def record():
    "What the last complete run left: minutes, and who waits for whom."
    path = ROOT/"results"/f"{RECORD}.json"
    return json.loads(path.read_text()) if path.exists() else dict(metrics=dict(needs={}), times=dict(rows={}))


def plan(loaded, known):
    """Notebook -> {one of the same run that it waits for: the files that are enough, or nothing where it has to be done}.
    `known` is what a complete run has seen (`seen_needs`); to it comes what the sources say today. One that no complete run has
    seen waits for all before it, and all after it for that one."""
    names, needs = list(loaded), {}
    saved, named = ({name: named_results(nb)[i] for name, nb in loaded.items()} for i in (0, 1))
    for i, name in enumerate(names):
        before = names[:i]
        needs[name] = {} if name in LAST or name not in known else {
            other: tuple(known[name][other]) for other in before if is_weights(known[name].get(other, ()))}
        needs[name] |= dict.fromkeys(before if name in LAST or name not in known else [
            other for other in before if other not in known or other in set(known[name]) - set(needs[name])
            or saved[other] & (named[name] | saved[name]) or named[other] & saved[name]], ())
    return needs


def is_weights(files): return bool(files) and all(path.startswith("runs/") for path in files)


def seen_needs(traces):
    """Notebook -> {one before it that it has to wait for: the files why}, from the files that they opened, in their order.
    A stage's weights come from whoever asks for them first, with the stages before it, even if this time they were there."""
    touched = {name: dict.fromkeys(read, "r") | dict.fromkeys(written, "w") for name, (read, written) in traces.items()}
    made = set()
    for files in touched.values():
        for path in [path for path in files if path.startswith("runs/")]:
            for stage in (path, *stages_before(path)):
                files[stage] = "r" if stage in made else "w"
                if stage not in made and stage.endswith(".json"): files[f"results/stage-{Path(stage).name}"] = "w"
        made |= {path for path, how in files.items() if how == "w"}
    names, needs = list(traces), {}
    for i, name in enumerate(names):
        shared = {other: sorted(path for path, how in touched[name].items() if "w" in (how, touched[other].get(path, how))
                                and path in touched[other]) for other in names[:i]}
        needs[name] = {other: paths for other, paths in shared.items() if paths}
    return needs


def stages_before(path):
    "The records of the stages whose weights that of a record began from, nearest first."
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        after = json.loads((ROOT/path).read_text())["stage"]["after"]
        if after: before = f"{path.rpartition('/')[0]}/{after}.json"; yield before; yield from stages_before(before)


def longest_chains(needs, seconds):
    "Notebook -> seconds of it and of the longest chain of those that wait for it; who is not known counts as a minute."
    chains = {}
    for name in reversed(needs):
        waiting = [chains[other] for other in needs if name in needs[other] and other not in LAST]
        chains[name] = seconds.get(name, 60.) + max(waiting, default=0)
    return chains


# ---- run ------------------------------------------------------------------------------------------------------

class Progress:
    "One bar over all cells, with the names of what runs and a clock that also moves during long cells."
    def __init__(self, total):
        self.bar = tqdm(total=total, unit="cell", disable=None, dynamic_ncols=True, smoothing=0,
                        bar_format="{desc:<26} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} cells, {elapsed}")
        self.done = threading.Event()
        threading.Thread(target=self.tick, daemon=True).start()

    def tick(self):
        while not self.done.wait(1): self.bar.refresh()

    def say(self, line): self.bar.write(line) if not self.bar.disable else print(line, flush=True)

    def close(self): self.done.set(); self.bar.close()


class Kernel:
    "A notebook while it runs, in a thread; `events` gets its name with `cell`, `done` or what went wrong."
    def __init__(self, path, nb, events, folder):
        self.path, self.nb, self.ran, self.cell, self.began = path, nb, 0, -1, time.time()
        self.log, self.events = folder/f"{path.stem}.log", events
        self.client = NotebookClient(nb, timeout=None, kernel_name="python3", record_timing=False,
                                     extra_arguments=["--log-level=ERROR", f"--IPKernelApp.exec_files={PROBE}"],
                                     resources={"metadata": {"path": str(NBS)}}, on_cell_execute=self.before, on_cell_complete=self.after)
        threading.Thread(target=self.execute, daemon=True).start()

    def before(self, cell, cell_index, **_): self.cell = cell_index

    def after(self, **_): self.ran += 1; self.events.put((self.path.stem, "cell"))

    def execute(self):
        env = os.environ | ONE_THREAD | dict(HTCV_PROBE_LOG=str(self.log), HTCV_PROBE_ROOT=str(ROOT))
        try: self.client.execute(env=env)
        except Exception as error: self.events.put((self.path.stem, ANSI.sub("", str(error)) or repr(error)))
        else: self.events.put((self.path.stem, "done"))

    def kill(self):
        "Ends the kernel and what it started."
        process = getattr(getattr(self.client.km, "provisioner", None), "process", None)
        with contextlib.suppress(OSError):
            if process: os.killpg(process.pid, signal.SIGKILL)


class Lanes:
    "The notebooks of a run: which wait, which run, how the others ended."
    def __init__(self, loaded, jobs, folder, cells=None):
        self.loaded, self.jobs, self.folder, self.cells = loaded, jobs, folder, cells
        known = record()
        self.needs = plan({path.stem: nb for path, nb in loaded.items()}, known["metrics"]["needs"])
        self.chains = longest_chains(self.needs, {name: row["seconds"] for name, row in known["times"]["rows"].items()})
        self.waiting, self.running, self.rows, self.traces, self.wrong = {path.stem: path for path in loaded}, {}, {}, {}, {}
        self.events, self.progress = queue.Queue(), Progress(sum(len(nb.cells) for nb in loaded.values()))

    def next(self):
        "Who starts now: first who has to be alone, then the longest chain."
        ready = [name for name in self.waiting if all(self.made(other, files) for other, files in self.needs[name].items())]
        if self.running: ready = [name for name in ready if name not in ALONE]
        full = len(self.running) >= self.jobs or ALONE & set(self.running)
        return None if full or not ready else max(ready, key=lambda name: (name in ALONE, self.chains[name]))

    def made(self, name, files):
        "Is this notebook done, or does it run and has the weights that are asked for?"
        if name in self.rows or not (files and name in self.running): return name in self.rows
        trace = read_probe(self.running[name].log)
        return set(files) <= trace["written"] | trace["read"]

    def start(self):
        "As many as there are lanes for; one that waits for a failed one never starts."
        while name := next((name for name in self.waiting if set(self.needs[name]) & set(self.wrong)), None):
            del self.waiting[name]
            self.wrong[name] = "not run: it waits for " + ", ".join(sorted(set(self.needs[name]) & set(self.wrong)))
        while name := self.next():
            path = self.waiting.pop(name)
            self.running[name] = Kernel(path, self.loaded[path], self.events, self.folder)
        self.progress.bar.set_description_str(", ".join(name.split("_")[0] for name in self.running))

    def step(self, target):
        "Waits for something to happen, and keeps what a finished notebook made."
        try: name, what = self.events.get(timeout=2)
        except queue.Empty: return  # a stage's weights may have come
        if what == "cell": return self.progress.bar.update()
        kernel = self.running.pop(name)
        self.progress.bar.update(len(kernel.nb.cells) - kernel.ran)
        trace = read_probe(kernel.log)
        if what == "done":
            write(target/kernel.path.name, clean(remember(kernel.nb)))
            self.rows[name] = trace["row"] | dict(seconds=round(time.time() - kernel.began, 1))
            self.traces[name] = trace["read"], trace["written"]
            what = "{seconds:8.1f} s, {processor_seconds:8.1f} s of a processor, {gigabytes:5.2f} GB".format(**self.rows[name])
        else:
            self.wrong[name] = f"failed in cell {kernel.cell}; the file was left as it was"
            what = f"{self.wrong[name]}\n{'='*80}\n{what}\n{'='*80}"
        self.progress.say(f"  {name:<28}{what}")
        for number, seconds in enumerate(trace["cells"]):
            if self.cells and seconds >= self.cells: self.progress.say(f"      code cell {number:<4}{seconds:8.1f} s of a processor")


def read_probe(log):
    "What the probe in a kernel wrote: seconds of the cells, a row of numbers, the files that were read and written."
    lines = [line.split(" ", 1) for line in log.read_text(errors="replace").splitlines()] if log.exists() else []
    of = {kind: [rest for first, rest in lines if first == kind] for kind in ("cell", "gigabytes", "read", "write")}
    spent = [float(x) for x in of["cell"]]
    row = dict(processor_seconds=round(spent[-1], 1) if spent else 0., gigabytes=max(map(float, of["gigabytes"]), default=0.))
    return dict(row=row, cells=[b - a for a, b in zip([0., *spent], spent)], read=set(of["read"]), written=set(of["write"]))


def processors_worked():
    "Seconds that all processors of the machine together have worked, for anybody; None where Linux's file is not."
    try: ticks = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError): return None
    return (sum(ticks) - ticks[3] - ticks[4])/os.sysconf("SC_CLK_TCK")


def save_record(lanes, before, load, seconds):
    "Keeps the minutes of a complete run, and who had to wait for whom."
    from htcv.plots import save_results
    from htcv.timing import processor_name
    needs = seen_needs({name: lanes.traces[name] for name in lanes.needs if name in lanes.traces})
    ours, worked = sum(row["processor_seconds"] for row in lanes.rows.values()) + time.process_time(), processors_worked()
    config = dict(jobs=lanes.jobs, threads=1, cores=os.cpu_count(), processor=processor_name())
    times = dict(seconds=round(seconds, 1), rows=lanes.rows, load_before=round(load, 2),
                 others_processor_seconds=None if None in (before, worked) else round(max(0., worked - before - ours), 1))
    with contextlib.chdir(ROOT): save_results(RECORD, dict(needs=needs), config, 0, times)
    for name, of in needs.items():
        late = sorted(set(of) - set(lanes.needs[name]))
        if late: lanes.wrong[name] = f"did not wait for {', '.join(late)}, whose {of[late[0]][0]} it read: run it again"


def stop(*_): raise KeyboardInterrupt


def run(paths, jobs, cells=None):
    scale = os.environ.get("HTCV_SCALE") or "cpu"
    target = NBS if scale == "cpu" else ROOT/"scratch"/scale/"nbs"
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ.update(PYTHONHASHSEED="0", NO_ALBUMENTATIONS_UPDATE="1")
    for name in ("SIGTERM", "SIGHUP"): signal.signal(getattr(signal, name), stop)
    began, load, before = time.time(), os.getloadavg()[0], processors_worked()
    with tempfile.TemporaryDirectory() as folder:
        lanes = Lanes({path: nbformat.read(path, as_version=4) for path in paths}, jobs, Path(folder), cells)
        complete = scale == "cpu" and paths == notebooks()
        lanes.progress.say(f"{len(paths)} notebooks at scale {scale}, {jobs} at a time")
        try:
            while lanes.waiting or lanes.running:
                if complete and list(lanes.waiting) == [LAST[-1]] and not (lanes.running or lanes.wrong):
                    save_record(lanes, before, load, time.time() - began)
                lanes.start()
                if lanes.running: lanes.step(target)
        except KeyboardInterrupt:
            for kernel in lanes.running.values(): kernel.kill()
            lanes.wrong |= {name: "stopped; the file was left as it was" for name in (*lanes.running, *lanes.waiting)}
        finally: lanes.progress.close()
    for name, fault in lanes.wrong.items(): print(f"{name}: {fault}", file=sys.stderr)
    spent = sum(row["processor_seconds"] for row in lanes.rows.values())
    print(f"{len(lanes.rows)} of {len(paths)} in {(time.time() - began)/60:.1f} minutes, {spent/60:.1f} minutes of a processor")
    return 1 if lanes.wrong else 0


def main():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefixes", nargs="*", help="run only notebooks whose names start so, e.g. 01 30")
    parser.add_argument("--check", action="store_true", help="verify instead of running")
    parser.add_argument("--clean", action="store_true", help="clean instead of running")
    parser.add_argument("--jobs", type=int, default=min(cores, 4), metavar="N", help=f"side by side (here: {min(cores, 4)})")
    parser.add_argument("--cells", type=float, metavar="SECONDS", help="name the cells that took so long or longer")
    options = parser.parse_args()
    paths = notebooks(options.prefixes)
    if not paths: parser.error("no such notebook")
    if options.jobs < 1: parser.error(f"--jobs is at least 1; got {options.jobs}")
    if options.check: return check(paths)
    if options.clean:
        for path in paths: write(path, clean(nbformat.read(path, as_version=4)))
        return 0
    return run(paths, options.jobs, options.cells)


if __name__ == "__main__": sys.exit(main())
