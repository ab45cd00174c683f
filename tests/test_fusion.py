"The model that ships: small, offline, indifferent to order, at home with any number of frames, and better than what needs no training."
import json

import pytest
import torch

from htcv.decomposer import create_decomposer, load_decomposer, preset_config, save_decomposer, shipped_weights
from htcv.evaluation import median_source, psnr_after_gain
from htcv.rendering import benchmark_folder
from htcv.scoring import read_case, score_folder, model_method, sequence_folders

PRESETS = ("fusion", "fusion-small")


@pytest.fixture(scope="module", params=PRESETS)
def model(request): return load_decomposer(shipped_weights(request.param))


def test_weights_are_small_and_say_where_they_come_from():
    from safetensors import safe_open
    assert sum(shipped_weights(p).stat().st_size for p in PRESETS) <= 12e6
    for preset in PRESETS:
        with safe_open(shipped_weights(preset), "pt") as file: notes = file.metadata()
        assert {"threshold", "order", "seed", "recipe", "data", "commit"} <= set(notes)
        assert json.loads(notes["recipe"])["steps"] > 0 and 0 < float(notes["threshold"]) < 1
    card = (shipped_weights().parent/"README.md").read_text()
    assert all(f"`{preset}`" in card for preset in PRESETS)


def test_default_weights_load_without_a_network(fresh_python):
    assert fresh_python(
        "import socket\ndef refuse(*a, **k): raise OSError('the network is off')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from htcv.decomposer import load_decomposer\nprint(type(load_decomposer()).__name__)") == "Fusion"


@pytest.mark.parametrize("frames,size", [(1, (40, 56)), (2, (33, 65)), (10, (64, 64)), (50, (32, 32)), (3, (250, 190))])
def test_any_number_and_size(model, frames, size):
    with torch.no_grad(): seen = model(torch.rand(1, 3, frames, *size, generator=torch.Generator().manual_seed(0)))
    assert seen.source.shape == (1, 3, *size) and seen.shadow.shape == (1, 3, frames, *size)
    for x in (seen.source, seen.shadow, seen.light, seen.occlusion_mask, seen.confidence):
        assert torch.isfinite(x).all() and x.min() >= 0
    assert max(float(x.max()) for x in (seen.source, seen.shadow, seen.occlusion_mask, seen.confidence)) <= 1 + 1e-6


def test_order_of_the_frames_does_not_matter(model):
    case = read_case(next(iter(sequence_folders(benchmark_folder()))), 6)
    with torch.no_grad(): one, other = (model(x).source for x in (case.frames, case.frames[:, :, [4, 2, 0, 5, 1, 3]]))
    assert (one - other).abs().max() <= 1e-4


@pytest.mark.parametrize("picture", [0., 1.])
def test_all_black_and_all_white_frames_are_survived(model, picture):
    with torch.no_grad(): seen = model(torch.full((1, 3, 3, 40, 40), picture))
    assert all(torch.isfinite(x).all() for x in (seen.source, seen.shadow, seen.light, seen.confidence))


def test_it_beats_the_median_on_the_benchmark():
    "After gain, on four sequences: the one score that no convention of level decides."
    model, gains = load_decomposer(), []
    for folder in sequence_folders(benchmark_folder(), ["1", "4", "7", "10"]):
        case = read_case(folder)
        with torch.no_grad(): seen = model(case.frames)
        gains.append(float(psnr_after_gain(seen.source, case.source) - psnr_after_gain(median_source(case.frames), case.source)))
    assert sum(gains)/len(gains) > 2, gains


def test_scoring_takes_the_shipped_weights():
    report = score_folder(benchmark_folder(), {"fusion": model_method(shipped_weights())}, split=["1"], n_frames=3, main="fusion")
    assert report.means()["fusion"]["psnr"]["mean"] > 10


def test_a_family_survives_the_file(tmp_path):
    fresh = create_decomposer("fusion-small", seed=1, second_pass=False)
    again = load_decomposer(save_decomposer(fresh, tmp_path/"a.safetensors"))
    assert again.config == fresh.config and type(again).__name__ == "Fusion"
    assert preset_config("fusion-small").second_pass


def test_burnt_out_and_covered_everywhere_is_not_trusted():
    from htcv.confidence import visibility
    frames, stops = torch.ones(1, 3, 2, 4, 4), torch.ones(1, 3, 2, 4, 4)
    assert visibility(frames, torch.zeros(1, 1, 2, 4, 4), stops).max() == 0
    assert visibility(frames*.5, torch.ones(1, 1, 2, 4, 4), stops).max() == 0


class FiveTensors(torch.nn.Module):
    "A model whose layers come as a tuple, as exported programs want it."
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, frames):
        seen = self.model(frames)
        return seen.source, seen.shadow, seen.light, seen.occlusion_mask, seen.confidence


def test_torch_export_gives_the_same_and_leaves_nothing_behind():
    wrapped = FiveTensors(create_decomposer("fusion-small", seed=0).eval())
    x = torch.rand(1, 3, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = wrapped(x)
        program = torch.export.export(wrapped, (x,), strict=False)
        for got in (program.module()(x), wrapped(x)): # the model itself too, after its tracing
            for one, want in zip(got, wanted): assert (one - want).abs().max() < 1e-5


@pytest.mark.parametrize("frames", [1, 4])
def test_onnx_gives_the_same(frames, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    wrapped = FiveTensors(create_decomposer("fusion-small", seed=0).eval())
    x = torch.rand(1, 3, frames, 48, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): wanted = wrapped(x)
    torch.onnx.export(wrapped, (x,), dynamo=True, verbose=False).save(tmp_path/"model.onnx")
    session = runtime.InferenceSession(tmp_path/"model.onnx")
    for got, want in zip(session.run(None, {session.get_inputs()[0].name: x.numpy()}), wanted):
        assert (torch.from_numpy(got) - want).abs().max() < 1e-4
