"""Carries what fits of the first network's weights into the relative one, as a start for its training.

    carry_over.py OLD.safetensors OUT.safetensors [PRESET]

OLD is PRESET, `fusion` by default, as it shipped at commit ba3404f (`git show ba3404f:htcv/weights/fusion.safetensors`). Trunk, attention,
heads and mask refiner mean the same in both; the new input channels begin small, the sub-pixel head becomes its mean.
"""
import sys

from safetensors.torch import load_file
from htcv.decomposer import create_decomposer, save_decomposer

RENAMED = [('net.gathering.', 'unet.attention.'), ('net.', 'unet.'), ('maps.', 'maps_head.'), ('camera.', 'camera_head.'),
           ('habits', 'exposure_penalty'), ('trust', 'prior_gain'), ('again.', 'second_stem.'), ('block.', 'second_block.'),
           ('fine.', 'highres_head.'), ('rim.', 'mask_refiner.')]
LINEAR = 2.2 # logarithms of linear light by those of stored values


def new_name(name):
    "The same weights, in the new network."
    for old, new in RENAMED:
        if name.startswith(old): return new + name[len(old):]


def main(old, out, preset='fusion'):
    model = create_decomposer(preset, seed=0)
    weights = model.state_dict()
    for name, x in load_file(old).items():
        x, name = x.float(), new_name(name)
        if name == 'unet.stem.weight': # 2·frame − 1, and beyond the median: .3 of linear stops then, .5 of stored ones now
            weights[name][:, :12], weights[name][:, 12:24] = x[:, :12], x[:, 12:24]*.3*LINEAR/.5
            weights[name][:, 24:] *= .1
        elif name in ('camera_head.2.weight', 'camera_head.2.bias'): weights[name] = x[:2]
        elif name == 'highres_head.weight': weights[name] = x.unflatten(0, (-1, 4)).mean(1)
        elif name == 'highres_head.bias': weights[name] = x.unflatten(0, (-1, 4)).mean(1)
        elif name == 'prior_gain': weights[name] = x*LINEAR
        elif name in weights and weights[name].shape == x.shape: weights[name] = x
    for name in weights:
        if '.positions.' in name: weights[name] *= .1
    model.load_state_dict(weights)
    save_decomposer(model, out, half=True, step=0, start='the first network, commit ba3404f')


if __name__ == '__main__': main(*sys.argv[1:])
