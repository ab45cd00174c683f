"""Time and memory of `htcv_restore` on large photographs, and folders a minute against processes.

    measure_restore.py [--megapixels 12] [--frames 10] [--sequences 12] [--jobs 1 2]     writes results/62_restore_command.json
"""
import argparse, os, subprocess, sys, tempfile, time
from pathlib import Path

import cv2
import numpy as np

COMMAND = [sys.executable, "-c", "import sys; from htcv.restore_command import htcv_restore; sys.exit(htcv_restore())"]


def large_photographs(folder, megapixels, frames):
    "Frames of the benchmark, enlarged, with a grain that no enlargement has, as JPEG."
    from htcv.rendering import benchmark_folder
    folder.mkdir()
    rows = round((megapixels*1e6*3/4)**.5)
    size, rng = (rows*4//3, rows), np.random.default_rng(0)
    grain = rng.integers(-12, 13, (size[1], size[0], 1), np.int16)
    for t in range(frames):
        small = cv2.imread(str(benchmark_folder()/"6"/f"{t % 10 + 1}.png"))
        picture = cv2.resize(small, size, interpolation=cv2.INTER_CUBIC) + grain
        cv2.imwrite(str(folder/f"{t + 1}.jpg"), picture.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92])


def timed(*words):
    "Seconds, and the largest memory in GiB."
    began = time.perf_counter()
    process = subprocess.Popen([*COMMAND, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status: raise RuntimeError(f"htcv_restore {words} ended with status {status}")
    return time.perf_counter() - began, usage.ru_maxrss/2**20


def throughput(home, sequences, jobs):
    "The same folders with more and more processes."
    from htcv.rendering import benchmark_folder
    (home/"album").mkdir()
    for i in range(sequences): (home/"album"/str(i)).symlink_to(benchmark_folder()/str(i % 12 + 1))
    rows = []
    for n in jobs:
        seconds, _ = timed(home/"album", "--each", "--jobs", n, "--out", home/f"out-{n}")
        rows.append(dict(jobs=n, seconds=seconds, sequences_per_minute=60*sequences/seconds))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--sequences", type=int, default=12)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    from htcv.plots import markdown_table, save_results
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        large_photographs(home/"large", options.megapixels, options.frames)
        large = [dict(zip(("what", "seconds", "gigabytes"), (what, *timed(home/"large", "--out", home/what, *words))))
                 for what, words in [("source only, aligned", ["--no-layers", "--align"]), ("all layers", [])]]
        rows = throughput(home, options.sequences, options.jobs)
    print(markdown_table(large), markdown_table(rows), sep="\n\n")
    save_results("62_restore_command", dict(large=large, throughput=rows), dict(vars(options), cores=os.cpu_count(), threads=os.environ.get("OMP_NUM_THREADS")),
                 0, times=dict(load_before=load))


if __name__ == "__main__": main()
