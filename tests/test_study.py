"The mask studies: every run is there, is what its name says, and is not made twice."
import json, subprocess, sys

from htcv.occlusion_ablation import MaskRun, checked_runs, study_runs


def test_nothing_is_missing(root):
    for more, parts in (([], 3), (["--check"], 1)):
        done = subprocess.run([sys.executable, "-m", "htcv.study_runs", "--dry-run", *more], capture_output=True, text=True, cwd=root)
        lines = done.stdout.splitlines()
        assert done.returncode == 0 and len(lines) == parts, done.stderr
        assert all(": 0 of " in line for line in lines), done.stdout


def test_every_file_holds_the_run_that_it_is_named_after(root):
    wanted = {run.name for questions in (*study_runs().values(), checked_runs()) for run in questions.values()}
    paths = list((root/"results/mask_study").rglob("*.json"))
    assert len(paths) >= 3*len({run.name for of in study_runs().values() for run in of.values()})
    for path in paths:
        record = json.loads(path.read_text())
        config, found = record["config"], record["metrics"]
        assert MaskRun(**config["run"]).name == path.stem and path.stem in wanted, path
        assert path.parent.name == f"{config['settings']['size']}-seed-{record['seed']}"
        assert len(found["true_positive"]) == len(found["true_coverage"]) == config["held_out"]
        assert found["course"][-1]["step"] == config["run"]["steps"]
