"`restore` and `htcv_restore`: good photographs of every kind, bad ones, and what is left behind when something goes wrong."
import errno
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from htcv import restore_command
from htcv.composition import Layers, check_layers, compose, within_envelope
from htcv.colour_profiles import convert_colours
from htcv.decomposer import create_decomposer, save_decomposer
from htcv.files import file_lock
from htcv.openraster import flatten_openraster, read_openraster
from htcv.photograph_files import find_photographs, photograph_size, read_photograph, read_pixels
from htcv.photographs import align, map_points
from htcv.rendering import benchmark_folder
from htcv.restore import load_frames, load_restorer, plan_frames, restore, restored_strips
from htcv.files import PER_FRAME
from htcv.sequences import read_image, read_sequence

SIZE, N_FRAMES = (48, 61), 4
FILES = sorted(['confidence.png', 'contact_sheet.png', 'layers.json', 'source.png', *PER_FRAME])
pytestmark = pytest.mark.filterwarnings('ignore:no frame shows', 'ignore:.* hardly resemble', 'ignore:(one|two) photograph')


@pytest.fixture(scope='module')
def arrays():
    "Frames of the benchmark, (T,H,W,3) uint8."
    frames = read_sequence(benchmark_folder()/'6', numbers=list(range(1, N_FRAMES + 1))).frames
    small = torch.nn.functional.interpolate(frames.transpose(0, 1), SIZE, mode='bilinear', antialias=True)
    return (small.permute(0, 2, 3, 1).clamp(0, 1)*255).round().byte().numpy()


@pytest.fixture(scope='module')
def large():
    "The same at full size."
    frames = read_sequence(benchmark_folder()/'6', numbers=list(range(1, 7))).frames
    return (frames.permute(1, 2, 3, 0)*255).round().byte().numpy()


@pytest.fixture
def shots(arrays, tmp_path, monkeypatch):
    "A folder of photographs in a current folder of its own."
    monkeypatch.chdir(tmp_path)
    (tmp_path/'shots').mkdir()
    for t, array in enumerate(arrays): Image.fromarray(array).save(tmp_path/'shots'/f'{t + 1}.png')
    return tmp_path/'shots'


def command(*words):
    "Exit status of the command."
    try: return restore_command.htcv_restore([str(word) for word in words])
    except SystemExit as stop: return stop.code


def refused(capsys, *words):
    "What is said to wrong use, which leaves no trace."
    before = sorted(os.listdir('.'))
    assert command(*words) == 2
    assert sorted(os.listdir('.')) == before
    return capsys.readouterr().err


def stored(folder):
    "The layers that a folder holds, as a tensor of frames composed from them."
    record = json.loads((folder/'layers.json').read_text())
    of = {name: torch.stack([read_image(folder/name/f"{f['stem']}.png") for f in record['frames']], 1)[None] for name in PER_FRAME}
    return compose(check_layers(Layers(read_image(folder/'source.png')[None], **of | dict(occlusion_mask=of['occlusion_mask'][:, :1]))), mode='soft')


# --- good photographs

def test_one_folder(shots, arrays, capsys):
    assert command('shots', '--out', 'out') == 0
    out = Path('out')
    assert sorted(p.name for p in out.iterdir()) == FILES
    for name in PER_FRAME: assert sorted(p.name for p in (out/name).iterdir()) == [f'{t + 1}.png' for t in range(N_FRAMES)]
    record = json.loads((out/'layers.json').read_text())
    assert record['order'] == [f'{t + 1}.png' for t in range(N_FRAMES)] and (record['height'], record['width']) == SIZE
    assert len(record['weights']['sha256']) == 64 and 'torch' in record['versions']
    truth = torch.from_numpy(arrays).permute(3, 0, 1, 2)[None]/255
    errors = (stored(out) - truth).abs().mean((0, 1, 3, 4)).tolist()
    assert errors == pytest.approx([f['recomposition_error'] for f in record['frames']], abs=2/255)
    assert 'shown by none of them: 0%' in capsys.readouterr().out
    assert os.listdir('.') == ['shots', 'out'] or sorted(os.listdir('.')) == ['out', 'shots']
    made = restore('shots')
    assert (made.source - read_image(out/'source.png')).abs().max() <= .5/255 + 1e-6


def test_the_layered_file_is_the_photographs(shots, arrays):
    assert command('shots', '--out', 'out', '--ora') == 0
    nodes = read_openraster('out/layers.ora')
    assert [node.name for node in nodes] == [f'{t + 1}.png' for t in range(N_FRAMES)] + ['source']
    assert command('shots', '--out', 'bare', '--ora', '--no-layers') == 0
    assert sorted(p.name for p in Path('bare').iterdir()) == ['confidence.png', 'contact_sheet.png', 'layers.json', 'layers.ora', 'source.png']
    first = flatten_openraster('bare/layers.ora')[:3] # the first group is visible
    assert (first - stored(Path('out'))[0, :, 0]).abs().max() <= 4/255


