"The stages of the report on a folder: memory, a kill, two processes, other data."
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from htcv.sequences import write_sequence
from htcv.synthesis import synthesize

ROOT = Path(__file__).resolve().parents[1]
# The command, in a file, so that Lightning Fabric can start it once more for each further process; prints its peak memory.
SCRIPT = '''
import resource, sys
sys.path.insert(0, %r)
from htcv.train_command import htcv_train
if __name__ == '__main__':
    status = htcv_train()
    print('peak MB', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024)
    sys.exit(status)
''' % str(ROOT)


def write_folder(root, size, n=6, T=10, seed=0):
    for i in range(n):
        frames, layers = synthesize(1, T, size, seed=seed + i)
        write_sequence(root/'SIAR'/str(i), frames[0], layers.source[0])
    return root


@pytest.fixture(scope='module')
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp('command')/'train.py'
    path.write_text(SCRIPT)
    return path


def command(script, *arguments): return [sys.executable, str(script), *map(str, arguments)]


def run(script, *arguments):
    environment = os.environ | dict(OMP_NUM_THREADS='1', NO_ALBUMENTATIONS_UPDATE='1')
    done = subprocess.run(command(script, *arguments), capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


SMALL = ('--preset', 'tiny', '--size', 32, '--batch', 4, '--accumulate', 1, '--epoch', 2)


@pytest.fixture(scope='module')
def small(tmp_path_factory): return write_folder(tmp_path_factory.mktemp('small'), 32, n=10, T=3)


def test_two_processes_learn_what_one_learns(script, small, tmp_path):
    losses = []
    for devices in (1, 2):
        out = tmp_path/str(devices)
        run(script, small, *SMALL, '--steps', 3, '--stage', 'rgb', '--devices', devices, '--out', out)
        stages = 'encoder', 'source', 'light_shadow', 'finetuned', 'mask-difference', 'rgb-v2-decay'
        records = [json.loads((out/f'{name}.json').read_text()) for name in stages]
        losses.append([step['loss'] for record in records for step in record['history']])
    assert losses[0][0] == pytest.approx(losses[1][0], abs=2e-6) # before the first step there is no difference at all …
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)       # … and then what rounding makes of it through Adam


def test_killed_and_started_again_ends_with_the_same_weights(script, small, tmp_path):
    options = small, *SMALL, '--steps', 12, '--stage', 'source', '--out'
    run(script, *options, tmp_path/'whole')
    process = subprocess.Popen(command(script, *options, tmp_path/'killed'), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path/'killed'/'source.checkpoint'
    while not checkpoint.exists() and process.poll() is None: time.sleep(.005)
    process.send_signal(signal.SIGKILL); process.wait()
    run(script, *options, tmp_path/'killed')
    whole, killed = (load_file(tmp_path/name/'source.safetensors') for name in ('whole', 'killed'))
    assert same(whole, killed)


def test_other_data_never_get_old_weights(script, small, tmp_path):
    options = *SMALL, '--steps', 2, '--stage', 'encoder', '--out', tmp_path/'out'
    run(script, small, *options)
    first = load_file(tmp_path/'out'/'encoder.safetensors')
    run(script, write_folder(tmp_path/'other', 32, n=10, T=3, seed=50), *options)
    assert not same(first, load_file(tmp_path/'out'/'encoder.safetensors'))


@pytest.mark.slow
@pytest.mark.parametrize('preset', ['compact', 'report'])
def test_every_stage_at_full_size_in_four_gigabytes(script, tmp_path, preset):
    root = write_folder(tmp_path/'full', 256)
    for stage in ('joint', 'naive'):
        said = run(script, root, '--preset', preset, '--size', 256, '--batch', 1, '--accumulate', 1, '--steps', 1,
                   '--stage', stage, '--out', tmp_path/'out')
        assert int(said.split('peak MB')[1]) < 4000, said
