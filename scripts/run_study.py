"""Works through the runs of the mask studies (chapters 50, 51, 52): one JSON each in results/mask_study/, what is there is kept.

    run_study.py [--size 64] [--seeds 0 1 2] [--jobs 2] [--only 'decay, '] [--dry-run]
    run_study.py --check [--jobs 2]      the conclusions again at 128 pixels, one seed, twice the steps

A seed's stages (weights up to the mask, chapters 10 to 31) and the answers of all that is frozen are made first if they
are missing, below runs/study/. Killed at any time, it goes on where it was.
"""
import argparse, os, time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ["HTCV_SCALE"] = "cpu"  # what the studies are made at, and where their results lie
HELD_OUT, WATCHED = 16, 8


def place(size, seed): return ROOT/"runs"/"study"/f"{size}-{seed}"


def settings_of(size, seed):
    from htcv.training import default_settings
    return default_settings(size=size, seed=seed)


def prepare(size, seed, starts):
    "The stages and the frozen answers of a seed, on disk."
    import torch
    from safetensors.torch import save_file
    from htcv.occlusion_ablation import study_data, warm_start
    torch.set_num_threads(1)
    folder, settings = place(size, seed), settings_of(size, seed)
    for start in starts: warm_start(start, settings, folder)
    parts = {"train": settings.pool, "validation": settings.validation, "held out": HELD_OUT}
    for name, length in parts.items():
        path = folder/f"{name}.safetensors"
        if path.exists(): continue
        data = study_data(warm_start("fresh", settings, folder), length, settings, name)
        draft = path.with_suffix(f".{os.getpid()}")
        save_file({key: x.contiguous() for key, x in data.items()}, draft)
        draft.replace(path)


@lru_cache(maxsize=1)
def data_of(size, seed):
    from safetensors.torch import load_file
    return {name: load_file(place(size, seed)/f"{name}.safetensors") for name in ("train", "validation", "held out")}


def work(size, seed, run):
    "One run, scored and written down."
    import torch
    from htcv.occlusion_ablation import has_bfloat16, score_run, study_folder, train_mask, warm_start, watcher
    from htcv.plots import save_results
    path = study_folder(size, seed)/f"{run.name}.json"
    if path.exists(): return path.stem, seed, "is there"
    torch.set_num_threads(1)
    settings, data, fast, began = settings_of(size, seed), data_of(size, seed), has_bfloat16(), time.time()
    model, course = warm_start(run.start, settings, place(size, seed)), []
    watched = {name: x[:WATCHED] for name, x in data["validation"].items()}
    losses = train_mask(model, run, data["train"], settings, fast=fast, watch=watcher(watched, course, fast))
    found = score_run(model, run, data["held out"], data["validation"], fast)
    config = dict(run=asdict(run), settings=asdict(settings), held_out=HELD_OUT, precision="bfloat16" if fast else "float32")
    save_results(str(path.relative_to(ROOT/"results").with_suffix("")), found | dict(course=course, losses=losses[::5]), config, seed,
                 dict(seconds=round(time.time() - began, 1)))
    return path.stem, seed, round(time.time() - began, 1), found["cut"], course[-1]


def main():
    from htcv.occlusion_ablation import checked_runs, study_folder, study_runs
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="pixels on a side")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side, one thread each")
    parser.add_argument("--only", default="", help="questions whose name starts so")
    parser.add_argument("--dry-run", action="store_true", help="say what is missing")
    parser.add_argument("--check", action="store_true", help="the larger setting")
    options = parser.parse_args()
    if options.check: options.size, options.seeds = 128, [0]
    questions = {name: {name: run} for name, run in checked_runs().items()} if options.check else study_runs()
    runs = {run.name: run for name, of in questions.items() if name.startswith(options.only) for run in of.values()}
    for seed in options.seeds:
        study_folder(options.size, seed).mkdir(parents=True, exist_ok=True)
        missing = [run for run in runs.values() if not (study_folder(options.size, seed)/f"{run.name}.json").exists()]
        print(f"{options.size} pixels, seed {seed}: {len(missing)} of {len(runs)} runs are missing", flush=True)
        if options.dry_run or not missing: continue
        prepare(options.size, seed, {run.start for run in missing} | {"fresh"})
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
            for done in as_completed([pool.submit(work, options.size, seed, run) for run in missing]): print(*done.result(), flush=True)


if __name__ == "__main__": main()