@pytest.mark.parametrize('suffix, options, far', [('jpg', dict(quality=98, subsampling=0), 12), ('webp', dict(lossless=True), 0), ('tif', {}, 0), ('PNG', {}, 0), ('bmp', {}, 0)])
def test_files_of_every_kind(arrays, tmp_path, suffix, options, far):
    path = tmp_path/f'a.{suffix}'
    Image.fromarray(arrays[0]).save(path, **options)
    assert photograph_size(path) == SIZE
    assert np.abs(read_pixels(path)[0].astype(int) - arrays[0]).max() <= far


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_sixteen_bits_stay(arrays, tmp_path, suffix, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('deep').mkdir()
    for t, array in enumerate(arrays): cv2.imwrite(f'deep/{t}.{suffix}', array[..., ::-1]*np.uint16(257) + np.uint16(7)*(array[..., ::-1] < 200))
    assert command('deep', '--out', 'out', '--no-layers') == 0
    source = cv2.imread('out/source.png', cv2.IMREAD_UNCHANGED)
    assert source.dtype == np.uint16 and len(np.unique(source)) > 300


def test_grey_palette_cmyk_alpha_and_turned(arrays, tmp_path):
    picture = Image.fromarray(arrays[0])
    for mode, name in [('L', 'grey.png'), ('P', 'palette.png'), ('CMYK', 'print.jpg'), ('1', 'fax.png'), ('RGBA', 'alpha.png')]:
        picture.convert(mode).save(tmp_path/name)
        assert read_photograph(tmp_path/name).shape == (3, *SIZE)
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[274] = orientation
        for suffix in ('jpg', 'png', 'webp', 'tif'):
            path = tmp_path/f'{orientation}.{suffix}'
            picture.save(path, exif=exif)
            assert photograph_size(path) == read_pixels(path)[0].shape[:2] == (SIZE if orientation < 5 else SIZE[::-1]), path.name


def test_the_order_is_that_of_the_numbers(shots):
    (shots/'2.png').rename(shots/'10.png')
    assert [p.name for p in find_photographs(shots)[0]] == ['1.png', '3.png', '4.png', '10.png']


def test_a_sequence_of_ours_does_not_give_away_its_answer():
    paths, skipped = find_photographs(benchmark_folder()/'1')
    assert [p.stem for p in paths] == [str(n) for n in range(1, 11)] and skipped['gt.png'] == 'no frame of a sequence'


@pytest.mark.parametrize('n', [1, 2, 50])
def test_any_number_of_frames(arrays, n):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        made = check_layers(restore(np.resize(arrays, (n, *arrays.shape[1:]))))
    few = [str(one.message) for one in said if 'photograph' in str(one.message)]
    assert len(few) == (n <= 2) and (n > 2 or few[0].startswith(('one photograph', 'two photographs')[n - 1]))
    assert made.shadow.shape == (1, 3, n, *SIZE) and made.names[-1] == str(n)


def test_what_most_frames_show_is_the_source_whatever_the_masks_say():
    "A card on white paper, in three of seven frames; the four others are equal."
    paper = np.ones((90, 120, 3), np.float32)
    card = paper.copy()
    card[30:60, 30:90] = .1, .7, .85
    for order in ([card]*3 + [paper]*4, [paper, card]*3 + [paper]):
        restored = restore(np.stack(order))
        assert float((restored.source - 1).abs().max()) < 1/255


@pytest.mark.parametrize('noise', [0, .004, .02])
def test_one_flash_among_frames_that_are_alike_is_an_accident(noise):
    rng = np.random.default_rng(0)
    picture = np.kron(rng.uniform(.15, .6, (6, 8, 3)), np.ones((30, 30, 1)))
    y, x = np.mgrid[:180, :240]
    flash = picture*(1 + .6*np.exp(-((x - 120)**2 + (y - 90)**2)/2/50**2))[..., None]
    frames = np.stack([picture]*5 + [flash.clip(0, 1)]) + rng.normal(0, noise, (6, *picture.shape))
    frames = (frames.clip(0, 1)*255).round()/255
    off = lambda source: np.square(source - picture).mean()**.5
    restored = restore(frames.astype(np.float32)).source[0].permute(1, 2, 0).numpy()
    assert off(restored) < 1.1*off(np.median(frames, 0)) + 1e-3


@pytest.mark.parametrize('noisy', [True, False], ids=['noise in all', 'not where it is covered'])
@pytest.mark.parametrize('seed', range(2))
def test_what_stays_over_fewer_than_half_of_noisy_frames_is_in_the_way(seed, noisy):
    "A card in four of nine frames: no worse than the median of them all, under it and beside it."
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.uniform(.1, .9, (12, 16, 3)), np.ones((8, 8, 1)))
    card = picture.copy()
    card[20:68, 40:104] = .3
    frames = np.stack([card]*4 + [picture]*5)
    noise = rng.normal(0, .02, frames.shape)
    if not noisy: noise[:4] = 0
    frames = ((frames + noise).clip(0, 1)*255).round()/255
    off = lambda source: np.square(source - picture).mean()**.5
    source = restore(frames.astype(np.float32)).source[0].permute(1, 2, 0).numpy()
    assert off(source) < .9*off(np.median(frames, 0))


@pytest.mark.parametrize('seed', range(2))
def test_frames_agree_though_the_exposure_drifts(seed):
    "A card lies over the picture in three of seven frames, and the exposure is another in each."
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.uniform(.15, .6, (6, 8, 3)), np.ones((30, 30, 1)))
    frames, colour, covered = [], rng.uniform(0, 1, 3), rng.permutation(7)[:3]
    for t in range(7):
        frame = picture*2**rng.normal(0, .3)
        if t in covered: frame[60:130, 80:170] = colour
        frames.append((frame.clip(0, 1)*255).round()/255)
    source = restore(np.stack(frames).astype(np.float32)).source[0].permute(1, 2, 0).numpy()
    gain = (source*picture).sum((0, 1))/np.square(source).sum((0, 1))
    assert np.square(source*gain - picture).mean()**.5 < 1/255


@pytest.mark.parametrize('drift, flashes', [(.7, 3), (0, 4)])
@pytest.mark.parametrize('seed', range(2))
def test_a_dark_picture_stays_dark_whatever_flashes_there_are(seed, drift, flashes):
    "The exposure may be another in each of eight frames, and a flash lights a part of some of them."
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:180, :240]
    light = np.kron(rng.uniform(.002, .04, (6, 8, 3)), np.ones((30, 30, 1)))
    def stored(linear): return np.where(linear < .0031308, 12.92*linear, 1.055*linear.clip(1e-9)**(1/2.4) - .055)
    frames = []
    for t in range(8):
        frame = light*2**rng.uniform(-drift, drift)
        if t < flashes: frame = frame*(1 + 4*np.exp(-((x - rng.integers(240))**2 + (y - rng.integers(180))**2)/5000))[..., None]
        frames.append((stored(frame).clip(0, 1)*255).round()/255)
    source = restore(np.stack(frames).astype(np.float32)).source[0].permute(1, 2, 0).numpy()
    picture, median = stored(light), np.median(frames, 0)
    def off(made):
        gain = (made*picture).sum((0, 1))/np.square(made).sum((0, 1))
        return np.square(made*gain - picture).mean()**.5
    assert source.mean() < 1.2*median.mean() and off(source) < off(median)


@pytest.mark.parametrize('threshold', [None, .2])
@pytest.mark.parametrize('T', [1, 2, 3, 7])
def test_the_source_is_no_darker_and_no_brighter_than_what_unmasked_frames_show(arrays, T, threshold):
    rng = np.random.default_rng(T)
    noise = rng.random((T, 56, 72, 3), np.float32)
    for given in (noise, (arrays[:T]/255 + .1*rng.random(arrays[:T].shape)).clip(0, 1).astype(np.float32)):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            soft, found = restore(given, rows=9), restore(given, rows=9, threshold=threshold)
        cut = found.threshold
        assert cut == (threshold or load_restorer()[1]['threshold'])
        bound = within_envelope(found.source, soft.frames, soft.occlusion_mask, cut)
        assert torch.equal(found.source, bound)


def test_the_frames_order_does_not_matter(arrays):
    there, back = restore(arrays), restore(arrays[::-1].copy())
    assert (there.source - back.source).abs().max() < 1e-4 and (there.shadow - back.shadow.flip(2)).abs().max() < 1e-4


