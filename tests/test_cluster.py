"Many folders by processes that die: the engine of `--each --jobs N` and `--each --scheduler`."
import json, os, signal, subprocess, sys, threading, time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("distributed")
import psutil
from cluster_stub import restore_stub

from htcv import cluster, restore_command
from htcv.restore_command import restore_each

TESTS = Path(__file__).parent
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def album(tmp_path, monkeypatch):
    "Makes so many folders, by name, in a current folder of its own; the work on them is a stub's."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(restore_command, "restore_one", restore_stub)
    def make(n, **files): # of folders that are not as the others, by number
        for i in range(n):
            Path("album", str(i)).mkdir(parents=True)
            Path("album", str(i), files.get(f"of_{i}", "1.png")).touch()
        return [str(i) for i in range(n)]
    return make


def complete(out="out"): return [path.parent.name for path in Path(out).glob("[!.]*/layers.json")]


def until(true, seconds=60):
    "Waits for what another process does."
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(.02)


def statuses(outcomes): return Counter(outcome.status for outcome in outcomes)


def begun(*words, script=TESTS/"cluster_stub.py"):
    "The command in a session of its own, as a terminal would start it."
    return subprocess.Popen([sys.executable, script, *words], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


# ---- processes of this machine

@pytest.mark.slow
def test_who_kills_is_named_and_costs_nobody_else(album, monkeypatch):
    "Two killers among eight, one of which takes more memory than its share; a neighbour blamed with them is cleared."
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 10**9) # half of it for each
    names = album(8, of_1="kills", of_2="eats")
    found = {outcome.name: outcome for outcome in restore_each("album", "out", jobs=2)}
    assert list(found) == names
    for name in "12": assert found[name].status == "broken" and found[name].note == "its process was killed (memory?)"
    others = set(names) - {"1", "2"}
    assert {found[name].status for name in others} <= {"restored", "done before"}, "done before: its process died before it could tell"
    assert Counter(Path("out.log").read_text().split()) == Counter(others)
    assert sorted(os.listdir("out")) == sorted(others), "no draft, no lock is left"


@pytest.mark.slow
@pytest.mark.parametrize("number, to_all, status", [(signal.SIGKILL, False, -9), (signal.SIGTERM, False, 143), (signal.SIGINT, True, 130)])
def test_no_process_outlives_its_parent_and_the_same_line_does_the_rest(album, number, to_all, status):
    names = album(20)
    line = "album", "--each", "--out", "out", "--jobs", "2"
    parent = begun(*line)
    until(lambda: len(complete()) >= 2)
    family = psutil.Process(parent.pid).children(recursive=True)
    assert len(family) >= 2
    os.killpg(parent.pid, number) if to_all else parent.send_signal(number)
    _, said = parent.communicate(timeout=60)
    assert not psutil.wait_procs(family, timeout=5)[1]
    done = {name: os.stat(f"out/{name}/layers.json").st_ino for name in complete()}
    assert parent.returncode == status and 2 <= len(done) < 20
    if number != signal.SIGKILL:
        assert said.endswith(" folders are complete in out; the same line does the rest\n") and said.count("\n") == 1, said
        assert sorted(os.listdir("out")) == sorted(done), "what was begun is cleared away"
    found = restore_each("album", "out")
    assert statuses(found) == {"done before": len(done), "restored": 20 - len(done)}
    assert all(os.stat(f"out/{name}/layers.json").st_ino == inode for name, inode in done.items())
    assert sorted(os.listdir("out")) == sorted(names)


@pytest.mark.slow
def test_an_interrupt_before_the_first_folder(album):
    "Ctrl-C while processes are being started."
    album(4)
    parent = begun("album", "--each", "--out", "out", "--jobs", "2")
    until(lambda: len(psutil.Process(parent.pid).children()) >= 2)
    family = psutil.Process(parent.pid).children(recursive=True)
    os.killpg(parent.pid, signal.SIGINT)
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == 130 and said.endswith("htcv_restore: interrupted: nothing was written\n"), said
    assert not psutil.wait_procs(family, timeout=5)[1]


def test_what_is_said_of_very_many(album, capsys):
    album(150)
    for i in range(140): Path(f"out/{i}").mkdir(parents=True); Path(f"out/{i}/layers.json").touch()
    assert restore_command.htcv_restore(["album", "--each", "--out", "out"]) == 0
    said = capsys.readouterr()
    assert said.out == "10 restored, 140 done before\n" and said.err.count("\n") < 30
    head, *rows = said.err.splitlines()
    assert head.split() == ["name", "status", "seconds", "note"] and "… and 130 more" in rows


# ---- a scheduler that exists

