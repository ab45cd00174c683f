"""Chooses the mask's threshold on validation sequences, and puts trained weights and their card into htcv/weights.

    ship_weights.py [PRESET ...]     from runs/fusion, as train_fusion.py left them
"""
import json, subprocess, sys
from pathlib import Path

import torch

from htcv.decomposer import count_parameters, load_decomposer, preset_config, save_decomposer, shipped_weights
from htcv.evaluation import mask_counts
from htcv.fusion_training import fusion_stage, scene_data, score_model
from htcv.plots import save_results
from htcv.sequences import read_layers, read_sequence, sequence_ids
from htcv.training import LAYERS

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT/"runs"/"fusion"
CUTS = [i/20 for i in range(4, 17)]
PRESETS = "fusion", "fusion-small"


def validation():
    "Sequences of the scene bank that nothing was trained on, and rendered ones at 256×256 where there are any."
    data = scene_data(ROOT/"data", drawn=200, length=4, validation=40)[1]
    for i in range(len(data)): yield data[i]
    if not (ROOT/"data"/"validation").is_dir(): return
    for name in sequence_ids(ROOT/"data"/"validation"):
        folder = ROOT/"data"/"validation"/name
        if not (folder/"gt.png").exists(): continue
        layers = read_layers(folder)
        yield dict(frames=read_sequence(folder).frames) | {part: getattr(layers, part)[0] for part in LAYERS}


@torch.no_grad()
def best_cut(model, items):
    "The threshold of the highest pooled IoU, and that IoU."
    counts = torch.zeros(len(CUTS), 3)
    for item in items:
        mask = model(item["frames"][None]).occlusion_mask
        for i, cut in enumerate(CUTS): counts[i] += mask_counts(mask, item["occlusion_mask"][None], cut)[0].float()
    hits, false, missed = counts[:, 0], counts[:, 1], counts[:, 2]
    overlap = hits/(hits + false + missed).clamp(min=1)
    return CUTS[int(overlap.argmax())], float(overlap.max())


def records(preset):
    "What was written down of both stages; of a preset that was not trained, nothing."
    stage = fusion_stage(preset, side=preset_config(preset).side)
    paths = [RUNS/f"{s.name}.json" for s in (stage.after, stage)]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def publish(record):
    "A stage in short, in results/: chapter 43 draws its curve."
    steps, seconds, settings = record["stage"]["steps"], record["seconds"], record["settings"]
    save_results(f"stage-{record['stage']['name']}", dict(validation=record["validation"], steps=steps),
                 dict(stage=record["stage"], settings=settings, data=record["data"], fingerprint=record["fingerprint"]), settings["seed"],
                 times=dict(seconds=seconds, sequences_per_second=round(steps*settings["batch_size"]/seconds, 2)))


def main(presets):
    torch.set_num_threads(1)
    items = list(validation())
    commit = subprocess.run(["git", "log", "-1", "--format=%h"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    lines = []
    for preset in presets:
        first, record = records(preset)
        for each in (first, record): publish(each)
        model = load_decomposer(RUNS/f"{record['stage']['name']}.safetensors")
        cut, overlap = best_cut(model, items)
        rows = score_model(model, items)
        mean = {key: sum(row[key] for row in rows)/len(rows) for key in ("psnr", "psnr_after_gain", "iou", "shadow_mae", "light_mae")}
        path = save_decomposer(model, shipped_weights(preset), half=True, threshold=cut, order="shadow_first", seed=record["settings"]["seed"],
                               recipe=json.dumps(record["stage"]), data=record["data"], commit=commit)
        lines += [f"## `{preset}`", "",
                  f"- {sum(count_parameters(model).values())/1e6:.2f} million parameters, half floats, {path.stat().st_size/1e6:.1f} MB",
                  *[f"- stage `{r['stage']['name']}`: {r['stage']['steps']} steps of {r['settings']['batch_size']} sequences, one-cycle to {r['stage']['learning_rate']:g}, {r['seconds']/60:.0f} minutes on one shared core" + (f"; {r['note']}" if "note" in r else "") for r in (first, record)],
                  f"- seed {record['settings']['seed']}, code at commit {commit}, data {record['data']}",
                  f"- threshold {cut} of the mask: the highest pooled IoU ({overlap:.3f}) on {len(items)} validation sequences",
                  "- validation means: " + ", ".join(f"{key.replace('_', ' ')} {value:.{1 if 'psnr' in key else 3}f}" for key, value in mean.items()), ""]
    card = (ROOT/"htcv"/"weights"/"README.md")
    card.write_text(CARD + "\n".join(lines))
    print(card.read_text())


CARD = """# Weights that ship with htcv

Written by `scripts/ship_weights.py`. `htcv.decomposer.load_decomposer()` loads `fusion`; how they were trained and how they score on the
benchmark is told in `nbs/43_fusion_training.ipynb`.

**For** taking ten frames of one flat picture, taken from one place or aligned, apart into source, shadow, light and occluders. **Not for** scenes
with depth, misaligned frames, forensic use. The absolute level and tint of a source are a guess: frames alone do not tell them. Trained on synthetic and rendered light only.

**Data.** Scenes of the synthesis (chapter 03) and scenes rendered by Blender on even paint (`scripts/render_pool.py`), below crops of photographs
and paintings from free packages of Debian (`scripts/training_pictures.py`) and drawn pictures. None of the benchmark's pictures is among them.
**Licence**: Apache-2.0, as the package.

Train them again: `scripts/training_pictures.py`, `scripts/render_pool.py`, `scripts/train_fusion.py`, `scripts/ship_weights.py`.

"""

if __name__ == "__main__": main(sys.argv[1:] or [preset for preset in PRESETS if len(records(preset)) == 2])
