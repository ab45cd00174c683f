"What pip makes of the repository."
import re, subprocess, sys, zipfile

import pytest


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory):
    "Built from what git would check out, so that nothing that lies about gets in."
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "--deduplicate"], cwd=root, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in files:
        if not name or not (root/name).is_file() or name.startswith(("figures/", "nbs/")): continue
        (copy/name).parent.mkdir(parents=True, exist_ok=True)
        (copy/name).write_bytes((root/name).read_bytes())
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, copy], check=True)
    return zipfile.ZipFile(next(out.glob("htcv-*.whl")))


@pytest.mark.slow
def test_wheel_holds_the_package_and_only_it(wheel, root):
    names = wheel.namelist()
    assert {f"htcv/{p.name}" for p in (root/"htcv").glob("*.py")} <= set(names)
    ours = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert ours == {"htcv", next(name.split("/")[0] for name in names if ".data/" in name)}


@pytest.mark.slow
def test_wheel_holds_the_benchmark_and_what_runs_inside_blender(wheel, root):
    names = set(wheel.namelist())
    files = [p.relative_to(root).as_posix() for p in (root/"htcv"/"benchmark").rglob("*") if p.is_file()]
    assert len(files) > 600 and set(files) <= names
    shared = {name.split(".data/data/")[1] for name in names if ".data/data/" in name}
    assert shared == {"share/htcv/blender/render_layers.py", "share/htcv/blender/COPYING"}
    assert sum(item.compress_size for item in wheel.infolist()) < 55e6


@pytest.mark.slow
def test_wheel_says_what_it_is(wheel):
    info = {name.split("/")[-1]: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name}
    assert "License-Expression: Apache-2.0 AND GPL-3.0-or-later\n" in info["METADATA"] and "Apache License" in info["LICENSE"]
    assert "Requires-Python: >=3.11" in info["METADATA"] and "# htcv" in info["METADATA"]
    needs = [line for line in info["METADATA"].split("\n") if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert not any(tool in line for line in needs for tool in ("jupyterlab", "nbdev", "pytest", "sphinx", "torchvision", "distributed"))
    for extra in ("cluster", "dev"): assert re.search(f"Requires-Dist: distributed.*extra == .{extra}", info["METADATA"]), extra
    for entry in ("htcv = htcv._modidx:d", "htcv_render = htcv.render_command:htcv_render", "htcv_evaluate = htcv.evaluate_command:htcv_evaluate",
                  "htcv_restore = htcv.restore_command:htcv_restore"):
        assert entry in info["entry_points.txt"]


def test_constraints_pin_every_requirement_exactly(root):
    from configparser import ConfigParser
    ini = ConfigParser(delimiters=["="]); ini.read(root/"settings.ini")
    pins = dict(line.split("==") for line in (root/"constraints.txt").read_text().split("\n") if line and line[0] != "#")
    plain = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    for wanted in " ".join(ini["DEFAULT"][f"{kind}requirements"] for kind in ("", "dev_", "cluster_")).split():
        assert re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", wanted)[0]).lower() in plain, wanted
    assert not any("+" in version or "/" in version for version in pins.values())


def test_every_python_version_comes_from_settings(root):
    "Makefile, setup.py and the workflow read one list; no second one stands anywhere."
    from configparser import ConfigParser
    ini = ConfigParser(delimiters=["="]); ini.read(root/"settings.ini")
    tested, candidates = (ini["DEFAULT"][key].split() for key in ("python_versions", "python_candidates"))
    assert tested[0] == ini["DEFAULT"]["min_python"] and not set(tested) & set(candidates)
    for name in ("Makefile", "setup.py", ".github/workflows/test.yml", ".github/workflows/docs.yml"):
        text = (root/name).read_text()
        assert "python_versions" in text, name
        assert not re.findall(r"\b3\.(?!12\b)1\d\b", text), f"{name} has a list of its own"  # 3.12: an example of a path
    said = subprocess.run(["make", "install", "PYTHON=", "VENV=nowhere"], cwd=root, capture_output=True, text=True)
    assert said.returncode and all(version in said.stderr for version in tested + candidates), said.stderr


def test_make_takes_a_python_of_the_list_and_no_other(root, tmp_path):
    "A python that says it is too old is passed over; one of the list is taken."
    import os
    for name, version in (("python3.13", "2.7"), ("python3.12", "3.12")):
        (tmp_path/name).write_text(f'#!/bin/sh\nshift 2\nfor v in "$@"; do test "$v" = {version} && exit 0; done; exit 1\n')
        (tmp_path/name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    said = subprocess.run(["make", "-n", "install", f"VENV={tmp_path}/venv"], cwd=root, env=environment, capture_output=True, text=True)
    assert 'py="python3.12"' in said.stdout, said.stdout + said.stderr


def test_the_citation_names_what_this_is_built_on(root):
    import yaml
    citation = yaml.safe_load((root/"CITATION.cff").read_text(encoding="utf-8"))
    titles = {reference["title"]: reference for reference in citation["references"]}
    assert "HTCV: The final advances to the Decomposer model" in titles
    paper = next(r for title, r in titles.items() if title.startswith("Decomposer:"))
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:2311.16829"}] and paper["year"] == 2023
    for reference in citation["references"]: assert {"type", "title", "authors"} <= set(reference), reference["title"]


def test_one_version_everywhere(root):
    from configparser import ConfigParser
    import yaml
    ini = ConfigParser(delimiters=["="]); ini.read(root/"settings.ini")
    version = ini["DEFAULT"]["version"]
    assert f'__version__ = "{version}"' in (root/"htcv/__init__.py").read_text()
    assert str(yaml.safe_load((root/"CITATION.cff").read_text(encoding="utf-8"))["version"]) == version
    assert re.findall(r"^## (\S+)", (root/"CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)[0] == version
