"What stands for a restoration in tests/test_cluster.py: as many files, as little work. Workers import it."
import os, signal, sys, time
from pathlib import Path

from htcv import restore_command
from htcv.files import Busy, atomic_folder
from htcv.restore_command import Outcome


def restore_stub(folder, out, force=False, **options):
    "A fifth of a second's work; a folder that holds `kills` ends its process, one that holds `eats` fills its memory."
    if (out/"layers.json").exists() and not force: return Outcome(folder.name, "done before")
    try:
        with atomic_folder(out, "layers.json", force) as draft:
            (draft/"begun").touch()
            if (folder/"kills").exists(): os.kill(os.getpid(), signal.SIGKILL)
            eaten = b"x"*700_000_000 if (folder/"eats").exists() else b""
            time.sleep(10 if eaten else .2)
            (draft/"begun").rename(draft/"layers.json")
    except Busy: return Outcome(folder.name, "claimed", note="another process has it")
    with open(out.parent.with_suffix(".log"), "a") as log: log.write(f"{folder.name}\n")
    return Outcome(folder.name, "restored", .2)


if __name__ == "__main__":
    import cluster_stub  # under the name by which workers find it
    restore_command.restore_one = cluster_stub.restore_stub
    sys.exit(restore_command.htcv_restore())
