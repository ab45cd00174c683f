"""Runs in the kernel of each notebook, before its first cell: notes after every cell the processor time so far and the most
memory, and meanwhile which files below `results/`, `runs/` and `figures/` were opened. `run_notebooks.py` reads it."""


def _watch():
    import os, resource, sys
    from IPython import get_ipython
    root = os.environ["HTCV_PROBE_ROOT"] + os.sep
    log, seen = open(os.environ["HTCV_PROBE_LOG"], "a", buffering=1, encoding="utf-8"), set()

    def note(kind, path):
        path = os.path.abspath(os.fsdecode(path))
        inside = path.removeprefix(root)
        if inside == path or not inside.startswith(("results/", "runs/", "figures/")) or (kind, inside) in seen: return
        seen.add((kind, inside))
        log.write(f"{kind} {inside}\n")

    def hook(event, arguments):
        if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            note("write" if arguments[2] & (os.O_WRONLY | os.O_RDWR) else "read", arguments[0])
        elif event == "os.rename": note("write", arguments[1])  # a draft moved to its place

    def after(_):
        times = os.times()
        log.write(f"cell {sum(times[:4]):.2f}\ngigabytes {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20:.2f}\n")

    sys.addaudithook(hook)
    get_ipython().events.register("post_run_cell", after)


_watch()
del _watch