def test_strips_are_the_whole(large):
    model, _ = load_restorer()
    photographs = load_frames(large)
    plan = plan_frames(model, photographs)
    whole, = restored_strips(model, photographs, plan, rows=10_000)
    for name in ('source', 'shadow', 'light', 'occlusion_mask', 'confidence'):
        tiled = torch.cat([getattr(strip, name) for strip in restored_strips(model, photographs, plan, rows=29)], -2)
        assert (tiled - getattr(whole, name)).abs().max() < 1e-4, name


# --- hand-held

@pytest.fixture(scope='module')
def hand_held(large):
    "Photographs from a wandering camera, one of them half the size, and the homographies that took them."
    rng, (H, W), shots, truth = np.random.default_rng(6), large.shape[1:3], [], []
    corners = np.float32([(0, 0), (W - 1, 0), (W - 1, H - 1), (0, H - 1)])
    for t, array in enumerate(large):
        scale = .5 if t == 3 else 1
        there = scale*(corners + rng.uniform(-.08, .08, (4, 2))*(W, H)).astype(np.float32)
        truth.append(cv2.getPerspectiveTransform(corners, there))
        shots.append(cv2.warpPerspective(array, truth[-1], (round(scale*W), round(scale*H)), flags=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC, borderValue=(90, 95, 99)))
    return shots, truth


def test_hand_held_photographs_are_aligned(hand_held):
    shots, truth = hand_held
    found = align(shots, reference=0)
    H, W = found.size
    corners = np.float32([(0, 0), (W - 1, 0), (W - 1, H - 1), (0, H - 1)])
    errors = {m.name: np.linalg.norm(map_points(map_points(corners, true), m.homography) - map_points(corners, truth[0]), axis=1).max() for m, true in zip(found.alignment, truth)}
    assert all(error < 1 for name, error in errors.items() if name != '4') and errors['4'] < 2, errors # of half the size
    assert [m.status for m in found.alignment] == ['reference'] + ['aligned']*5 and not found.seen.all()


def test_what_lies_outside_a_frame_hides_and_does_not_leak(hand_held):
    shots, _ = hand_held
    aligned = align(shots[:3], reference=0)
    made = restore(aligned)
    outside = ~torch.from_numpy(np.array(aligned.seen))[None, None]
    assert outside.any() and made.occlusion_mask[outside].min() == 1
    other = replace(aligned, pixels=np.where(aligned.seen[..., None], aligned.pixels, 255))
    assert torch.equal(restore(other).source, made.source)


def test_align_on_the_command_line(hand_held, large, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('shots').mkdir()
    for t, shot in enumerate(hand_held[0]): Image.fromarray(shot).save(f'shots/{t}.jpg', quality=95)
    assert 'mixed sizes: shots/3.jpg is (128, 128)' in refused(capsys, 'shots', '--out', 'out')
    Image.fromarray(large[0, ::-1, ::-1, ::-1][:200, :190]//2 + 90).save('shots/5.jpg')  # mirrored: no photograph of this picture
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)).save('shots/noise.png')
    assert command('shots', '--out', 'out', '--align', '--reference', '1.jpg') == 0
    said, record = capsys.readouterr().err, json.loads(Path('out/layers.json').read_text())
    status = {m['name']: m['status'] for m in record['alignment']}
    assert status['noise.png'] == 'dropped' and 'dropped: noise.png (only' in said and 'noise.png' not in record['order']
    assert status['1.jpg'] == 'reference' and record['height'] == 256 and all(m['residual_pixels'] < 1 for m in record['alignment'] if m['status'] == 'aligned')
    assert not Path('out/shadow/noise.png').exists()


@pytest.fixture(scope='module')
def on_a_wall(large):
    "Photographs of a picture in front of a grey wall, 16 bits, its corners in the first of them, and where its pixels go."
    H, W = large.shape[1:3]
    box = np.float32([(-.5, -.5), (W - .5, -.5), (W - .5, H - .5), (-.5, H - .5)])
    corners = np.float32([(150, 100), (445, 120), (430, 395), (140, 380)])
    onto = cv2.getPerspectiveTransform(box, corners - .5)    # the middle of the first pixel is .5, .5
    wall = np.full((480, 600, 3), (150, 140, 160), np.uint8)
    inside = cv2.warpPerspective(np.full((H, W), 255, np.uint8), onto, (600, 480))[..., None]/255
    warped = (cv2.warpPerspective(one, onto, (600, 480), flags=cv2.INTER_CUBIC) for one in large)
    shots = [(wall*(1 - inside) + inside*one).round().astype(np.uint16)*257 for one in warped]
    return shots, corners, onto


def test_rectify_from_a_tripod(on_a_wall, large):
    shots, corners, onto = on_a_wall
    found, given = load_frames(shots, rectify=True), load_frames(shots, rectify=corners[[2, 0, 3, 1]])
    assert np.abs(np.array(found.rectification['corners']) - corners).max() < 1
    assert np.allclose(given.rectification['corners'], corners)
    assert (found.rectification['corners_from'], given.rectification['corners_from']) == ('found', 'given')
    assert found.pixels.dtype == np.uint16 and found.notes and not given.notes
    H, W = given.size
    back = np.array(given.rectification['homography']) @ onto   # from the source's pixels to the rectangle's
    there = cv2.warpPerspective(large[0], back, (W, H), flags=cv2.INTER_CUBIC)
    assert np.abs(given.pixels[0][9:-9, 9:-9]/257 - there[9:-9, 9:-9]).mean() < 6
    with pytest.raises(ValueError, match='at least'): load_frames(shots, rectify=[9, 9, 19, 9, 19, 19, 9, 19])


