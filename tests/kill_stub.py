"A command that stops at a place of its work, so that a test can kill it there."
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

MOMENTS = ('reading', 'read', 'first rows', 'half of the rows', 'last bytes', 'sheet', 'record',
           'before it takes its name', 'when it has its name', 'summary')


def stop():
    "Says so, and waits for the end; a thread that only writes goes on in the end."
    os.write(1, b'begun\n')
    main = threading.current_thread() is threading.main_thread()
    time.sleep(60 if main else 4)


def at(owner, name, times=1, after=False):
    "Stops at the call of a function, or after it."
    real, calls = getattr(owner, name), []
    def stopping(*args, **options):
        calls.append(1)
        if len(calls) != times: return real(*args, **options)
        if not after: stop()
        result = real(*args, **options)
        if after: stop()
        return result
    setattr(owner, name, stopping)


def prepare(moment, force):
    "Puts a stop into the run."
    from htcv import restore, restore_command, restored_files
    renames = 2 if force else 1  # the older result is set aside first
    places = {'reading': (restore, 'load_frames'), 'read': (restore, 'load_frames', 1, True),
              'first rows': (restored_files.StripWriter, 'append'),
              'half of the rows': (restored_files.StripWriter, 'append', 9),
              'last bytes': (restored_files.PngRows, 'close', 3), 'sheet': (restored_files, 'save_sheet'),
              'record': (restored_files, 'write_record'), 'before it takes its name': (Path, 'rename', renames),
              'when it has its name': (Path, 'rename', renames, True), 'summary': (restore_command, '_summary')}
    at(*places[moment])


def serve():
    "One run for each line of stdin, in a process of its own that has everything imported."
    import matplotlib.pyplot
    import torch
    from htcv import restore, restore_command, restore_folder, restored_files
    torch.set_num_threads(1)
    restore_folder._restorer(None, 'cpu')
    for line in sys.stdin:
        task = json.loads(line)
        if task is None: return
        child = os.fork()
        if not child: os._exit(run(restore_command, **task))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(command, folder, words, moment, said):
    "The command in this process."
    os.setpgid(0, 0)
    os.chdir(folder)
    # a shell that starts tests behind itself, or nohup, has signals ignored
    for number in (signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if moment: prepare(moment, '--force' in words)
    with open(os.devnull, 'w') as sys.stdout, open(said, 'w') as sys.stderr: return command.htcv_restore(words)


if __name__ == '__main__': serve()
