"""Renders the scenes without a picture that the fusion network trains on: 80 times ten frames, 128×128, lamps apart.

    render_pool.py [FIRST LAST]     into data/rendered-pool; 40 seconds each on one core; needs `htcv_render --setup`

Each is rendered twice: `7.npz` on even light paint, `7-black.npz` on black paint, which shows what the varnish alone reflects.
"""
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from htcv.rendering import draw_jobs, render_passes, save_passes

ROOT = Path(__file__).resolve().parents[1]
SIDE, FRAMES = 128, 10
PAINTS = {"": .8, "-black": 0.}                            # even paint: any picture can be hung there later


def main(first, last):
    out = ROOT/"data"/"rendered-pool"
    out.mkdir(parents=True, exist_ok=True)
    for i in tqdm(range(first, last)):
        jobs = draw_jobs(FRAMES, (SIDE, SIDE), ("pool", i), "filmic" if i % 2 else "standard", translucent=0.)
        for name, value in PAINTS.items():
            if (out/f"{i}{name}.npz").exists(): continue
            albedo = torch.full((3, SIDE, SIDE), value)
            save_passes(out/f"{i}{name}.npz", render_passes(albedo, jobs, samples=16, light_groups=True, threads=1), albedo, "filmic")


if __name__ == "__main__": main(*map(int, sys.argv[1:3] or (0, 80)))
