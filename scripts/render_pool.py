"""Renders the scenes without a picture that the fusion network trains on: 80 files of ten frames, 128×128, lamps apart.

    render_pool.py [FIRST LAST]     into data/rendered-pool; half a minute a file on one core; needs `htcv_render --setup`
"""
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from htcv.rendering import draw_jobs, render_passes, save_passes

ROOT = Path(__file__).resolve().parents[1]
SIDE, FRAMES = 128, 10


def main(first, last):
    out = ROOT/"data"/"rendered-pool"
    out.mkdir(parents=True, exist_ok=True)
    albedo = torch.full((3, SIDE, SIDE), .8)               # even paint: any picture can be hung there later
    for i in tqdm(range(first, last)):
        if (out/f"{i}.npz").exists(): continue
        jobs = draw_jobs(FRAMES, (SIDE, SIDE), ("pool", i), "filmic" if i % 2 else "standard", translucent=0.)
        save_passes(out/f"{i}.npz", render_passes(albedo, jobs, samples=16, light_groups=True, threads=1), albedo, "filmic")


if __name__ == "__main__": main(*map(int, sys.argv[1:3] or (0, 80)))
