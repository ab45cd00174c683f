"Values worked out by hand where a one-line fault once passed every test of its chapter."
import zipfile

import numpy as np
import pytest
import torch

from htcv.binary_mask_loss import positive_weight
from htcv.composition import Layers, underlying
from htcv.openraster import write_openraster
from htcv.registration import warp_photograph


def test_light_first_clips_before_the_shadow():
    "clip(S + L)·A: 0.8 + 0.7 is white, and half of white is 0.5; what is clipped at 2 would give 0.75."
    source, light, shadow = (torch.full((1, 3, *size), v) for size, v in (((1, 1), .8), ((1, 1, 1), .7), ((1, 1, 1), .5)))
    assert underlying(source, shadow, light, "light_first").unique().tolist() == pytest.approx([.5])
    assert underlying(source, shadow, light, "shadow_first").unique().tolist() == [1.]  # 0.8·0.5 + 0.7, clipped
    assert underlying(source, shadow, -1.2*light, "light_first").unique().tolist() == [0.]


@pytest.mark.parametrize("positives, weight", [(0, 1.), (1, 11.), (2, 5.), (3, 3.), (6, 1.), (12, 0.)])
def test_positive_weight_is_false_over_true(positives, weight):
    target = torch.zeros(12); target[:positives] = 1
    assert positive_weight(target.view(1, 1, 1, 3, 4)).item() == weight


@pytest.mark.parametrize("seen", [None, np.ones((20, 30), bool)])
def test_a_moved_photograph_knows_what_it_shows(seen):
    "Ten columns to the right: the left ten are not seen, the others are, but for one pixel of the border."
    pixels = np.full((20, 30, 3), 200, np.uint8)
    right = np.array([[1, 0, 10], [0, 1, 0], [0, 0, 1.]])
    moved, shown = warp_photograph(pixels, seen, right, (20, 30))
    assert not shown[:, :10].any() and shown[1:-1, 11:].all() and (moved[:, 10:] == 200).all()


def test_openraster_names_the_operations_that_paint_programs_know(tmp_path):
    maps = torch.full((1, 3, 1, 16, 16), .5)
    layers = Layers(maps[:, :, 0], maps, maps, maps[:, :1], maps)
    with zipfile.ZipFile(write_openraster(tmp_path/"a.ora", layers)) as archive: stack = archive.read("stack.xml").decode()
    for name, operation in dict(shadow="svg:multiply", light="svg:plus", occlusion="svg:src-over").items():
        lines = [line for line in stack.split("<") if line.startswith("layer") and f'name="{name}' in line]
        assert lines and all(f'composite-op="{operation}"' in line for line in lines), (name, lines)
