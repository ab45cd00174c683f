"The command that renders: what it does without Blender, when Blender dies, when it is interrupted, and with the real one."
import os, stat, subprocess, sys, textwrap

import pytest
import torch

from htcv.composition import compose
from htcv.rendering import EXTRA_LAYERS, FIELDS, develop, draw_jobs, find_blender, load_passes, load_scene
from htcv.rendering import load_scene_pack, render_passes, render_sequences, scene_fields
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
        for name in job.get('extra_layers', []):
            clear = np.repeat(~mask[..., None], 3, -1).astype(np.float32)
            arrays[name] = clear if name == 'transmittance' else .05*bare
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
                                         (("out", "--curve", "agx"), "agx"), (("--scenes", "3"), "--setup"),
                                         (("out", "--scenes", "3", "--sequences", "3"), "not both"),
                                         (("out", "--scenes", "3", "--sources", "x"), "no picture"),
                                         (("out", "--sequences", "3", "--pack", "x"), "for scenes")])
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


def test_scenes_are_rendered_resumed_and_packed(tmp_path, double):
    out, pack = tmp_path/"out", tmp_path/"new"/"scenes.zip"
    arguments = "--scenes", 11, "--out", out, "--frames", 2, "--size", 16, 24
    done = command(*arguments, DIES_AT="1")
    assert done.returncode == 1 and "out of memory" in done.stderr and not list(out.glob("*.npz"))
    done = command("--scenes", 2, *arguments[2:])
    assert done.returncode == 0, done.stderr
    before = (out/"1.npz").stat().st_mtime_ns
    done = command(*arguments, "--pack", pack)         # more scenes, the first stay
    assert done.returncode == 0 and "11 scenes" in done.stdout and "MB" in done.stdout, done.stderr
    assert (out/"1.npz").stat().st_mtime_ns == before and not list(pack.parent.glob("*.part"))
    frames = load_scene_pack(pack)
    assert frames["scene"].tolist() == [i for i in range(11) for _ in range(2)]
    assert set(frames) == {*FIELDS, "level", "scene"}
    exact = scene_fields(load_scene(out/"3.npz"))
    for name in FIELDS:
        assert frames[name].shape == (22, FIELDS[name], 16, 24)
        error = (frames[name][4:6].float() - exact[name]).abs()/exact["level"].view(-1, 1, 1, 1)
        assert error.max() < .1, name
    assert command("--out", out, "--scenes", 11, "--frames", 3).returncode == 1           # other settings
    done = command("--out", tmp_path/"none", "--pack", pack)
    assert done.returncode == 1 and "no rendered scenes" in done.stderr and "Traceback" not in done.stderr


def test_variety_brings_opacity(tmp_path, double):
    render_sequences(tmp_path/"out", 1, 2, 16, variety=True, progress=False)
    layers = read_layers(tmp_path/"out"/"1")
    assert torch.equal(layers.alpha, layers.occlusion_mask) and layers.alpha.sum() == 2*4*6
    with pytest.raises(FileExistsError): render_sequences(tmp_path/"out", 1, 2, 16, progress=False)


def test_the_draws_of_the_benchmark_stay(root):
    "Its jobs as they were when it was rendered, by their checksum (rounded: another machine's last digit may differ)."
    import hashlib, json
    jobs = [draw_jobs(10, (256, 256), ("benchmark 1", i), ("filmic", "standard")[i % 2], .25) for i in range(12)]
    rounded = json.loads(json.dumps(jobs), parse_float=lambda text: f"{float(text):.3g}")
    kept = "af5c55c9215ca2d83daf61f1d69ad753"
    assert hashlib.md5(json.dumps(rounded).encode()).hexdigest() == kept
    assert not any("relief" in job or "extra_layers" in job for sequence in jobs for job in sequence)


def test_jobs_are_what_the_script_reads():
    "Every key of a job is read by the script inside Blender, and the other way round."
    import re
    from pathlib import Path
    source = (Path(__file__).parents[1]/"blender"/"render_layers.py").read_text()
    read = set(re.findall(r"(?:job|spec)(?:\[|\.get\()'(\w+)'", source))
    jobs = draw_jobs(30, (32, 32), 0) + draw_jobs(30, (32, 32), 0, variety=True)
    patterns = [lamp["pattern"] for job in jobs for lamp in job["lamps"] if "pattern" in lamp]
    given = {key for job in jobs for part in (job, *job["lamps"], *job["objects"]) for key in part}
    given |= {key for pattern in patterns for key in pattern}
    given -= {"relief"}                                # reaches the script as `normals`
    assert given | {"albedo", "samples", "light_groups", "threads", "out", "normals", "extra_layers"} == read
    assert all(f"'{name}'" in source for name in EXTRA_LAYERS)
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


@pytest.mark.slow
def test_opacity_windows_and_relief_with_blender_itself():
    "A film of opacity .4 over the left half lets .6 of its colour through; panes are dark between; canvas is seen."
    try: find_blender()
    except FileNotFoundError as missing: pytest.skip(str(missing))
    film = dict(kind="card", place=[-.25, 0., .1], rotation=[0., 0., 0.], scale=[.2, .4, .4], colour=[1., .5, .5],
                material="film", roughness=.5, opacity=.4)
    panes = dict(leaves=False, count=[2, 2], pane=[.4, .4], bar=.3, edge=.02, angle=0.)
    window = dict(kind="window", place=[0., 0., 3.], aim=[0., 0., 0.], level=[1.]*3, size=.003, cone=1.5, blend=.2,
                  pattern=panes)
    job = dict(size=[48, 48], seed=1, ambient=[.2]*3, lamps=[], objects=[film], varnish=dict(strength=.02, roughness=.3),
               relief=None, extra_layers=list(EXTRA_LAYERS))
    paint = torch.full((3, 48, 48), .8)
    passes = render_passes(paint, [job, job | dict(lamps=[window], objects=[])], threads=1)
    clear = passes.transmittance[:, 0]
    assert (clear[:, 24, 12] - torch.tensor([.6, .3, .3])).abs().max() < 1e-3 and (clear[:, :, 40:] == 1).all()
    fields = scene_fields(passes)
    assert abs(fields["cover"][0, 0, 24, 12] - .6) < 1e-3 and fields["cover"][1].max() < 1e-5
    bare = fields["bare"][1, 0]
    assert bare[14, 14] > 3*bare[24, 24] and (bare[24, 24] - .2).abs() < .05    # in a pane, and at the bars' crossing
    assert (bare[14, 14] - 1.2).abs() < .15                                     # ambient .2, and a window of level 1
    canvas = dict(kind="canvas", period=.1, slope=.2, angle=0., seed=0)
    far = dict(kind="far", place=[2., 0., 2.], aim=[0., 0., 0.], level=[1.]*3, size=.01, cone=1., blend=0.)
    flat, woven = (render_passes(paint, [job | dict(objects=[], lamps=[far], relief=relief)], threads=1).bare
                   for relief in (None, canvas))
    assert woven[0, 0].std() > 5*flat[0, 0].std() and abs(woven.mean()/flat.mean() - 1) < .1