@pytest.fixture
def scheduler(tmp_path):
    "Address of a scheduler, and a function that starts a worker of it."
    begun, file = [], tmp_path/"scheduler.json"
    def start(tool, *words):
        command = [sys.executable, "-m", f"distributed.cli.dask_{tool}", "--no-dashboard", *words]
        begun.append(subprocess.Popen(command, env=ENVIRONMENT, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return begun[-1]
    process = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
    until(lambda: file.exists() and file.read_text().endswith("}"))
    address = json.loads(file.read_text())["address"]
    yield address, lambda: start("worker", address, "--nthreads", "1", "--no-nanny"), process
    for process in begun: process.kill()
    for process in begun: process.wait()


def in_background(work):
    "A thread, and a list that will hold what it returns."
    found = []
    def run():
        try: found.append(work())
        except BaseException as error: found.append(error)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, found


def each_once_though_workers_die(scheduler, n, **options):
    "n folders by two workers; both are killed on the way and one comes back."
    address, worker, _ = scheduler
    first, second = worker(), worker()
    thread, found = in_background(lambda: restore_each("album", "out", scheduler=address, **options))
    until(lambda: len(complete()) >= 3)
    seen = {name: os.stat(f"out/{name}/layers.json").st_ino for name in complete()}
    first.kill()
    until(lambda: len(complete()) >= 8)
    second.kill(); second.wait()
    at_death = len(complete())
    assert at_death < n
    worker()
    thread.join(timeout=200)
    assert len(found[0]) == n and set(statuses(found[0])) <= {"restored", "done before"}, found
    assert statuses(found[0])["restored"] >= n - 2, "a result whose worker died before it could tell is done before"
    assert all(os.stat(f"out/{name}/layers.json").st_ino == inode for name, inode in seen.items())


@pytest.mark.slow
def test_each_folder_once_though_workers_die(album, scheduler):
    names = album(40)
    each_once_though_workers_die(scheduler, 40)
    counts = Counter(Path("out.log").read_text().split())
    assert max(counts.values()) == 1 and sorted(os.listdir("out")) == sorted(names)


@pytest.mark.slow
def test_each_restoration_once_though_workers_die(tmp_path, monkeypatch, scheduler):
    "The same with the network, on photographs of 16 to 32 pixels."
    from htcv.images import write_image
    from htcv.rendering import benchmark_folder
    from htcv.sequences import read_sequence
    monkeypatch.chdir(tmp_path)
    frames = read_sequence(benchmark_folder()/"6", numbers=[1, 2]).frames
    for i in range(40):
        Path("album", str(i)).mkdir(parents=True)
        for t in range(2): write_image(f"album/{i}/{t}.png", frames[:, t, :16 + i % 17, :32 - i % 9])
    each_once_though_workers_die(scheduler, 40, layers=False, weights="fusion-small")
    assert sorted(os.listdir("out")) == sorted(map(str, range(40)))
    assert all(json.loads(Path("out", str(i), "layers.json").read_text())["height"] == 16 + i % 17 for i in range(40))


@pytest.mark.slow
def test_two_clients_of_one_scheduler(album, scheduler):
    "Every folder is done by one of them; nobody waits for the other."
    address, worker, _ = scheduler
    album(10); worker(); worker()
    both = [in_background(lambda: restore_each("album", "out", scheduler=address)) for _ in range(2)]
    for thread, _ in both: thread.join(timeout=100)
    restored = sum(statuses(found[0])["restored"] for _, found in both)
    assert restored == 10 and Counter(Path("out.log").read_text().split()) == Counter(map(str, range(10)))
    assert sum(statuses(found[0])["claimed"] for _, found in both) <= 1


@pytest.mark.slow
def test_a_scheduler_that_goes_away(album, scheduler, capsys):
    address, worker, process = scheduler
    album(40); worker()
    thread = threading.Thread(target=lambda: (until(lambda: len(complete()) >= 3), process.kill()))
    thread.start()
    assert restore_command.htcv_restore(["album", "--each", "--out", "out", "--scheduler", address]) == 1
    said = capsys.readouterr().err
    assert "the scheduler is gone" in said and said.endswith("folders are complete in out; the same line does the rest\n"), said


# ---- what is refused

@pytest.mark.parametrize("words, answer", [
    (["--jobs", "2", "--scheduler", "tcp://a:1", "--each"], "takes the place of --jobs"), (["--scheduler", "tcp://a:1"], "--scheduler is for --each"),
    (["--each", "--scheduler", "tcp://127.0.0.1:9"], "no scheduler answers at tcp://127.0.0.1:9"), (["--each", "--scheduler", "nonsense://x"], "no scheduler answers"),
])
def test_wrong_use(album, monkeypatch, capsys, words, answer):
    album(2)
    monkeypatch.setattr(cluster, "CONNECT", .2)
    assert restore_command.htcv_restore(["album", "--out", "out", *words]) == 2
    said = capsys.readouterr().err
    assert answer in said and said.count("\n") == 1 and not complete(), said


def test_without_dask_it_says_how_to_get_it(album, monkeypatch, capsys):
    album(2)
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    for words in (["--jobs", "2"], ["--scheduler", "tcp://a:1"]):
        assert restore_command.htcv_restore(["album", "--each", "--out", "out", *words]) == 2
        assert capsys.readouterr().err == "htcv_restore: several processes need dask, which is not installed: pip install 'htcv[cluster]'\n"
    assert restore_command.htcv_restore(["album", "--each", "--out", "out"]) == 0, "one process needs no dask"
