"The repository's own rules: notebooks, figures, results and modules belong together, and importing is cheap."
import ast, json, re, subprocess, sys

import pytest
import yaml

from htcv.plots import SCALES

REPORT = "3-Advanced_Decomposition_Learning"
REPORT_FIGURES = {  # the report's own paths -> the notebook that makes them
    f"{REPORT}/Occ_input_and_target": "30_occlusion_pseudo_labels",
    f"{REPORT}/Occ_pretraining_V1_wo_reg": "32_rgb_mask_loss",
    f"{REPORT}/Occ_pretraining_V1_w_bm": "32_rgb_mask_loss",
    f"{REPORT}/Occ_pretraining_V1_w_md": "32_rgb_mask_loss",
    f"{REPORT}/Occ_pretraining_V2_w_md": "32_rgb_mask_loss",
}
NOTEBOOK_TOOLS = {"IPython", "ipywidgets", "ipykernel", "nbdev", "execnb", "jupyter_client", "nbformat"}


# ---- notebooks ------------------------------------------------------------------------------------------------

def test_notebooks_are_clean_and_executed(root):
    done = subprocess.run([sys.executable, root/"scripts/run_notebooks.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_check_finds_noise(root, tmp_path):
    "The check above can fail: an execution count, an unexecuted print and a stored error are all found."
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook, new_output
    sys.path.insert(0, str(root/"scripts"))
    import run_notebooks as tool
    counted, silent, failed = (new_code_cell(s) for s in ("x = 1", "print(x)", "1/0"))
    counted.execution_count = 3
    failed.outputs = [new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])]
    path = tmp_path/"noisy.ipynb"
    nbformat.write(new_notebook(cells=[counted, silent, failed]), path)
    found = "\n".join(tool.faults(path))
    assert "not clean" in found and "cell 1 was not executed" in found and "cell 2 stored an error" in found


def test_cleaning_keeps_what_readers_see_and_nothing_random(root):
    from nbformat.v4 import new_code_cell, new_notebook, new_output
    sys.path.insert(0, str(root/"scripts"))
    import run_notebooks as tool
    picture = new_output("display_data", {"image/png": "iVBORw0KGgo="}, metadata={"needs": 1, "image/png": {"width": 300}})
    widget = new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "af31"}, "text/plain": "VBox()"})
    prints = [new_output("stream", name="stdout", text=t) for t in ("1%\r50%\r", "100%\n")]
    noise = new_output("stream", name="stderr", text="a warning\n")
    thing = new_output("execute_result", {"text/plain": "<Thing at 0x7f3a>"}, execution_count=9)
    cell = new_code_cell("show()", outputs=[prints[0], noise, prints[1], widget, picture, thing])
    kept = tool.clean(new_notebook(cells=[cell], metadata={"widgets": {}})).cells[0].outputs
    assert [o.output_type for o in kept] == ["stream", "display_data", "execute_result"]
    assert kept[0].text == "100%\n" and kept[1].metadata == {"image/png": {"width": 300}}
    assert kept[2].data["text/plain"] == "<Thing>" and kept[2].execution_count is None


def test_every_notebook_opens_with_title_and_line(notebooks):
    for name, nb in notebooks.items():
        lines = [line for line in nb.cells[0].source.split("\n") if line.strip()]
        assert lines[0].startswith("# ") and lines[1].startswith("> "), name
        assert all(re.match(r"- \w+: ", line) for line in lines[2:]), f"{name}: other prose in cell 1 is lost in the docs"
        front = yaml.safe_load("\n".join(line[2:] for line in lines[2:])) or {}  # nbdev reads it as YAML: no second colon
        assert all(isinstance(value, str) for value in front.values()), name


def test_every_notebook_stands_in_the_contents_once(root, notebooks):
    listed = []
    for item in yaml.safe_load((root/"nbs/sidebar.yml").read_text())["website"]["sidebar"]["contents"]:
        entries = [item] if isinstance(item, str) else item["contents"] or []
        listed += [entry["href"] if isinstance(entry, dict) else entry for entry in entries]
    assert sorted(listed) == sorted(f"{name}.ipynb" for name in notebooks)


def test_readme_is_what_the_index_says(root):
    sys.path.insert(0, str(root/"scripts"))
    import make_readme
    assert make_readme.text() == (root/"README.md").read_text(encoding="utf-8"), "run `make readme`"
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", make_readme.text()): assert (root/link).exists(), link


# ---- figures and results --------------------------------------------------------------------------------------

def named(nb):
    "Patterns for every string in a notebook's code; the variable parts of f-strings match anything."
    for cell in nb.cells:
        if cell.cell_type != "code": continue
        try: tree = ast.parse(cell.source)
        except SyntaxError: continue  # magics
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str): yield re.escape(node.value)
            elif isinstance(node, ast.JoinedStr):
                yield "".join(re.escape(v.value) if isinstance(v, ast.Constant) else "[^/]+" for v in node.values)


