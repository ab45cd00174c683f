"A restoration that is killed: at ten places, by four signals, into a fresh folder and over an older result."
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from htcv.benchmark_files import benchmark_folder
from kill_stub import MOMENTS

SIGNALS = {'KILL': -9, 'TERM': 143, 'HUP': 129, 'INT': 130}  # and the exit status that follows
CASES = [(name, moment, force) for force in (False, True) for moment in MOMENTS for name in SIGNALS]
CHANCE = random.Random(39)  # all signals, both kinds of folder
if 'HTCV_ALL_KILLS' not in os.environ:  # all 80 by hand; else one of each moment
    CASES = [CHANCE.choice([case for case in CASES if case[1] == moment]) for moment in MOMENTS]


@pytest.fixture(scope='module')
def server():
    "Runs commands in processes of their own, without importing everything each time."
    process = subprocess.Popen([sys.executable, Path(__file__).with_name('kill_stub.py')], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, bufsize=1)
    yield process
    process.stdin.write('null\n'); process.stdin.close(); process.wait(60)


def run(server, folder, *words, moment=None, number=None):
    "Exit status of a command, perhaps killed at a moment; and the last line of what it said."
    said = folder.parent/'said.txt'
    task = dict(folder=str(folder), words=['shots', '--out', 'out', *words], moment=moment, said=str(said))
    server.stdin.write(json.dumps(task) + '\n')
    child = int(server.stdout.readline())
    if moment:
        assert server.stdout.readline() == 'begun\n'
        os.kill(child, number)
    return int(server.stdout.readline()), said.read_text().strip().rpartition('\n')[2]


def contents(folder):
    "Bytes of all files by name; None where there is no folder."
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()} if folder.exists() else None


@pytest.fixture(scope='module')
def results(server, tmp_path_factory):
    "Photographs, and two whole results of which the older was made from three of them."
    folder = tmp_path_factory.mktemp('whole')/'here'
    (folder/'shots').mkdir(parents=True)
    for n in range(1, 5):
        with Image.open(benchmark_folder()/'6'/f'{n}.png') as image: image.convert('RGB').resize((128, 128)).save(folder/f'shots/{n}.png')
    (folder/'shots/4.png').rename(folder/'4.png')
    assert run(server, folder)[0] == 0
    (folder/'out').rename(folder/'older'); (folder/'4.png').rename(folder/'shots/4.png')
    assert run(server, folder)[0] == 0
    assert contents(folder/'older') != contents(folder/'out')
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('name, moment, force', CASES)
def test_a_kill_leaves_nothing_half_made(server, results, tmp_path, name, moment, force):
    here, words = tmp_path/'here', ['--force']*force
    here.mkdir(); shutil.copytree(results/'shots', here/'shots')
    if force: shutil.copytree(results/'older', here/'out')
    older, whole = contents(here/'out'), contents(results/'out')
    status, said = run(server, here, *words, moment=moment, number=getattr(signal, f'SIG{name}'))
    found = contents(here/'out')
    assert found in (None, older, whole), 'half made'
    assert status == SIGNALS[name]
    if name != 'KILL':  # what it can still say is true, and it tidies up
        assert said == f'htcv_restore: interrupted: {"out is complete" if found == whole else "nothing was written"}'
        assert found is not None or not force, 'the older result is gone'
        assert sorted(os.listdir(here)) == ['out', 'shots'][found is None:]
    again = MOMENTS.index(moment) % 2  # with --force or without
    status, said = run(server, here, *['--force']*again)
    assert sorted(os.listdir(here)) == ['out', 'shots'], 'something is left behind'
    if again or found is None and not force: assert status == 0 and contents(here/'out') == whole
    else: assert status == 2 and 'pass --force' in said and contents(here/'out') in (older, whole)
