"The command that renders: what it does without Blender, when Blender dies, when it is interrupted, and with the real one."
import os, stat, subprocess, sys, textwrap

import pytest
import torch

from htcv.composition import compose
from htcv.rendering import draw_jobs, find_blender, load_passes, develop, render_sequences
from htcv.sequences import check_sequences, read_layers, read_sequence

# Stands in for Blender where only the command around it is tested: even light, and a square in the way.
DOUBLE = """\
    #!{python}
    import json, os, sys
    import numpy as np
    jobs = json.load(open(sys.argv[2]))
    for i, job in enumerate(jobs):
        if os.environ.get('DIES_AT') == str(i): print('out of memory', file=sys.stderr); sys.exit(3)
        bare = np.load(job['albedo'])*np.array(job['ambient'], np.float32)
        full, mask = bare.copy(), np.zeros(bare.shape[:2], bool)
        mask[2:6, 3:9] = True
        full[mask] = .7
        arrays = dict(full=full, unoccluded=bare, bare=bare, mask=mask)
        if job['light_groups']:
            for name in ('full', 'unoccluded', 'bare'):
                arrays['lights_' + name] = np.stack([arrays[name]*.25, arrays[name]*.75])
        np.savez(job['out'], **arrays)
        print('done', i, flush=True)
"""


@pytest.fixture
def double(tmp_path, monkeypatch):
    program = tmp_path/"bin"/"python-double"
    program.parent.mkdir()
    program.write_text(textwrap.dedent(DOUBLE.format(python=sys.executable)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("HTCV_BLENDER", str(program))
    return program


def command(*arguments, **environment):
    code = "import sys; from htcv.rendering import htcv_render; sys.exit(htcv_render())"
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
                          env=os.environ | environment)


def test_without_blender_it_says_how_to_get_it(tmp_path):
    done = command(tmp_path/"out", HTCV_BLENDER="", HTCV_BLENDER_HOME=str(tmp_path/"none"), PATH=str(tmp_path))
    assert done.returncode == 1 and "htcv_render --setup" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path/"out").exists()


@pytest.mark.parametrize("wrong, said", [((), "--setup"), (("out", "--size", "1", "2", "3"), "one or two"),
                                         (("out", "--curve", "agx"), "agx")])
def test_wrong_use(wrong, said):
    done = command(*wrong)
    assert done.returncode == 2 and said in done.stderr


def test_renders_a_folder(tmp_path, double):
    out = tmp_path/"out"
    done = command(out, "--sequences", 2, "--frames", 3, "--size", 16, 24)
    assert done.returncode == 0, done.stderr
    assert check_sequences(out) == []
    for i in "12":
        sequence, layers = read_sequence(out/i), read_layers(out/i)
        assert sequence.frames.shape == (3, 3, 16, 24)
        assert (compose(layers)[0] - sequence.frames).abs().max() <= 2/255
        assert layers.occlusion_mask.sum() == 3*4*6 and torch.equal(sequence.masks, layers.occlusion_mask[0])


def test_blender_dies_and_the_run_goes_on_later(tmp_path, double):
    out = tmp_path/"out"
    done = command(out, "--sequences", 2, "--frames", 2, "--size", 16, DIES_AT="1")
    assert done.returncode == 1 and "exit code 3" in done.stderr and "out of memory" in done.stderr
    assert not (out/"1").exists() and not list(out.glob(".*"))
    render_sequences(out, 1, 2, 16, progress=False)
    before = (out/"1"/"1.png").stat().st_mtime_ns
    render_sequences(out, 2, 2, 16, progress=False)  # more sequences: the first stays
    assert (out/"1"/"1.png").stat().st_mtime_ns == before and (out/"2").is_dir()
    whole = tmp_path/"whole"
    render_sequences(whole, 2, 2, 16, progress=False)
    for path in sorted(whole.rglob("*.png")): assert path.read_bytes() == (out/path.relative_to(whole)).read_bytes()


def test_other_settings_and_foreign_folders_are_refused(tmp_path, double):
    render_sequences(tmp_path/"out", 1, 2, 16, progress=False)
    with pytest.raises(FileExistsError, match="other settings"): render_sequences(tmp_path/"out", 1, 3, 16, progress=False)
    (tmp_path/"mine").mkdir()
    (tmp_path/"mine"/"thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not rendered by this"): render_sequences(tmp_path/"mine", 1, 2, 16)
    with pytest.raises(ValueError, match="curve"): render_sequences(tmp_path/"new", 1, 2, 16, curve="agx")
    with pytest.raises(FileNotFoundError, match="no picture"): render_sequences(tmp_path/"new", 1, 2, 16, tmp_path/"mine")
    with pytest.raises(ValueError, match="at least one"): render_sequences(tmp_path/"new", 0, 2, 16)
    assert not (tmp_path/"new"/"1").exists()


def test_lamps_are_kept_apart(tmp_path, double):
    render_sequences(tmp_path/"out", 1, 2, 16, light_groups=True, layer_bits=16, progress=False)
    frames, layers = develop(*load_passes(tmp_path/"out"/"1"/"passes.npz"))
    assert (frames[0] - read_sequence(tmp_path/"out"/"1").frames).abs().max() <= 2/255
    assert check_sequences(tmp_path/"out") == []


def test_jobs_are_what_the_script_reads():
    "Every key of a job is read by the script inside Blender, and the other way round."
    import re
    from pathlib import Path
    source = (Path(__file__).parents[1]/"blender"/"render_layers.py").read_text()
    read = set(re.findall(r"(?:job|spec)\['(\w+)'\]", source))
    jobs = draw_jobs(30, (32, 32), 0)
    given = {key for job in jobs for part in (job, *job["lamps"], *job["objects"]) for key in part}
    assert given | {"albedo", "samples", "light_groups", "threads", "out"} == read
    kinds = {thing["kind"] for job in jobs for thing in job["objects"]}
    assert len(kinds) >= 6 and all(f"    {kind}=lambda" in source for kind in kinds)


@pytest.mark.slow
def test_with_blender_itself(tmp_path):
    try: find_blender()
    except FileNotFoundError as missing: pytest.skip(str(missing))
    render_sequences(tmp_path/"a", 2, 2, 48, progress=False, seed=3)
    render_sequences(tmp_path/"b", 2, 2, 48, progress=False, seed=3)
    for i in "12":
        sequence, layers, again = read_sequence(tmp_path/"a"/i), read_layers(tmp_path/"a"/i), read_layers(tmp_path/"b"/i)
        assert (compose(layers)[0] - sequence.frames).abs().max() <= 2/255
        for one, two in zip(vars(layers).values(), vars(again).values()):
            assert one is None or (one - two).abs().max() <= 1/255