def test_every_figure_is_made_by_the_notebook_that_it_is_named_after(root, notebooks):
    patterns = {name: [p for p in named(nb) if len(p) > 8] for name, nb in notebooks.items()}
    for path in sorted((root/"figures").rglob("*.png")):
        figure = path.relative_to(root/"figures").with_suffix("").as_posix()
        maker = REPORT_FIGURES.get(figure) or next((n for n in sorted(notebooks, key=len)[::-1] if figure.startswith(f"{n}_")), None)
        assert maker, f"figures/{figure}.png belongs to no notebook"
        assert any(re.fullmatch(p, figure) for p in patterns[maker]), f"figures/{figure}.png is not made by {maker}"


@pytest.mark.parametrize("figure", REPORT_FIGURES)
def test_every_figure_of_the_report_exists(root, figure):
    assert (root/"figures"/f"{figure}.png").exists()


def test_pictures_are_small_enough_for_a_repository(root):
    large = {p.name: p.stat().st_size for p in (root/"figures").rglob("*.png") if p.stat().st_size > 1.5e6}
    assert not large


def test_results_say_how_they_were_made(root):
    for path in sorted((root/"results").rglob("*.json")):
        record = json.loads(path.read_text())
        missing = {"name", "scale", "seed", "commit", "config", "metrics"} - set(record)
        assert not missing, f"{path.name} lacks {missing}"
        folder, *inner = path.relative_to(root/"results").with_suffix("").parts  # a scale's own folder, or part of the name
        scale = folder if inner and folder in SCALES else "cpu"
        assert record["name"] == "/".join(inner if scale != "cpu" else (folder, *inner)), path
        assert record["scale"] == scale
        assert isinstance(record["seed"], int) and isinstance(record["config"], dict) and record["metrics"]
        assert "NaN" not in path.read_text() and "Infinity" not in path.read_text(), f"{path.name} is not JSON to others"


# ---- modules --------------------------------------------------------------------------------------------------

def modules(root):
    "Module name -> the number of the notebook that exports it."
    found = {}
    for path in sorted((root/"htcv").glob("[!_]*.py")):
        made_by = re.search(r"File to edit: .*?/(\d+)_\w+\.ipynb", path.read_text())
        assert made_by, f"{path.name} was not exported by a notebook"
        found[path.stem] = int(made_by[1])
    return found


def test_modules_import_only_modules_numbered_below(root):
    number = modules(root)
    for name in number:
        for node in ast.walk(ast.parse((root/f"htcv/{name}.py").read_text())):
            if not isinstance(node, ast.ImportFrom): continue
            inside = node.module if node.level else (node.module or "").removeprefix("htcv.") if (node.module or "").startswith("htcv.") else None
            for other in [inside] if inside else [a.name for a in node.names] if node.level else []:
                assert number[other] < number[name], f"{name} imports {other}"


def test_importing_the_package_is_fast_and_brings_nothing(fresh_python):
    seconds, loaded = json.loads(fresh_python(
        "import time, sys, json; t = time.perf_counter(); import htcv; "
        "print(json.dumps([time.perf_counter() - t, sorted({m.split('.')[0] for m in sys.modules})]))"))
    assert seconds < .5
    assert not (NOTEBOOK_TOOLS | {"torch", "matplotlib", "albumentations"}) & set(loaded)


def test_no_module_brings_notebook_tooling(root, fresh_python):
    imports = "; ".join(f"import htcv.{name}" for name in modules(root))
    loaded = json.loads(fresh_python(f"import sys, json; {imports}; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"))
    assert not NOTEBOOK_TOOLS & set(loaded)


def test_importing_everything_opens_no_connection(root, fresh_python):
    "Looked-up names and connections are counted, not only refused: a library may swallow the refusal."
    imports = "; ".join(f"import htcv.{name}" for name in modules(root))
    asked = fresh_python(
        "import socket\nasked = []\n"
        "def refuse(*a, **k): asked.append(str(a[-1])); raise OSError('the network is off')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse\n"
        f"{imports}\nprint(asked)")
    assert asked == "[]"


def test_nothing_here_imports_torchvision(root):
    for path in [*root.glob("htcv/*.py"), root/"settings.ini", root/"constraints.txt"]:
        assert "torchvision" not in path.read_text(), path.name


def test_no_notebook_tells_where_it_was_run(root):
    for path in sorted((root/"nbs").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        for trace in ("PosixPath(", "WindowsPath(", str(root) + "/", "/tmp/tmp"):
            assert trace not in text, f"{path.name} holds {trace!r}: end the cell's last line with a semicolon"
