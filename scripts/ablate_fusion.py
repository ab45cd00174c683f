"""Short runs of the small fusion network, one for each idea, scored on validation and on the benchmark (chapter 43).

    ablate_fusion.py [--steps 500] [NAME ...]     each into results/43_ablation-*.json; what is there is kept

Needs what train_fusion.py needs.
"""
import argparse, json, tempfile, time
from dataclasses import replace
from pathlib import Path

import torch

from htcv.fusion_training import ABLATIONS, ablation_stage, scene_data, score_model
from htcv.plots import artefact_folder, save_results
from htcv.rendering import benchmark_folder
from htcv.sequences import read_layers, read_sequence
from htcv.training import LAYERS, Settings, load_run, train

ROOT = Path(__file__).resolve().parents[1]


def benchmark():
    "The shipped sequences, as dicts of tensors."
    for folder in sorted(benchmark_folder().glob("[0-9]*"), key=lambda p: int(p.name)):
        layers, frames = read_layers(folder), read_sequence(folder).frames
        yield dict(frames=frames) | {name: getattr(layers, name)[0] for name in LAYERS}


def equal_time(stage, preset, settings, data, steps):
    "How many steps another network takes in the time that `everything` took."
    first = json.loads((artefact_folder("results")/"43_ablation-everything.json").read_text())
    began, few = time.time(), replace(stage, name="trial", steps=6)
    with tempfile.TemporaryDirectory() as folder:
        train(few, Settings(**(vars(settings) | dict(preset=preset))), (data[0], data[1].like(length=1)), folder=folder, progress=False)
    return max(10, round(first["times"]["seconds"]/(time.time() - began)*6))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(ABLATIONS))
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(preset="", size=128, n_frames=6, batch_size=4, pool=400, validation=40, epoch=100)
    shared = scene_data(ROOT/"data", drawn=1000, length=400, validation=40)
    tests = list(benchmark())
    for name in options.names:
        what = ABLATIONS[name]
        stage, preset = ablation_stage(name, options.steps)
        if (artefact_folder("results")/f"43_{stage.name}.json").exists(): continue
        data = shared[0].like(n_frames=6, generators=what.get("generators"), augment=what.get("augment", True), varnish=what.get("varnish", True)), shared[1].like(length=8, n_frames=6)
        began = time.time()
        if "preset" in what: stage = replace(stage, steps=equal_time(stage, preset, settings, data, options.steps))
        model = train(stage, Settings(**(vars(settings) | dict(preset=preset))), data, folder=ROOT/"runs"/"ablation")
        run = load_run(stage, ROOT/"runs"/"ablation")
        homes = {kind: shared[1].like(generators=(kind,)) for kind in ("drawn", "rendered")}
        scores = {kind: score_model(model, (home[i] for i in range(10))) for kind, home in homes.items()}
        scores["benchmark"] = score_model(model, tests)
        save_results(f"43_{stage.name}", dict(rows=scores, loss=run["validation"]),
                     dict(name=name, stage=run["stage"], settings=run["settings"], data=run["data"]), 0,
                     dict(seconds=run["seconds"], total=round(time.time() - began, 1)))
        mean = lambda rows, key: sum(row[key] for row in rows)/len(rows)
        print(name, f"{time.time() - began:.0f} s", {k: {m: round(mean(v, m), 3) for m in ("psnr", "psnr_after_gain", "iou", "shadow_mae", "light_mae")}
                                                     for k, v in scores.items()}, flush=True)


if __name__ == "__main__": main()
