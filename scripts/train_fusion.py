"""Trains the weights that ship with the package. Resumable: run it again after it was stopped.

    train_fusion.py                                          preset fusion: about 110 minutes on one core
    train_fusion.py --preset fusion-small --steps 800 600    about 25

Needs data/pictures (scripts/training_pictures.py) and data/rendered-pool (scripts/render_pool.py); says so if they are missing.
"""
import argparse, time
from pathlib import Path

import torch

from htcv.decomposer import preset_config
from htcv.fusion_training import fusion_stage, scene_data
from htcv.training import Settings, train

ROOT = Path(__file__).resolve().parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="fusion")
    parser.add_argument("--steps", type=int, nargs=2, default=(2400, 2000))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--bank", type=int, default=2400, help="drawn frames")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epoch", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = Settings(preset=options.preset, size=128, n_frames=10, batch_size=options.batch, pool=options.epoch*options.batch,
                        validation=24, epoch=options.epoch)
    began = time.time()
    data = scene_data(ROOT/"data", drawn=options.bank, length=settings.pool, validation=settings.validation, workers=1)
    print(f"data: {time.time() - began:.0f} s", data[0].description, flush=True)
    stage = fusion_stage(options.preset, tuple(options.steps), preset_config(options.preset).side)
    train(stage, settings, data, folder=ROOT/"runs"/"fusion")


if __name__ == "__main__": main()
