"The decomposer beyond its notebook: the report's full size, every frame's influence, interrupted saves, lean imports."
import subprocess, sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import htcv.decomposer as module
from htcv.decomposer import (HEADS, PRESETS, REDUCTIONS, Autoencoder, Decomposer, count_parameters, create_decomposer,
                             load_decomposer, save_decomposer)

def random_frames(*shape, seed=0): return torch.rand(shape, generator=torch.Generator().manual_seed(seed))

def small_report(**changes):
    "The report's preset, thinner: the same blocks, windows, patch and kernels."
    return create_decomposer('report', seed=0, **(dict(dim=24, up_maps=(16, 8)) | changes))

# --- the report's own size ---------------------------------------------------------------------------------------------

def test_report_preset_has_the_parameters_of_the_report():
    with torch.device('meta'): model = create_decomposer('report')
    counts = {part: round(n/1e6, 1) for part, n in count_parameters(model).items()}
    assert counts == dict(encoder=27.6, source=21.1, light_shadow=21.1, occlusion=21.1)

@pytest.mark.slow
def test_report_preset_takes_a_training_step_at_full_size():
    model = create_decomposer('report', seed=0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    frames = random_frames(1, 3, 10, 256, 256)
    prediction = model(frames)
    assert prediction.source.shape == (1, 3, 256, 256) and prediction.light.shape == (1, 1, 10, 256, 256) # grey, as in the group's configuration
    mask = prediction.occlusion_mask
    picture = (prediction.source.unsqueeze(2)*prediction.shadow + prediction.light).clamp(0, 1)
    loss = F.l1_loss(picture*(1 - mask) + mask*prediction.occlusion_rgb, frames)
    before = {name: p.detach().sum().item() for name, p in model.named_parameters() if name.endswith('output.weight')}
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimiser.step()
    after = {name: p.detach().sum().item() for name, p in model.named_parameters() if name.endswith('output.weight')}
    assert all(after[name] != value for name, value in before.items())

# --- frames and sizes --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('T', [1, 3, 7, 11])
@pytest.mark.parametrize('build', [lambda r: create_decomposer('compact', seed=0, source_reduction=r, **(dict(stem=()) if r == 'first' else {})),
                                   lambda r: small_report(source_reduction=r)], ids=['compact', 'report'])
@pytest.mark.parametrize('reduction', REDUCTIONS)
def test_source_hears_every_frame(build, reduction, T):
    model, frames = build(reduction), random_frames(1, 3, T, 32, 32)
    changed = frames.repeat(T, 1, 1, 1, 1)
    for t in range(T): changed[t, :, t] = 1 - changed[t, :, t]
    with torch.no_grad(): difference = model(changed, heads='source').source - model(frames, heads='source').source
    assert (difference.abs().amax((1, 2, 3)) > 1e-5).all()

@pytest.mark.parametrize('T, H, W', [(1, 16, 16), (2, 17, 16), (17, 16, 19), (50, 16, 16), (3, 16, 257), (7, 33, 65)])
def test_any_number_of_frames_and_any_size(T, H, W):
    for model in (create_decomposer('tiny', seed=0), small_report()):
        with torch.no_grad(): layers = model(random_frames(2, 3, T, H, W)).layers()
        assert layers.source.shape == (2, 3, H, W) and layers.occlusion_rgb.shape == (2, 3, T, H, W)
        assert all(x.isfinite().all() for x in vars(layers).values() if x is not None)

def test_batch_does_not_mix():
    model, frames = create_decomposer('compact', seed=0), random_frames(3, 3, 4, 33, 21)
    with torch.no_grad(): whole, single = model(frames), model(frames[1:2])
    for a, b in zip(vars(whole).values(), vars(single).values()): assert torch.allclose(a[1:2], b, atol=1e-5)

def test_half_precision():
    with torch.autocast('cpu', torch.bfloat16): prediction = small_report()(random_frames(1, 3, 3, 40, 24))
    assert all(x.isfinite().all() for x in vars(prediction).values())

def test_double_precision_agrees():
    model, frames = create_decomposer('tiny', seed=0), random_frames(1, 3, 5, 33, 20)
    with torch.no_grad(): single, double = model(frames), model.double()(frames.double())
    for a, b in zip(vars(single).values(), vars(double).values()): assert torch.allclose(a.double(), b, atol=1e-4)

# --- training ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('head, others', [(h, set(HEADS) - {h}) for h in HEADS])
def test_only_what_is_asked_for_gets_a_gradient(head, others):
    model = create_decomposer('tiny', seed=0)
    sum(x.sum() for x in vars(model(random_frames(1, 3, 2, 16, 16), heads=head)).values() if x is not None).backward()
    grads = {name: [p.grad is not None for p in part.parameters()] for name, part in model.parts.items()}
    assert all(grads['encoder']) and all(grads[head]) and not any(g for o in others for g in grads[o])

def test_training_after_inference_mode():
    from htcv import video_swin
    video_swin.attention_mask.cache_clear(); video_swin.relative_position_index.cache_clear()
    model, frames = small_report(), random_frames(1, 3, 3, 40, 24)
    with torch.inference_mode(): model(frames)
    model(frames).source.sum().backward()

def test_parts_cover_every_parameter_once():
    model = create_decomposer('tiny')
    parts = [p for part in model.parts.values() for p in part.parameters()]
    assert len(parts) == len(set(parts)) and set(parts) == set(model.parameters())

def test_autoencoder_shares_the_encoder_and_trains_it():
    model = create_decomposer('compact', seed=0)
    autoencoder, frames = Autoencoder(model), random_frames(1, 3, 3, 16, 16)
    F.mse_loss(autoencoder(frames), frames).backward()
    trained = {name.split('.')[0] for name, p in model.encoder.named_parameters() if p.grad is not None}
    assert {'embedding', 'merging', 'levels', 'norm'} <= trained

# --- files -------------------------------------------------------------------------------------------------------------

def test_an_interrupted_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = save_decomposer(create_decomposer('tiny', seed=0), tmp_path/'w.safetensors')
    before = path.read_bytes()
    def half(weights, target, metadata): target.write_bytes(before[:100]); raise KeyboardInterrupt
    from htcv import weights as module
    monkeypatch.setattr(module, 'save_file', half)
    with pytest.raises(KeyboardInterrupt): save_decomposer(create_decomposer('tiny', seed=1), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]

@pytest.mark.parametrize('preset', ['tiny', 'compact'])
def test_loaded_weights_train_and_do_not_follow_the_file(tmp_path, preset):
    model = create_decomposer(preset, seed=0)
    path = save_decomposer(model, tmp_path/'w.safetensors')
    loaded = load_decomposer(path).train()
    save_decomposer(create_decomposer(preset, seed=1), path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values()))
    loaded(random_frames(1, 3, 2, 16, 16)).source.sum().backward()

def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError): load_decomposer(tmp_path)

def test_absurd_configuration_in_a_file_is_refused_before_memory_is_taken(tmp_path):
    model = create_decomposer('tiny', seed=0)
    model.config = replace(PRESETS['compact'], dim=2**12)
    with pytest.raises(ValueError, match='does not fit its own configuration'):
        load_decomposer(save_decomposer(model, tmp_path/'w.safetensors'))
    with pytest.raises(ValueError, match='whole numbers up to 4096'): replace(PRESETS['compact'], dim=2**16)

# --- the package -------------------------------------------------------------------------------------------------------

def test_import_brings_no_notebook_tooling():
    code = "import sys, htcv.decomposer; print([m for m in ('IPython', 'ipywidgets', 'matplotlib', 'nbdev') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
