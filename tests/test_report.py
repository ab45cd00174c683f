"The run of all notebooks: who waits for whom, what a failure stops, and what is left when it is ended early."
import json, os, re, shutil, signal, subprocess, sys, time

import nbformat, pytest
from nbformat.v4 import new_code_cell, new_notebook


@pytest.fixture
def tool(root, tmp_path, monkeypatch):
    "The script, at work on the notebooks of an empty folder."
    sys.path.insert(0, str(root/"scripts"))
    import run_notebooks
    monkeypatch.setattr(run_notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(run_notebooks, "NBS", tmp_path/"nbs")
    return run_notebooks


def book(*sources): return new_notebook(cells=[new_code_cell(source) for source in sources])


SAVES = "from htcv.plots import save_results\nsave_results('10_x', dict(a=1), {}, 0)"
READS = "import json\nx = json.loads(open('results/10_x.json').read())"


# ---- who waits for whom ---------------------------------------------------------------------------------------

def test_a_reader_waits_for_the_writer_and_the_last_for_all(tool):
    loaded = {"10_writer": book(SAVES), "20_other": book("y = 1"), "30_reader": book(READS), "index": book("")}
    known = dict.fromkeys(loaded, {})
    assert tool.plan(loaded, known) == {"10_writer": {}, "20_other": {}, "30_reader": {"10_writer": ()},
                                        "index": dict.fromkeys(["10_writer", "20_other", "30_reader"], ())}
    # in the other order the reader shows what an earlier run left, and must be done before it changes
    assert tool.plan(dict(reversed(loaded.items())), known)["10_writer"] == {"30_reader": ()}


def test_what_only_a_run_can_see_counts_too(tool):
    loaded = {"10_a": book("a = 1"), "20_b": book("b = 1"), "30_c": book("c = 1")}
    weights = ["runs/cpu/source.json"]
    assert tool.plan(loaded, {"10_a": {}, "20_b": {}, "30_c": {"10_a": weights}})["30_c"] == {"10_a": tuple(weights)}
    # results of another are complete when it is done, even beside weights
    for files in (["results/10_a.json"], [*weights, "results/10_a.json"]):
        assert tool.plan(loaded, {"10_a": {}, "20_b": {}, "30_c": {"10_a": files}})["30_c"] == {"10_a": ()}
    loaded |= {"10_a": book(SAVES), "30_c": book(READS)}
    assert tool.plan(loaded, {"10_a": {}, "20_b": {}, "30_c": {"10_a": weights}})["30_c"] == {"10_a": ()}


def test_a_notebook_that_no_run_has_seen_runs_alone_in_its_place(tool):
    loaded = {"10_a": book("a = 1"), "20_new": book("b = 1"), "30_c": book("c = 1")}
    assert tool.plan(loaded, {"10_a": {}, "30_c": {}}) == {"10_a": {}, "20_new": {"10_a": ()}, "30_c": {"20_new": ()}}


def test_files_that_were_opened_say_who_needs_whom(tool):
    traces = {"10_a": (set(), {"results/10_a.json", "figures/10_a.png"}), "20_b": ({"results/10_a.json"}, set()),
              "30_c": ({"figures/20.png"}, {"results/30_c.json"}), "40_d": ({"results/other.json"}, {"results/10_a.json"})}
    assert tool.seen_needs(traces) == {"10_a": {}, "20_b": {"10_a": ["results/10_a.json"]}, "30_c": {},
                                       "40_d": {"10_a": ["results/10_a.json"], "20_b": ["results/10_a.json"]}}


def test_weights_come_from_whoever_asks_first_even_if_they_were_there(tool, tmp_path):
    "Nothing is trained in this run, so nothing is written; in a fresh clone the first one trains `source` for the second."
    (tmp_path/"runs/cpu").mkdir(parents=True)
    for name, after in (("encoder", None), ("source", "encoder"), ("light", "source")):
        (tmp_path/f"runs/cpu/{name}.json").write_text(json.dumps(dict(stage=dict(after=after))))
    traces = {"10_a": ({"runs/cpu/source.json"}, set()), "20_b": ({"runs/cpu/light.json"}, set()), "25_x": (set(), set()),
              "30_c": ({"runs/cpu/light.json"}, set()), "40_d": ({"results/stage-encoder.json"}, set())}
    needs = tool.seen_needs(traces)
    before = ["runs/cpu/encoder.json", "runs/cpu/source.json"]
    assert needs["20_b"] == {"10_a": before} and needs["25_x"] == {}
    assert needs["30_c"] == {"10_a": before, "20_b": ["runs/cpu/light.json"]}
    assert needs["40_d"] == {"10_a": ["results/stage-encoder.json"]}


def test_the_longest_chain_goes_first(tool):
    needs = {"10_a": set(), "20_b": {"10_a"}, "30_c": set(), "index": {"10_a", "20_b", "30_c"}}
    assert tool.longest_chains(needs, {"10_a": 5, "20_b": 20, "30_c": 15}) == {"10_a": 25, "20_b": 20, "30_c": 15, "index": 60}


def test_the_real_notebooks_wait_for_what_they_read(root, notebooks):
    sys.path.insert(0, str(root/"scripts"))
    import run_notebooks as tool
    loaded = {path.stem: notebooks[path.stem] for path in tool.notebooks()}
    needs = tool.plan(loaded, tool.record()["metrics"]["needs"])
    assert list(loaded)[-2:] == list(tool.LAST) and set(needs["53_performance"]) == set(loaded) - {"53_performance"}
    assert "45_siar_protocol" in needs["46_evaluate_command"] and "51_rgb_loss_study" in needs["52_pseudo_label_study"]
    for later, earlier in (("20_light_shadow", "10_source_reconstruction"), ("31_binary_mask_loss", "20_light_shadow"),
                           ("32_rgb_mask_loss", "20_light_shadow"), ("40_joint_training", "10_source_reconstruction")):
        assert earlier in needs[later], f"{later} would train the stages of {earlier} beside it"


# ---- who measures ---------------------------------------------------------------------------------------------

GUARDS = {"03_synthesis", "08_baselines", "02_procedural_images", "42_training_sequences", "50_benchmark", "62_restore_app"}


def looks_at_the_clock(nb):
    "Does a cell of its own, not an exported one, read the time that passes for everybody?"
    sources = (cell.source for cell in nb.cells if cell.cell_type == "code")
    return any(re.search(r"perf_counter|\btime\.time\(\)", source) for source in sources
               if not re.search(r"^#\|\s*exporti?\b", source, flags=re.M))


def test_who_measures_runs_alone(root, notebooks):
    "A limit with much room, or a time that is not shown, needs no quiet: those stand in GUARDS."
    sys.path.insert(0, str(root/"scripts"))
    from run_notebooks import ALONE
    clocks = {name for name, nb in notebooks.items() if looks_at_the_clock(nb)} - {"01_cluster"}  # notes when jobs ran
    assert clocks == ALONE | GUARDS, "measure with `time.process_time`, or add it to ALONE in run_notebooks.py"


def test_a_clock_is_found():
    assert looks_at_the_clock(book("x = 1", "began = time.perf_counter()"))
    assert not looks_at_the_clock(book("#| exporti\nbegan = time.perf_counter()", "began = time.process_time()"))


# ---- a run ----------------------------------------------------------------------------------------------------

def write_all(folder, books):
    folder.mkdir()
    for name, nb in books.items(): nbformat.write(nb, folder/f"{name}.ipynb")


def test_a_run_keeps_the_order_and_goes_on_after_a_failure(root, tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("HTCV_SCALE", "cpu")
    write = "import os, time, pathlib\nos.makedirs('../results', exist_ok=True)\ntime.sleep(1)\n" \
            "p = pathlib.Path('../results/10_x.part'); p.write_text('7'); p.replace('../results/10_x.json')\n" \
            "def save_results(name): pass\nsave_results('10_x')"
    write_all(tmp_path/"nbs", {"10_writer": book(write), "20_reader": book("print(open('../results/10_x.json').read())"),
                               "30_wrong": book("print('before')", "1/0", "def save_results(name): pass\nsave_results('30_y')"),
                               "40_needs": book("name = '30_y'"), "50_free": book("import os\nprint(os.environ['OMP_NUM_THREADS'])")})
    (tmp_path/"results").mkdir()
    needs = {name: {} for name in ("10_writer", "20_reader", "30_wrong", "40_needs", "50_free")}
    record = dict(metrics=dict(needs=needs), times=dict(rows={}))
    (tmp_path/f"results/{tool.RECORD}.json").write_text(json.dumps(record))
    before = (tmp_path/"nbs/30_wrong.ipynb").read_text()
    assert tool.run(tool.notebooks(), 2) == 1
    said = capsys.readouterr()
    outputs = {path.stem: [o.text for c in nbformat.read(path, 4).cells for o in c.outputs] for path in tool.notebooks()}
    assert outputs["20_reader"] == ["7\n"] and outputs["50_free"] == ["1\n"]
    assert "30_wrong: failed in cell 1; the file was left as it was" in said.err and "ZeroDivisionError" in said.out
    assert "40_needs: not run: it waits for 30_wrong" in said.err and "3 of 5 in" in said.out
    assert (tmp_path/"nbs/30_wrong.ipynb").read_text() == before and outputs["40_needs"] == []
    assert not list((tmp_path/"nbs").glob(".*.part"))
    assert json.loads((tmp_path/f"results/{tool.RECORD}.json").read_text()) == record, "only a complete run is kept"


def test_weights_are_enough_while_their_notebook_goes_on(root, tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("HTCV_SCALE", "cpu")
    trains = """import os, pathlib, time
os.makedirs('../runs/cpu'); part = pathlib.Path('../runs/cpu/source.part'); part.write_text('{}')
part.replace('../runs/cpu/source.json'); end = time.monotonic() + 200
while not pathlib.Path('../seen').exists() and time.monotonic() < end: time.sleep(.1)
print(pathlib.Path('../seen').exists())"""
    loads = "import pathlib\nopen('../runs/cpu/source.json').close()\npathlib.Path('../seen').touch()"
    write_all(tmp_path/"nbs", {"10_trains": book(trains), "20_loads": book(loads)})
    (tmp_path/"results").mkdir()
    record = dict(metrics=dict(needs={"10_trains": {}, "20_loads": {"10_trains": ["runs/cpu/source.json"]}}), times=dict(rows={}))
    (tmp_path/f"results/{tool.RECORD}.json").write_text(json.dumps(record))
    assert tool.run(tool.notebooks(["10", "20"]), 2) == 0, capsys.readouterr().err
    assert nbformat.read(tmp_path/"nbs/10_trains.ipynb", 4).cells[0].outputs[0].text == "True\n"


def test_a_complete_run_leaves_its_minutes_before_the_page_that_shows_them(root, tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("HTCV_SCALE", "cpu")
    (tmp_path/"settings.ini").touch()
    page = f"import json\nprint(sorted(json.load(open('../results/{tool.RECORD}.json'))['times']['rows']))"
    write_all(tmp_path/"nbs", {"10_a": book("open('../results/a.json', 'w').write('1');"), "20_b": book("open('../results/a.json');"),
                               "53_performance": book(page)})
    (tmp_path/"results").mkdir()
    assert tool.run(tool.notebooks(), 2) == 0, capsys.readouterr().err
    record = json.loads((tmp_path/f"results/{tool.RECORD}.json").read_text())
    assert nbformat.read(tmp_path/"nbs/53_performance.ipynb", 4).cells[0].outputs[0].text == "['10_a', '20_b']\n"
    assert record["metrics"]["needs"] == {"10_a": {}, "20_b": {"10_a": ["results/a.json"]}}
    assert all(row["seconds"] > 0 and row["processor_seconds"] > 0 and row["gigabytes"] > 0 for row in record["times"]["rows"].values())
    assert record["config"]["jobs"] == 2 and record["times"]["seconds"] > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_ended_run_ends_its_kernels_and_leaves_the_notebooks(root, tmp_path, number):
    shutil.copytree(root/"scripts", tmp_path/"scripts")
    sleeps = "import os, pathlib, time\npathlib.Path('../pid-{0}').write_text(str(os.getpid()))\nprint('half')\ntime.sleep(600)"
    write_all(tmp_path/"nbs", {name: book(sleeps.format(name)) for name in ("10_a", "20_b")})
    (tmp_path/"results").mkdir()
    known = dict(metrics=dict(needs={"10_a": {}, "20_b": {}}), times=dict(rows={}))
    (tmp_path/"results/53_report.json").write_text(json.dumps(known))
    before = {path: path.read_text() for path in (tmp_path/"nbs").iterdir()}
    call = [sys.executable, tmp_path/"scripts/run_notebooks.py", "--jobs", "2"]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | dict(HTCV_SCALE="cpu"),
                               preexec_fn=lambda: signal.signal(number, signal.SIG_DFL)) # a shell's background jobs ignore SIGINT
    notes = [tmp_path/f"pid-{name}" for name in ("10_a", "20_b")]
    end = time.monotonic() + 120
    while not all(note.exists() and note.read_text() for note in notes) and time.monotonic() < end: time.sleep(.1)
    process.send_signal(number)
    said = process.communicate(timeout=60)
    assert process.returncode == 1 and "10_a: stopped; the file was left as it was" in said[1], said
    time.sleep(.5)
    for note in notes:
        with pytest.raises(ProcessLookupError): os.kill(int(note.read_text()), 0)
    assert {path: path.read_text() for path in (tmp_path/"nbs").iterdir()} == before
