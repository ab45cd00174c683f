"""Works through the runs of the mask studies (chapters 50, 51, 52): one JSON each in results/mask_study/, what is there is kept.

    run_study.py [--size 64] [--seeds 0 1 2] [--jobs 2] [--only 'decay, '] [--dry-run]
    run_study.py --check [--jobs 2]      the conclusions again at 128 pixels, one seed, twice the steps
    run_study.py --shown [--jobs 2]      masks and colours of some of the runs, for the explorers of 32 and 51

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
SHOWN = 5  # of the held-out sequences


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


def shown_runs():
    "Some weights of three sweeps, and hard ⊕ without regularisation: what the explorers and the figures of chapter 51 show."
    from htcv.occlusion_ablation import MaskRun
    decays, labels = (.003, .01, .045, .1, .15, .3, 1.), (.01, .1, 1., 10.)
    runs = [MaskRun("predicted", decay=x) for x in (.06, .01, .08, .03, .1, .2)]
    runs += [MaskRun(mode="hard"), MaskRun()] + [MaskRun(decay=x) for x in decays] + [MaskRun(label_weight=x) for x in labels]
    return {run.name: run for run in runs}


def strip(*rows):
    "Stacks (C,T,H,W), C 1 or 3, as one image (3,rows·H,T·W)."
    import torch
    return torch.cat([row.float().expand(3, -1, -1, -1).movedim(1, 2).flatten(2) for row in rows], 1)


def look(size, seed, run, place_of):
    "Mask and colour of one run on the three most hidden frames of a held-out sequence, as an image."
    import torch
    from htcv.images import write_image
    from htcv.evaluation import mask_counts
    from htcv.occlusion_ablation import answers_of, has_bfloat16, train_mask, warm_start
    target = place_of/f"{run.name}.png"
    if target.exists(): return target.stem, "is there"
    torch.set_num_threads(1)
    settings, data, fast = settings_of(size, seed), data_of(size, seed), has_bfloat16()
    model = warm_start(run.start, settings, place(size, seed))
    train_mask(model, run, data["train"], settings, fast=fast)
    unseen = data["held out"]
    mask, rgb = answers_of(model, unseen, fast)
    hits, wrong, missed = mask_counts(mask, unseen["label exact"].float()).sum(0).tolist()
    frames = most_hidden(unseen)
    write_image(target, strip(mask[SHOWN][:, frames], rgb[SHOWN][:, frames]))
    return target.stem, f"IoU {hits/(hits + wrong + missed):.3f}, coverage {(mask >= .5).float().mean():.3f}"


def most_hidden(unseen):
    return unseen["label exact"][SHOWN].float().mean((0, 2, 3)).argsort(descending=True)[:3].sort().values


def show(size, seed, jobs):
    "What the explorers show: one image for each run, and one of frames, exact mask, label and the images below."
    from htcv.images import write_image
    from htcv.occlusion_ablation import study_folder
    folder, runs = study_folder(size, seed).parent/"shown", shown_runs()
    folder.mkdir(exist_ok=True)
    prepare(size, seed, {run.start for run in runs.values()} | {"fresh"})
    unseen = data_of(size, seed)["held out"]
    rows = "frames", "label exact", "label difference", *(f"picture {name}" for name in ("pseudo", "target", "predicted", "exact"))
    frames = most_hidden(unseen)
    write_image(folder/"below.png", strip(*(unseen[name][SHOWN][:, frames].float() for name in rows)))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(look, size, seed, run, folder) for run in runs.values()]): print(*done.result(), flush=True)


def main():
    from htcv.occlusion_ablation import checked_runs, study_folder, study_runs
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="pixels on a side")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side, one thread each")
    parser.add_argument("--only", default="", help="questions whose name starts so")
    parser.add_argument("--dry-run", action="store_true", help="say what is missing")
    parser.add_argument("--check", action="store_true", help="the larger setting")
    parser.add_argument("--shown", action="store_true", help="images of some runs")
    options = parser.parse_args()
    if options.check: options.size, options.seeds = 128, [0]
    if options.shown: return show(64, 0, options.jobs)
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