def test_rectify_on_the_command_line(on_a_wall, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shots, corners, _ = on_a_wall
    Path('shots').mkdir()
    for t, shot in enumerate(shots[:4]): Image.fromarray((shot[3*t:, 2*t:]//257).astype(np.uint8)).save(f'shots/{t}.png', dpi=(300, 300))
    assert command('shots', '--out', 'out', '--align', '--reference', '0', '--rectify', '--no-layers') == 0
    said, record = capsys.readouterr().err, json.loads(Path('out/layers.json').read_text())
    kept = record['rectification']
    assert np.abs(np.array(kept['corners']) - corners).max() < 1.5 and np.shape(kept['homography']) == (3, 3)
    assert 'the corners were found' in said and kept['photograph'] == '0.png'
    assert Image.open('out/source.png').size == (record['width'], record['height']) and record['width'] < 320
    assert all(np.shape(m['region_residual_pixels']) == (3, 3) for m in record['alignment'] if m['status'] == 'aligned')
    words = ','.join(f'{x:.1f}' for x in corners[::-1].ravel() + 2)
    assert command('shots/0.png', '--out', 'given', '--corners', words, '--no-layers') == 0
    assert json.loads(Path('given/layers.json').read_text())['rectification']['corners_from'] == 'given'
    for t in range(2): Image.fromarray(np.full((90, 120, 3), 99 + t, np.uint8)).save(f'shots/plain{t}.png')
    said = refused(capsys, 'shots/plain0.png', 'shots/plain1.png', '--out', 'no', '--rectify')
    assert 'give them with --corners x1,y1' in said and 'pixels of plain0.png' in said
    assert 'got 1,2' in refused(capsys, 'shots', '--out', 'no', '--corners', '1,2')


def test_photographs_of_different_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    paths = sorted((benchmark_folder().parent/'pictures').glob('*.png'))[:3]
    assert 'do not seem to be photographs of one flat picture: 0 of 2 match' in refused(capsys, *paths, '--out', 'out', '--align')


def test_photographs_that_do_not_belong_are_mentioned(tmp_path, large, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('shots').mkdir()
    for t, array in enumerate(large): Image.fromarray(array if t != 2 else np.roll(array, 40, 1)).save(f'shots/{t}.png')
    assert command('shots', '--out', 'out', '--no-layers') == 0
    said, record = capsys.readouterr().err, json.loads(Path('out/layers.json').read_text())
    assert 'mind: 2.png (' in said and 'hardly resemble the others' in record['strangers'] and '1.png' not in record['strangers']
    with pytest.warns(UserWarning, match='2.png .* hardly resemble'): restore('shots')


# --- bad input

def damaged(path): path.write_bytes(path.read_bytes()[:len(path.read_bytes())//2])


def bomb(path):
    "A header of 20 000 × 20 000, and nothing behind it."
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 20_000, 20_000, 8, 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(bytes(100))) + chunk(b'IEND', b''))


@pytest.mark.parametrize('break_it, answer', [
    (lambda shots: [path.unlink() for path in shots.iterdir()], 'no photographs in shots: it is empty'),
    (lambda shots: (shots/'3.png').write_text('no picture'), '3.png is damaged or no picture (unknown format)'),
    (lambda shots: (Image.open(shots/'3.png').save(shots/'3.jpg'), damaged(shots/'3.jpg')), '3.jpg is damaged or no picture'),
    (lambda shots: bomb(shots/'3.png'), '3.png claims more than 150,000,000 pixels'),
    (lambda shots: (shots/'3.png').write_bytes(b''), '3.png is damaged or no picture'),
    (lambda shots: Image.new('RGB', (61, 47)).save(shots/'3.png'), 'mixed sizes: shots/3.png is (47, 61), 1.png is (48, 61) (height, width): align them (--align)'),
    (lambda shots: [Image.new('RGB', (15, 99)).save(path) for path in shots.iterdir()], 'at least 16×16'),
])
def test_bad_photographs_are_named(shots, capsys, break_it, answer):
    break_it(shots)
    assert answer in refused(capsys, 'shots', '--out', 'out')


def test_a_bomb_is_refused_before_it_goes_off(shots):
    bomb(shots/'3.png')
    began = time.perf_counter()
    with pytest.raises(ValueError, match='claims more'): read_photograph(shots/'3.png')
    assert time.perf_counter() - began < 1


def test_bad_arrays(arrays):
    broken = arrays/255
    broken[2, 3, 4] = np.nan
    for frames, answer in [(broken, 'frame 3 holds NaN'), (arrays.astype(float), 'divide 8-bit values by 255'), (arrays[:0], 'no frames'), ([], 'no frames'),
                           (arrays[..., 0], r'\(T,H,W,3\)'), (torch.zeros(4, 3, 48, 61), r'\(3,T,H,W\)'), (None, 'got NoneType'), (7, 'got int')]:
        with pytest.raises((ValueError, TypeError), match=answer): restore(frames)


@pytest.mark.parametrize('words, answer', [
    (['nowhere', '--out', 'out'], 'nowhere does not exist'), (['shots'], '--out'), (['shots', '--out', 'out', '--threshold', '0'], '(0, 1]'),
    (['shots', '--out', 'out', '--fill', 'white'], 'invalid choice'), (['shots', '--out', 'out', '--reference', '1'], '--reference is for --align'),
    (['shots', '--out', 'out', '--weights', 'nowhere.safetensors'], 'no weights at nowhere'), (['shots', '--out', 'shots/1.png/out'], '1.png'),
    (['shots', '--out', 'shots'], 'exists: pass --force'), (['shots', '--out', 'shots', '--force'], 'holds the photographs themselves'), (['shots', 'shots/1.png', '--out', 'out'], 'is a folder: name one folder alone'), (['shots/1.png', 'shots/1.png', '--out', 'out'], 'is given twice'), (['shots', '--out', 'shots/1.png', '--force'], '1.png is a file'), (['shots', '--out', 'out', '--jobs', '2'], '--jobs is for --each'),
    (['shots', '--out', 'out', '--align', '--reference', '9'], 'the reference 9 is none of'), (['shots', '--each', '--out', 'out'], 'holds no folders'),
])
def test_wrong_use(shots, capsys, words, answer):
    assert answer in refused(capsys, *words)


def test_weights_that_are_not_ours(shots, capsys, tmp_path):
    torch.save(dict(a=torch.zeros(3)), 'model.pt')
    save_decomposer(create_decomposer('tiny'), 'other.safetensors')
    damage = Path('broken.safetensors'); damage.write_bytes(Path('other.safetensors').read_bytes()[:-100])
    for name, answer in [('model.pt', 'no safetensors file'), ('broken.safetensors', 'no safetensors file'), ('other.safetensors', 'family Fusion')]:
        assert answer in refused(capsys, 'shots', '--out', 'out', '--weights', name)
        assert answer in refused(capsys, '.', '--each', '--out', 'out', '--weights', name)  # once, not for each folder
    class Trap:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'trapped'),)
    torch.save(Trap(), 'trap.safetensors')
    assert 'no safetensors file' in refused(capsys, 'shots', '--out', 'out', '--weights', 'trap.safetensors') and not Path('trapped').exists()


def test_hostile_names(arrays, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('in').mkdir()
    names = ['-rf.png', '$a_b$^{.png', 'two\nlines.png', '\x1b[31mred.png', 'naïve.PNG', 'naïve.png', '..png', '日本.png', 'a'*200 + '.png', b'\xff\xfe.png'.decode('utf8', 'surrogateescape')]
    for t, name in enumerate(names): Image.fromarray(arrays[t % N_FRAMES]).save(open(f'in/{name}', 'wb'), 'png')
    assert command('in', '--out', 'out') == 0
    made, record = sorted(p.name for p in Path('out/shadow').iterdir()), json.loads(Path('out/layers.json').read_text())
    assert len(made) == len(set(name.casefold() for name in made)) == len(record['order']) == len(names) - 1 # `..png` is hidden
    assert all(name.isprintable() and not name.startswith(('-', '.')) for name in made)
    assert '\x1b' not in capsys.readouterr().err
    Path('in/x\x1b[2J.png').write_text('no picture')
    assert '\\x1b[2J.png is damaged' in refused(capsys, 'in', '--out', 'more')


# --- what is left behind

def test_an_existing_result_is_kept(shots, capsys):
    assert command('shots', '--out', 'out', '--no-layers') == 0
    before = Path('out/source.png').read_bytes()
    assert 'pass --force' in refused(capsys, 'shots', '--out', 'out')
    assert command(shots/'1.png', '--out', 'out', '--no-layers', '--force') == 0 and Path('out/source.png').read_bytes() != before
    Path('out/mine.txt').write_text('mine')
    assert 'mine.txt: move it away' in refused(capsys, 'shots', '--out', 'out', '--force')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_folder_that_is_read_only(shots, capsys):
    Path('locked').mkdir(mode=0o500)
    assert 'Permission denied' in refused(capsys, 'shots', '--out', 'locked/out')


@pytest.mark.parametrize('where', ['StripWriter.append', 'PngRows.close', 'save_sheet'])
def test_a_full_disk(shots, capsys, monkeypatch, where):
    def full(*a, **k): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(f'htcv.restored_files.{where}', full)
    assert command('shots', '--out', 'out') == 1 and 'No space left on device: nothing was written' in capsys.readouterr().err
    assert os.listdir('.') == ['shots']


def test_a_disk_that_takes_no_more(shots):
    "In earnest: the system refuses larger files."
    code = 'import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); ' \
           'from htcv.restore_command import htcv_restore; sys.exit(htcv_restore())'
    done = subprocess.run([sys.executable, '-c', code, 'shots', '--out', 'out'], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert 'may not grow further: raise the limit for files (ulimit -f)' in done.stderr and 'nothing was written' in done.stderr, done.stderr
    assert re.search(r'File too large: \S*/out/\S+ may not grow', done.stderr), done.stderr
    assert os.listdir('.') == ['shots']


def test_an_interrupt_in_the_middle(shots):
    "Ctrl-C once the work has begun."
    code = 'import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler) # a shell that starts tests behind itself ignores it\n' \
           'from htcv import restore_command as c, restored_files as f; append = f.StripWriter.append\n' \
           'def slow(*a): print("begun", flush=True); time.sleep(9); append(*a)\n' \
           'f.StripWriter.append = slow; sys.exit(c.htcv_restore())'
    process = subprocess.Popen([sys.executable, '-c', code, 'shots', '--out', 'out'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'begun\n' and len(os.listdir('.')) == 3 # with a draft and its lock
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.endswith('interrupted: nothing was written\n'), said
    assert os.listdir('.') == ['shots']


# --- never silently

def test_what_no_photograph_shows_is_said(arrays, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('shots').mkdir()
    alpha = np.full((*SIZE, 1), 255, np.uint8); alpha[:24, :20] = 0 # transparent in each of them
    for t, array in enumerate(arrays): Image.fromarray(np.concatenate([array, alpha], 2)).save(f'shots/{t}.png')
    share = 24*20/(SIZE[0]*SIZE[1])
    for fill, word in [('model', 'a guess of the model'), ('none', 'left out')]:
        assert command('shots', '--out', fill, '--fill', fill, '--no-layers') == 0
        said = capsys.readouterr().out
        assert f'{100*share:.3g}% of the picture' in said and word in said
        assert json.loads(Path(f'{fill}/layers.json').read_text())['hidden'] == pytest.approx(share)
        assert np.array(Image.open(f'{fill}/confidence.png'))[:24, :20].max() == 0
    source = np.array(Image.open('none/source.png'))
    assert source.shape[2] == 4 and source[:24, :20, 3].max() == 0 and source[24:, :, 3].min() == 255
    with pytest.warns(UserWarning, match='no frame shows'): restore('shots')


# --- many folders

@pytest.fixture
def album(arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('1', '2', '10'):
        Path('album', name).mkdir(parents=True)
        for t in range(2): Image.fromarray(arrays[t]).save(f'album/{name}/{t}.png')
    return tmp_path/'album'


def test_each_folder_once(album, capsys):
    Path('album/2/0.png').write_text('no picture')
    for name in ('bare', '.hidden', '__MACOSX', 'dotted'): Path('album', name).mkdir()
    Path('album/dotted/.a.jpg').touch()
    Image.open('album/1/0.png').save('album/loose.png')
    assert command('album', '--each', '--out', 'out', '--no-layers') == 1
    said = capsys.readouterr()
    assert re.findall(r'left out: (.*)', said.err) == ['bare (it is empty)', 'dotted (it holds hidden files only)',
                                                       'loose.png (a photograph that lies in no folder)']
    assert re.search('1 +restored .*two photographs cannot tell', said.err)
    assert said.out == '2 restored, 1 broken\n' and re.search('2 +broken +[0-9.]+ +album/2/0.png is damaged', said.err)
    assert sorted(os.listdir('out')) == ['1', '10']
    before = Path('out/1/source.png').stat().st_mtime_ns
    Image.open('album/1/0.png').save('album/2/0.png')
    assert command('album', '--each', '--out', 'out', '--no-layers') == 0 and capsys.readouterr().out == '1 restored, 2 done before\n'
    assert Path('out/1/source.png').stat().st_mtime_ns == before and sorted(os.listdir('out')) == ['1', '10', '2']


def test_several_processes_share_the_work(album):
    "Two commands at once, one of them with two processes: every folder is done by exactly one."
    call = [sys.executable, '-c', 'import sys; from htcv.restore_command import htcv_restore; sys.exit(htcv_restore())', 'album', '--each', '--out', 'out', '--no-layers']
    both = [subprocess.Popen(call + more, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for more in ([], ['--jobs', '2'])]
    said = [process.communicate(timeout=900)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    counts = [int(part.split()[0]) for text in said for part in text.strip().split(', ') if part.endswith('restored')]
    assert sum(counts) == 3, said
    assert sorted(os.listdir('out')) == ['1', '10', '2'] # no claims, no drafts


def test_what_another_process_is_at_is_left_to_it(album, capsys):
    Path('out').mkdir()
    with file_lock(Path('out/.2.lock')):
        assert command('album', '--each', '--out', 'out', '--no-layers') == 0
    said = capsys.readouterr()
    assert said.out == '2 restored, 1 claimed\n' and sorted(os.listdir('out')) == ['1', '10']
    assert command('album', '--each', '--out', 'out', '--no-layers') == 0 and sorted(os.listdir('out')) == ['1', '10', '2']


def test_help(capsys):
    assert command('--help') == 0
    said = capsys.readouterr().out
    assert 'examples:' in said and 'exit status:' in said and '--no-layers' in said


# --- colours and files

def folder_of(tmp_path, arrays, save):
    "Photographs that `save(array, path without suffix)` writes."
    (tmp_path/'in').mkdir()
    for t, array in enumerate(arrays): save(array, tmp_path/'in'/str(t))
    return tmp_path/'in'


def pixels_of(folder):
    "What the frames of a folder are read as."
    return np.stack([read_pixels(path)[0] for path in find_photographs(folder)[0]])


DEEP = dict(photometric='rgb')

@pytest.mark.parametrize('compression', [None, 'lzw', 'zlib'])
@pytest.mark.parametrize('kind', ['planar', 'tiled', 'infrared', 'white is zero', 'big-endian'])
def test_tiffs_of_scanners(arrays, tmp_path, kind, compression):
    deep = arrays.astype(np.uint16)*256 + 7
    options = dict(compression=compression)
    def save(array, path):
        path = path.with_suffix('.tif')
        if kind == 'planar': tifffile.imwrite(path, np.moveaxis(array, -1, 0), planarconfig='separate', **DEEP, **options)
        if kind == 'tiled': tifffile.imwrite(path, array, tile=(16, 32), **DEEP, **options)
        if kind == 'infrared': tifffile.imwrite(path, np.dstack([array, array[..., 1]//2]), extrasamples=['unspecified'], **DEEP, **options)
        if kind == 'white is zero': tifffile.imwrite(path, 65535 - array[..., 0], photometric='miniswhite', **options)
        if kind == 'big-endian': tifffile.imwrite(path, array, byteorder='>', **DEEP, **options)
    read = pixels_of(folder_of(tmp_path, deep, save))
    assert (read == (deep if kind != 'white is zero' else deep[..., :1])).all()


@pytest.mark.parametrize('suffix', ['heic', 'avif', 'jp2', 'jfif', 'gif', 'no suffix', 'jpg'])
def test_formats_by_content(arrays, tmp_path, suffix):
    import pillow_heif
    pillow_heif.register_heif_opener()
    kind = dict(heic='HEIF', avif='AVIF', jp2='JPEG2000', jfif='JPEG', gif='GIF', jpg='HEIF').get(suffix, 'PNG')
    def save(array, path): Image.fromarray(array).save(open(path if kind == 'PNG' else path.with_suffix(f'.{suffix}'), 'wb'), kind)
    read = pixels_of(folder_of(tmp_path, arrays, save))
    assert read.shape == arrays.shape and np.abs(read.astype(int) - arrays).mean() < 12


@pytest.mark.parametrize('kind', ['tif', 'webp', 'gif', 'png'])
def test_pages_are_frames(arrays, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    first, *more = [Image.fromarray(array) for array in arrays]
    first.save(f'stack.{kind}', save_all=True, append_images=more, **dict(lossless=True) if kind == 'webp' else {})
    assert command(f'stack.{kind}', '--out', 'out') == 0
    record = json.loads(Path('out/layers.json').read_text())
    assert record['order'] == [f'stack.{kind}'] + [f'stack.{kind} page {n}' for n in range(2, N_FRAMES + 1)]
    assert len(list(Path('out/shadow').iterdir())) == N_FRAMES


def test_alpha(arrays, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    def with_alpha(value): return folder_of(tmp_path/str(value), arrays, lambda a, p: Image.fromarray(
        np.dstack([a, np.full(SIZE, value, np.uint8)])).save(p.with_suffix('.png')))
    for value in (254, 129, 0, 90): (tmp_path/str(value)).mkdir()
    for value in (254, 129): assert (pixels_of(with_alpha(value)) == arrays).all()
    for value in (0, 90): assert '0.png shows nothing: its alpha' in refused(capsys, with_alpha(value), '--out', 'out')


def matrix_profile(primaries, gamma):
    "An ICC profile from the columns of its matrix to XYZ (D50) and one gamma."
    def xyz(v): return b'XYZ \0\0\0\0' + struct.pack('>3i', *(round(x*65536) for x in v))
    curve = b'curv\0\0\0\0' + struct.pack('>IH', 1, round(gamma*256)) + b'\0\0'
    text = b'desc\0\0\0\0' + struct.pack('>I', 8) + b'made up\0' + bytes(78)
    tags = {b'desc': text, b'wtpt': xyz((.9642, 1, .8249)), b'rTRC': curve, b'gTRC': curve, b'bTRC': curve}
    tags |= {kind: xyz(v) for kind, v in zip((b'rXYZ', b'gXYZ', b'bXYZ'), np.transpose(primaries))}
    table, body, at = b'', b'', 132 + 12*len(tags)
    for kind, data in tags.items():
        data += bytes(-len(data) % 4)
        table += kind + struct.pack('>II', at + len(body), len(data)); body += data
    head = struct.pack('>I4sI4s4s4s', at + len(body), bytes(4), 0x02400000, b'mntr', b'RGB ', b'XYZ ')
    head += bytes(12) + b'acsp' + bytes(28) + struct.pack('>3i', 63190, 65536, 54061) + bytes(48)
    return head + struct.pack('>I', len(tags)) + table + body


def test_a_profile_goes_on_and_several_become_one(arrays, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    adobe = matrix_profile([(.60974, .20528, .14919), (.31111, .62567, .06322), (.01947, .06087, .74457)], 2.2)
    inside = (arrays*.5 + 60).astype(np.uint8) # within both gamuts
    exif = Image.Exif(); exif[274], exif[315], exif[306] = 1, 'A. Painter', '2026:11:25 12:00:00'
    def save(array, path, tag):
        numbers = convert_colours(array, None, adobe) if tag else array
        Image.fromarray(numbers).save(path.with_suffix('.png'), icc_profile=adobe if tag else None, dpi=(300, 300), exif=exif)
    def made(name, tags):
        (tmp_path/name).mkdir()
        folder = folder_of(tmp_path/name, inside, lambda a, p: save(a, p, tags[int(p.name)]))
        assert command(folder, '--out', f'{name}/out', '--ora') == 0
        picture = Image.open(f'{name}/out/source.png')
        profile = picture.info.get('icc_profile')
        shown = np.asarray(picture) if not profile else convert_colours(np.asarray(picture), profile)
        return picture, profile, shown.astype(int)
    _, none, plain = made('plain', [0]*N_FRAMES)
    picture, one, alike = made('one', [1]*N_FRAMES)
    assert none is None and one == adobe and picture.getexif()[315] == 'A. Painter' and 274 not in picture.getexif()
    assert round(picture.info['dpi'][0]) == 300 and Image.open('one/out/shadow/0.png').info['icc_profile'] == adobe
    capsys.readouterr()
    _, several, mixed = made('mixed', [0, 1]*(N_FRAMES//2))
    assert several == adobe and 'several colour profiles: converted to' in capsys.readouterr().err
    frames = load_frames('mixed/in') # the same colours in all frames; the network sees other numbers of them
    assert frames.profile == adobe
    for pixels, truth in zip(frames.pixels, inside):
        assert np.abs(convert_colours(np.asarray(pixels), adobe).astype(int) - truth).max() <= 3
    assert np.abs(mixed - plain).mean() < 8 and np.abs(alike - plain).mean() < 8


P3 = [(.51512, .29198, .15710), (.24120, .69225, .06657), (-.00105, .04189, .78407)]  # Display P3 to XYZ (D50)


def cielab(numbers, profile):
    "Colours as displayed, (H,W,3), CIE 1976."
    shown = convert_colours(numbers, profile) if profile else numbers
    return cv2.cvtColor(shown.astype(np.float32)/(65535 if shown.dtype == np.uint16 else 255), cv2.COLOR_RGB2LAB)


def test_display_p3_is_restored_to_the_same_colours(large, tmp_path):
    "Six frames, all of them or three in Display P3: the source as displayed is that of the frames in sRGB."
    p3, found = matrix_profile(P3, 2.2), {}
    frames = large[:, ::2, ::2]
    for name, tags in dict(srgb=[0]*6, p3=[1]*6, mixed=[0, 1]*3).items():
        (tmp_path/name).mkdir()
        for t, (array, tag) in enumerate(zip(frames, tags)):
            numbers = convert_colours(array, None, p3) if tag else array
            Image.fromarray(numbers).save(tmp_path/name/f'{t}.png', icc_profile=p3 if tag else None)
        photographs, result = load_frames(tmp_path/name), restore(tmp_path/name)
        numbers = (result.source[0].permute(1, 2, 0).numpy()*65535).round().astype(np.uint16)
        found[name] = cielab(numbers, photographs.profile), max(result.errors)
        assert bool(photographs.profile) == (name != 'srgb')
    for name in ('p3', 'mixed'):
        assert np.linalg.norm(found[name][0] - found['srgb'][0], axis=-1).mean() < 1
        assert found[name][1] < found['srgb'][1] + 1/255  # the layers compose as well


def test_a_colour_outside_srgb_stays(tmp_path):
    p3, vivid = matrix_profile(P3, 2.2), np.full((32, 40, 3), (250, 30, 30), np.uint8)
    vivid[:, :20] = 60, 60, 60
    for t in range(3): Image.fromarray(vivid).save(tmp_path/f'{t}.png', icc_profile=p3)
    source = restore(tmp_path).source[0].permute(1, 2, 0).numpy()*255
    lost = np.abs(convert_colours(convert_colours(vivid, p3), None, p3)[16, 30].astype(int) - vivid[16, 30]).max()
    assert lost > 12 and np.abs(source[4:-4, 26:36] - vivid[4:-4, 26:36]).mean() < lost/2


def test_grey_in_grey_out(arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path, arrays, lambda a, p: Image.fromarray(a).convert('L').save(p.with_suffix('.jpg')))
    assert command('in', '--out', 'out') == 0
    assert {Image.open(path).mode for path in Path('out').rglob('*.png') if 'sheet' not in path.name} == {'L'}


def test_twelve_bits_in_sixteen(arrays, tmp_path):
    twelve = arrays.astype(np.uint16)*16
    folder = folder_of(tmp_path, twelve, lambda a, p: tifffile.imwrite(p.with_suffix('.tif'), a, **DEEP))
    found = load_frames(folder)
    assert np.abs(np.asarray(found.pixels)/65535 - twelve/4095).max() < 1e-4 and 'spread over' in found.notes[0]


def test_raw_files_are_never_their_thumbnail(tmp_path, monkeypatch, capsys, arrays):
    monkeypatch.chdir(tmp_path)
    for t in range(2): tifffile.imwrite(f'{t}.tif', arrays[t], **DEEP, extratags=[(50706, 1, 4, b'\1\4\0\0', True)], subfiletype=1)
    assert '0.tif is a raw file' in refused(capsys, '0.tif', '1.tif', '--out', 'out')


def test_postscript_under_a_pictures_name(shots, capsys):
    (shots/'3.png').write_text('%!PS\n{ } loop\n')
    assert '3.png is a PostScript file' in refused(capsys, 'shots', '--out', 'out')


def test_short_memory_is_no_damage(shots, monkeypatch, capsys):
    def short(*a, **k): raise MemoryError
    monkeypatch.setattr('htcv.images.png_chunks', short)
    assert command('shots', '--out', 'out') == 1
    assert 'not enough memory to read' in capsys.readouterr().err and os.listdir('.') == ['shots']


# --- a command that says what is true

def process(*words, **options):
    "The command in a process of its own."
    call = [sys.executable, '-c', 'import sys; from htcv.restore_command import htcv_restore; sys.exit(htcv_restore())', *map(str, words)]
    return subprocess.Popen(call, stderr=subprocess.PIPE, text=True, **options)


def test_a_terminal_of_another_encoding(shots):
    done = process('shots', '--out', 'out', '--no-layers', stdout=subprocess.PIPE, env=os.environ | {'PYTHONIOENCODING': 'cp1251'})
    said, _ = done.communicate()
    assert done.returncode == 0 and '61\\xd748' in said and Path('out/source.png').exists()


def test_a_closed_pipe_and_a_full_one(shots):
    reader, writer = os.pipe(); os.close(reader)
    for name, stdout in (('a', writer), ('b', open('/dev/full', 'w'))):
        done = process('shots', '--out', name, '--no-layers', stdout=stdout)
        _, said = done.communicate()
        assert done.returncode == 0 and Path(name, 'source.png').exists() and 'nothing was written' not in said, said


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1'])
def test_help_on_a_terminal_of_another_encoding(encoding):
    done = process('--help', stdout=subprocess.PIPE, env=os.environ | {'PYTHONIOENCODING': encoding})
    said, _ = done.communicate()
    assert done.returncode == 0 and 'X1,Y1,\\u2026' in said


def test_nothing_is_said_where_stderr_is_closed(tmp_path, root):
    "Not to stdout either, nor into the next file that is opened."
    code = 'import os, sys; from htcv.restore_command import htcv_restore\n' \
           'try: status = htcv_restore()\nexcept SystemExit as stop: status = stop.code\n' \
           'sys.exit(status if os.fstat(2).st_rdev == os.stat(os.devnull).st_rdev else 77)'
    for words in ('nowhere --out x', 'nowhere --out x --bogus'):
        done = subprocess.run(f'exec "{sys.executable}" -c "$CODE" {words} 2>&-', shell=True, stdout=subprocess.PIPE, text=True,
                              cwd=tmp_path, env=os.environ | {'CODE': code, 'PYTHONPATH': str(root)})
        assert (done.returncode, done.stdout) == (2, '')


@pytest.mark.parametrize('number, status', [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)])
def test_ends_from_outside_leave_nothing_after_the_next_run(shots, number, status):
    # under nohup a child inherits that SIGHUP is ignored, and then the command rightly goes on
    code = 'import signal, sys, time; from htcv import restore_command as c, restored_files as f\n' \
           'signal.signal(signal.SIGHUP, signal.SIG_DFL)\n' \
           'def slow(*a): print("begun", flush=True); time.sleep(9)\n' \
           'f.StripWriter.append = slow; sys.exit(c.htcv_restore())'
    begun = subprocess.Popen([sys.executable, '-c', code, 'shots', '--out', 'out'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert begun.stdout.readline() == 'begun\n'
    begun.send_signal(number)
    _, said = begun.communicate(timeout=60)
    assert begun.returncode == status
    assert number == signal.SIGKILL or said.endswith('interrupted: nothing was written\n') and os.listdir('.') == ['shots']
    assert command('shots', '--out', 'out', '--no-layers') == 0 and sorted(os.listdir('.')) == ['out', 'shots']


def test_out_through_a_link(shots, tmp_path):
    (tmp_path/'disk').mkdir(); Path('out').symlink_to(tmp_path/'disk'/'made')
    for more in ([], ['--force']): assert command('shots', '--out', 'out', '--no-layers', *more) == 0
    assert Path('out').is_symlink() and os.listdir('disk') == ['made'] and (tmp_path/'disk/made/source.png').exists()


def test_force_deletes_only_what_was_written(shots, capsys):
    assert command('shots', '--out', 'out') == 0
    Path('out/shadow/mine.png').write_text('mine')
    assert 'holds shadow/mine.png: move it away' in refused(capsys, 'shots', '--out', 'out', '--force')
    Path('out/shadow/mine.png').unlink()
    assert 'holds the photographs themselves' in refused(capsys, 'out/shadow', '--out', 'out', '--force')
    with open('out/source.png', 'ab') as file: file.write(b'painted over')
    assert 'holds source.png' in refused(capsys, 'shots', '--out', 'out', '--force')


def test_nothing_seen_is_no_result(tmp_path, monkeypatch, capsys, arrays, shots):
    from htcv import restore as r
    real = r.restored_strips
    def blind(*a, **k):
        for strip in real(*a, **k): strip.confidence.zero_(); yield strip
    monkeypatch.setattr(r, 'restored_strips', blind)
    assert 'no photograph shows anything of the picture' in refused(capsys, 'shots', '--out', 'out')


@pytest.mark.parametrize('words, answer', [
    (['shots', '--out', 'out', '--device', 'nowhere'], 'there is no device nowhere here'), (['*.jpg', '--out', 'out'], '*.jpg fits no file'),
    (['.', '--out', 'out'], '--each restores each folder'), (['shots', '--out', 'out', '--each', '--jobs', '0'], 'jobs are at least 1'),
])
def test_more_wrong_use(shots, capsys, words, answer):
    assert answer in refused(capsys, *words)


def test_what_is_said(shots, capsys):
    for n in range(40): (shots/f'note {n}.txt').write_text('no picture')
    assert command('shots/[12].png', '--out', 'out', '--no-layers') == 0          # a pattern that no shell expanded
    assert json.loads(Path('out/layers.json').read_text())['order'] == ['1.png', '2.png']
    capsys.readouterr()
    assert command('shots', '--out', 'more', '--no-layers') == 0
    said = capsys.readouterr().err
    assert said.count('left out:') == 20 and '… and 20 more' in said and 'it took' in said
    assert command('shots/1.png', '--out', 'one', '--no-layers') == 0 and 'one photograph cannot be restored' in capsys.readouterr().err


def test_answers_before_anything_large_is_imported(fresh_python):
    code = 'import sys, time; began = time.process_time()\nfrom htcv.restore_command import htcv_restore\n' \
           'try: htcv_restore({words})\nexcept SystemExit: pass\nprint(bool({{"torch", "dask", "distributed"}} & set(sys.modules)), time.process_time() - began < .5)'
    for words in (['--help'], ['--version'], ['a', '--out', 'b', '--threshold', '2'], ['nowhere', '--out', 'x'],
                  ['nowhere', '--each', '--out', 'x', '--jobs', '2']):
        assert fresh_python(code.format(words=words)).endswith('False True')


@pytest.mark.parametrize('wrong', [dict(rows=-3), dict(rows=0), dict(side=-1), dict(side=10**5)])
def test_impossible_sizes_are_refused(arrays, wrong):
    with pytest.raises(ValueError, match='must be a whole number'): restore(arrays, **wrong)


def test_the_default_of_floats_does_not_matter(arrays):
    expected = restore(arrays).source
    torch.set_default_dtype(torch.float64)
    try: assert torch.equal(restore(arrays).source, expected)
    finally: torch.set_default_dtype(torch.float32)


def test_grey_photographs_keep_holes_as_grey_and_alpha(tmp_path):
    "What no frame shows is transparent with --fill none, in a picture of one channel too."
    (tmp_path/'grey').mkdir()
    paint = np.random.default_rng(0).integers(60, 200, (48, 64), np.uint8)
    for i in range(4):
        shot = paint.copy()
        shot[20:30, 20:34] = 60*i  # covered in all of them
        Image.fromarray(shot).save(tmp_path/'grey'/f'{i}.png')
    assert command(tmp_path/'grey', '--out', tmp_path/'out', '--fill', 'none') == 0
    with Image.open(tmp_path/'out'/'source.png') as found: assert (found.mode, found.size) == ('LA', (64, 48))


def test_corners_may_lie_left_of_the_picture(shots, capsys):
    "A minus begins a number here, not an option."
    assert restore_command._joined(['a', '--corners', '-5,0,9,0,9,9,0,9', '--ora']) == ['a', '--corners=-5,0,9,0,9,9,0,9', '--ora']
    assert restore_command._joined(['--corners', '--ora']) == ['--corners', '--ora']
    assert 'expected one argument' not in refused(capsys, 'shots', '--out', 'out', '--corners', '-5,0,9')


def test_in_an_album_options_are_called_as_they_are_typed(tmp_path):
    (tmp_path/'blank').mkdir()
    for i in range(2): Image.fromarray(np.full((64, 80, 3), 128 + i, np.uint8)).save(tmp_path/'blank'/f'{i}.png')
    outcome = restore_command.restore_one(tmp_path/'blank', tmp_path/'out', rectify=True)
    assert outcome.status == 'broken' and '--corners x1' in outcome.note and 'corners=' not in outcome.note
