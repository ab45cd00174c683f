"""The naive loss of the report's opening: which layer takes the distortion, and what decides it (chapter 40).

    run_naive_study.py               every arm from seeds 0, 1 and 2; what is there already is kept
    run_naive_study.py --seeds 3 4   further seeds

One JSON a run in `results/naive_study/`, and beside those of seed 0 the layers of one unseen sequence. Compact at 32²,
300 steps a run (the staged run: 300 in all); about half an hour of one core.
"""
import argparse, os
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
os.environ['HTCV_SCALE'] = 'cpu' # what the study is made at
STEPS, SIZE, UNSEEN, SHOWN = 300, 32, 16, 5


def arms():
    "Name -> stage and the fields of the network that differ."
    from htcv.joint_training import naive_stage, report_stages, stages_before
    plain = (('rgb_residual', False),)
    naive = {mode: replace(naive_stage(mode), steps=STEPS) for mode in ('hard', 'soft')}
    chain = stages_before(report_stages()['joint'])
    total, staged = sum(stage.steps for stage in chain), None
    for stage in chain: staged = replace(stage, after=staged, steps=round(stage.steps*STEPS/total))
    return {'hard': (naive['hard'], ()), 'hard-plain': (naive['hard'], plain), 'soft': (naive['soft'], ()),
            'soft-plain': (naive['soft'], plain), 'staged': (staged, ())}


def run(name, seed):
    "One run, scored on unseen sequences, and written down."
    from safetensors.torch import save_file
    from htcv.composition import Layers, to_light_first
    from htcv.evaluation import per_sequence, score_decomposition
    from htcv.joint_training import layer_energies
    from htcv.plots import save_results
    from htcv.training import LAYERS, Settings, SyntheticPool, train
    stage, overrides = arms()[name]
    settings = Settings(size=SIZE, seed=seed, epoch=100, overrides=overrides)
    model = train(stage, settings, folder=ROOT/'runs'/'naive_study'/f'{name}-{seed}', progress=False)
    unseen = SyntheticPool(UNSEEN, settings.n_frames, SIZE, seed=('held out', seed), augment=False).tensors
    frames, exact = unseen['frames'].float(), Layers(**{key: unseen[key].float() for key in LAYERS})
    if stage.order == 'light_first': exact = to_light_first(exact)
    with torch.no_grad(): parts = [model(x).layers() for x in frames.split(4)]
    seen = Layers(*[torch.cat([getattr(part, key) for part in parts]) for key in LAYERS])
    metrics = dict(per_sequence=per_sequence(score_decomposition(seen, exact, frames, order=stage.order)),
                   energy=layer_energies(seen, stage.order), exact_energy=layer_energies(exact, stage.order),
                   rgb_mae=(seen.occlusion_rgb - frames).abs().mean().item(), true_coverage=exact.occlusion_mask.mean().item())
    config = dict(stage=stage.describe(), size=SIZE, sequences=UNSEEN, overrides=list(overrides), order=stage.order)
    place = ROOT/'results'/'naive_study'
    place.mkdir(exist_ok=True)
    save_results(f'naive_study/{name}-seed-{seed}', metrics, config, seed)
    if seed: return
    shown = {key: getattr(seen, key)[SHOWN] for key in LAYERS} | dict(frames=frames[SHOWN])
    save_file({key: (x.clamp(0, 1)*255).round().byte().contiguous() for key, x in shown.items()}, place/f'{name}.safetensors')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--threads', type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for seed in given.seeds:
        for name in arms():
            if not (ROOT/'results'/'naive_study'/f'{name}-seed-{seed}.json').exists(): run(name, seed)
            print(name, seed, flush=True)


if __name__ == '__main__': main()
