"A process that is killed at random steps ends with the weights of one that was not."
import random, signal, subprocess, sys

import pytest
import torch

from htcv.decomposer import load_decomposer
from htcv.sequences import write_sequence
from htcv.synthesis import synthesize

STEPS = 9

# One training of a folder of sequences, shuffled and augmented; it kills itself at step `kill` if that is reached.
SCRIPT = '''
import os, signal, sys
import torch, torch.nn.functional as F
from htcv.sequence_dataset import SequenceDataset
from htcv.training import Settings, Stage, train
torch.set_num_threads(1)
root, folder, kill = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = SequenceDataset(root, n_frames=2, augment=True, seed=5), SequenceDataset(root, n_frames=2)
calls = 0
def source_loss(model, batch):
    global calls
    calls += torch.is_grad_enabled()
    if calls == kill: os.kill(os.getpid(), signal.SIGKILL)
    return dict(loss=F.mse_loss(model(batch['frames'], heads=('source',)).source, batch['source']))
settings = Settings(preset='tiny', size=24, n_frames=2, batch_size=2, epoch=2, seed=1)
train(Stage('killed', ('encoder', 'source'), source_loss, steps=%d), settings, data=data, folder=folder, progress=False)
print('finished')
''' % STEPS


def run(root, folder, kill=-1):
    return subprocess.run([sys.executable, '-c', SCRIPT, str(root), str(folder), str(kill)], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope='module')
def sequences(tmp_path_factory):
    root = tmp_path_factory.mktemp('SIAR')
    frames, layers = synthesize(5, n_frames=3, size=24, seed=2)
    for i in range(5): write_sequence(root/str(i), frames[i], source=layers.source[i])
    return root


def test_three_kills_change_nothing(sequences, tmp_path):
    whole = run(sequences, tmp_path/'whole')
    assert whole.returncode == 0, whole.stderr
    for kill in random.Random(11).choices(range(1, 5), k=3):   # counted from each start: a resumed run begins at its last epoch
        killed = run(sequences, tmp_path/'killed', kill)
        assert killed.returncode == -signal.SIGKILL, (kill, killed.stdout, killed.stderr)
        assert not (tmp_path/'killed'/'killed.safetensors').exists()
    resumed = run(sequences, tmp_path/'killed')
    assert resumed.returncode == 0, resumed.stderr
    a, b = (load_decomposer(tmp_path/name/'killed.safetensors').state_dict() for name in ('whole', 'killed'))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a), 'the resumed weights differ'
    assert not (tmp_path/'killed'/'killed.checkpoint').exists()
