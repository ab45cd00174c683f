"Sequence folders: broken files, odd pictures, round trips."
import os
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from htcv import images
from htcv import sequences as sq
from htcv import sequence_dataset as sd
from htcv.composition import Layers, compose


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def some_layers(T=3, H=33, W=65, channels=3, seed=0):
    mask = (random(1, 1, T, H, W, seed=seed) > .8).float()
    return Layers(random(1, 3, H, W, seed=1), random(1, channels, T, H, W, seed=2), .4*random(1, channels, T, H, W, seed=3),
                  mask, random(1, 3, T, H, W, seed=4), alpha=mask*random(1, 1, T, H, W, seed=5))


@pytest.fixture
def root(tmp_path):
    "Twelve small sequences with exact layers."
    for i in range(1, 13):
        layers = some_layers(T=11, H=16, W=24, seed=i)
        sq.write_sequence(tmp_path/'SIAR'/str(i), compose(layers)[0], layers.source[0], layers)
    return tmp_path/'SIAR'


# --- one picture

@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('channels', [1, 3, 4])
@pytest.mark.parametrize('depth', [np.uint8, np.uint16])
def test_every_depth_and_channel_count(tmp_path, suffix, channels, depth):
    top = np.iinfo(depth).max
    array = np.random.default_rng(0).integers(0, top, (7, 5, channels), dtype=depth)
    if channels == 4: array[..., 3] = top
    assert cv2.imwrite(str(tmp_path/f'a{suffix}'), array)
    image = sq.read_image(tmp_path/f'a{suffix}').numpy()
    rgb = (array.repeat(3, -1) if channels == 1 else array[..., 2::-1]).transpose(2, 0, 1)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, rgb/top, atol=1e-6)


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'LA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'I;16'])
def test_every_pillow_mode_gives_three_channels(tmp_path, mode):
    suffix = {'CMYK': '.tif', 'YCbCr': '.tif'}.get(mode, '.png')
    picture = Image.new('L', (5, 4), 51)
    picture = Image.fromarray(np.full((4, 5), 13107, np.uint16)) if mode == 'I;16' else picture.convert('RGB').convert(mode)
    picture.save(tmp_path/f'a{suffix}')
    image = sq.read_image(tmp_path/f'a{suffix}')
    assert image.shape == (3, 4, 5)
    if mode not in ('1', 'CMYK', 'YCbCr', 'P'): torch.testing.assert_close(image, torch.full((3, 4, 5), .2), atol=1e-6, rtol=0)


def test_palette_transparency_is_composited(tmp_path):
    picture = Image.new('P', (4, 4), 0)
    picture.putpalette([10, 20, 30, 255, 255, 255])
    picture.save(tmp_path/'a.png', transparency=0)
    assert (sq.read_image(tmp_path/'a.png') == 1).all()
    assert (sq.read_image(tmp_path/'a.png', background=0) == 0).all()


def test_half_transparent_is_mixed(tmp_path):
    Image.new('RGBA', (4, 4), (0, 0, 0, 51)).save(tmp_path/'a.png')
    torch.testing.assert_close(sq.read_image(tmp_path/'a.png'), torch.full((3, 4, 4), .8))


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp', '.tif'])
def test_exif_orientation(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    card = np.zeros((16, 32, 3), np.uint8)
    card[:8, :16] = 250
    Image.fromarray(card).save(tmp_path/f'a{suffix}', exif=exif)
    seen = sq.read_image(tmp_path/f'a{suffix}')
    plain = Image.fromarray(card)
    plain.getexif()[274] = orientation
    wanted = np.asarray(ImageOps.exif_transpose(plain)).transpose(2, 0, 1)/255
    assert seen.shape == wanted.shape
    assert np.abs(seen.numpy() - wanted).mean() < .05


def test_16_bit_colour_png_with_orientation(tmp_path):
    array = np.random.default_rng(0).integers(0, 65535, (4, 6, 3), dtype=np.uint16)
    data = cv2.imencode('.png', array)[1].tobytes()
    exif = Image.Exif()
    exif[274] = 6
    body = exif.tobytes().removeprefix(b'Exif\0\0')
    chunk = struct.pack('>I', len(body)) + b'eXIf' + body + struct.pack('>I', zlib.crc32(b'eXIf' + body))
    (tmp_path/'a.png').write_bytes(data[:33] + chunk + data[33:])
    np.testing.assert_allclose(sq.read_image(tmp_path/'a.png'), np.rot90(array[..., ::-1], 3).transpose(2, 0, 1)/65535, atol=1e-6)


def tiff_16_bit(array, orientation):
    "An uncompressed 16-bit RGB TIFF, byte by byte: neither Pillow nor OpenCV writes one with an orientation."
    H, W, _ = array.shape
    tags = [(256, W), (257, H), (258, None), (259, 1), (262, 2), (273, None), (274, orientation), (277, 3), (278, H), (279, array.nbytes), (284, 1)]
    bits = 8 + 2 + 12*len(tags) + 4
    entry = {258: (3, 3, bits), 273: (4, 1, bits + 6), 279: (4, 1, array.nbytes)}
    rows = [struct.pack('<HHII', tag, *entry.get(tag, (3, 1, value))) for tag, value in tags]
    return (b'II*\0' + struct.pack('<IH', 8, len(tags)) + b''.join(rows) + struct.pack('<I3H', 0, 16, 16, 16)
            + array.astype('<u2').tobytes())


@pytest.mark.parametrize('orientation', range(1, 9))
def test_16_bit_colour_tiff_with_orientation(tmp_path, orientation):
    array = np.random.default_rng(0).integers(0, 65535, (4, 6, 3), dtype=np.uint16)
    (tmp_path/'a.tif').write_bytes(tiff_16_bit(array, orientation))
    wanted = images.upright(array, orientation).transpose(2, 0, 1)/65535
    np.testing.assert_allclose(sq.read_image(tmp_path/'a.tif'), wanted, atol=1e-6)


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp', '.tif', '.bmp'])
@pytest.mark.parametrize('kept', [0, .02, .5, .95])
def test_truncated_files_are_named(tmp_path, suffix, kept):
    array = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = cv2.imencode(suffix, array)[1].tobytes()
    (tmp_path/f'9{suffix}').write_bytes(data[:int(len(data)*kept)])
    with pytest.raises(ValueError, match=f'9\\{suffix} is damaged or no picture'): sq.read_image(tmp_path/f'9{suffix}')


@pytest.mark.parametrize('at', [.2, .5, .9])
def test_flipped_bits_are_noticed(tmp_path, at):
    sq.write_image(tmp_path/'a.png', random(3, 64, 64))
    data = bytearray((tmp_path/'a.png').read_bytes())
    data[int(len(data)*at)] ^= 0x55
    (tmp_path/'a.png').write_bytes(data)
    with pytest.raises(ValueError, match='damaged'): sq.read_image(tmp_path/'a.png')


def test_decompression_bombs_are_refused_before_decoding(tmp_path):
    header = struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0)
    chunk = lambda name, body: struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body))
    (tmp_path/'a.png').write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'\0')) + chunk(b'IEND', b''))
    with pytest.raises(ValueError, match='a.png'): sq.read_image(tmp_path/'a.png')


def test_the_pixel_limit(tmp_path, monkeypatch):
    sq.write_image(tmp_path/'a.png', random(3, 10, 11))
    monkeypatch.setattr(images, 'MAX_PIXELS', 109)
    with pytest.raises(ValueError, match='scale it down'): sq.read_image(tmp_path/'a.png')


def test_floating_point_files_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path/'a.tif')
    with pytest.raises(ValueError, match='floating-point'): sq.read_image(tmp_path/'a.tif')


def test_names_that_are_not_ascii(tmp_path):
    sq.write_image(tmp_path/'Gemälde ①.png', random(3, 4, 5), bits=16)
    assert sq.read_image(tmp_path/'Gemälde ①.png').shape == (3, 4, 5)


# --- sequences

@pytest.mark.parametrize('shape', [(1, 1, 1), (1, 33, 65), (12, 7, 5)])
@pytest.mark.parametrize('bits', [8, 16])
def test_round_trip(tmp_path, shape, bits):
    frames, source = random(3, *shape), random(3, *shape[1:], seed=1)
    read = sq.read_sequence(sq.write_sequence(tmp_path/'5', frames, source, bits=bits), require_source=True)
    half_a_step = .5/(2**bits - 1) + 1e-6
    assert (read.frames - frames).abs().max() <= half_a_step
    assert (read.source - source).abs().max() <= half_a_step
    assert (read.id, read.masks, read.numbers) == ('5', None, tuple(range(1, shape[0] + 1)))


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('bits, worst', [(8, 1.51), (16, .01)])
def test_layers_round_trip(tmp_path, channels, bits, worst):
    layers = some_layers(channels=channels)
    frames = compose(layers)
    folder = sq.write_sequence(tmp_path/'1', frames[0], layers.source[0], layers, layer_bits=bits)
    read = sq.read_layers(folder)
    for name, stored in vars(read).items():
        assert stored.shape == getattr(layers, name).shape, name
        assert (stored - getattr(layers, name)).abs().max() <= .5/(2**bits - 1) + 1e-6, name
    assert (compose(read) - frames).abs().max()*255 <= worst
    assert (compose(read) - sq.read_sequence(folder).frames).abs().max()*255 <= 2
    assert (sq.read_sequence(folder).masks == layers.occlusion_mask[0]).all()


def test_layers_without_alpha(tmp_path):
    layers = some_layers()
    layers.alpha = None
    assert sq.read_layers(sq.write_sequence(tmp_path/'1', compose(layers)[0], layers=layers)).alpha is None
    with pytest.raises(FileNotFoundError, match='layers'): sq.read_layers(sq.write_sequence(tmp_path/'2', compose(layers)[0]))


def test_eval_layout(tmp_path):
    folder = tmp_path/'Eval'/'3'
    folder.mkdir(parents=True)
    for n in range(11): sq.write_image(folder/f'{n}.png', torch.full((3, 4, 5), n/10))
    assert sq.read_sequence(folder).numbers == tuple(range(1, 11))       # 0 is no input below Eval …
    assert sq.read_sequence(folder).masks is None
    assert sq.read_sequence(folder, skip_zero=False).numbers == tuple(range(11))
    folder = folder.rename(tmp_path/'3')
    assert sq.read_sequence(folder).numbers == tuple(range(11))          # … and is one elsewhere
    for n in range(1, 11): sq.write_image(folder/f'{n}-m.png', torch.full((1, 4, 5), float(n > 5)))
    read = sq.read_sequence(folder)                                      # unless masks say what layout it is
    assert read.numbers == tuple(range(1, 11)) and read.masks[0, :, 0, 0].tolist() == [0]*5 + [1]*5
    (folder/'7-m.png').unlink()
    with pytest.raises(FileNotFoundError, match='no mask for frame 7'): sq.read_sequence(folder)


def test_relative_paths(tmp_path, monkeypatch):
    sq.write_sequence(tmp_path/'Eval'/'3', random(3, 3, 4, 5), numbers=[0, 1, 2])
    monkeypatch.chdir(tmp_path/'Eval')
    assert sq.read_sequence('3').numbers == (1, 2)


def test_numbers_sort_as_numbers_and_may_have_gaps(tmp_path):
    for name in ('2.png', '10.png', '0007.jpg', '1.webp'): Image.new('RGB', (5, 4)).save(tmp_path/name)
    assert sq.read_sequence(tmp_path).numbers == (1, 2, 7, 10)
    Image.new('RGB', (5, 4)).save(tmp_path/'02.png')
    with pytest.raises(ValueError, match='twice'): sq.read_sequence(tmp_path)


def test_other_names_are_shown_when_there_are_no_frames(tmp_path):
    Image.new('RGB', (5, 4)).save(tmp_path/'IMG_1234.jpg')
    with pytest.raises(FileNotFoundError, match='IMG_1234.jpg'): sq.read_sequence(tmp_path)


@pytest.mark.parametrize('change, message', [
    (dict(frames=random(3, 2, 4, 5)*float('nan')), 'NaN'), (dict(frames=random(3, 2, 4, 5)/0), 'NaN or infinite'),
    (dict(frames=random(3, 2, 4, 5)*255), 'divide 8-bit'), (dict(frames=random(3, 2, 4, 5) - 1), 'outside'),
    (dict(frames=random(2, 3, 4, 5)), 'must be'), (dict(frames=random(3, 0, 4, 5)), 'empty'),
    (dict(source=random(3, 5, 4)), 'source must be'), (dict(source=random(3, 4, 5)*float('nan')), 'source holds NaN'),
    (dict(masks=random(1, 3, 4, 5)), 'masks must be'), (dict(numbers=[1, 1]), 'different numbers'), (dict(numbers=[1]), 'different numbers'),
    (dict(numbers=[-1, 2]), 'from 0 on'), (dict(bits=10), '8 or 16'), (dict(layers=some_layers(2, 9, 9)), 'one sequence'),
])
def test_what_is_not_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message): sq.write_sequence(tmp_path/'1', **dict(frames=random(3, 2, 4, 5)) | change)
    assert list(tmp_path.iterdir()) == []


def test_light_above_one_is_refused_when_stored(tmp_path):
    layers = some_layers()
    layers.light = layers.light + 1
    with pytest.raises(ValueError, match='light'): sq.write_sequence(tmp_path/'1', compose(layers)[0], layers=layers)
    assert list(tmp_path.iterdir()) == []


def test_overwriting_replaces_everything_or_nothing(tmp_path):
    sq.write_sequence(tmp_path/'1', random(3, 5, 4, 5), random(3, 4, 5))
    with pytest.raises(FileExistsError): sq.write_sequence(tmp_path/'1', random(3, 2, 4, 5))
    assert len(sq.read_sequence(tmp_path/'1').numbers) == 5
    sq.write_sequence(tmp_path/'1', random(3, 2, 4, 5), overwrite=True)
    assert sorted(p.name for p in (tmp_path/'1').iterdir()) == ['1.png', '2.png']
    (tmp_path/'1'/'holiday.jpg').write_bytes(b'precious')
    with pytest.raises(FileExistsError, match='holiday.jpg'): sq.write_sequence(tmp_path/'1', random(3, 2, 4, 5), overwrite=True)
    assert (tmp_path/'1'/'holiday.jpg').read_bytes() == b'precious'


def test_a_write_that_fails_half_way_leaves_the_old_sequence(tmp_path, monkeypatch):
    sq.write_sequence(tmp_path/'1', random(3, 5, 4, 5))
    write, count = sq.write_image, []
    def fails(*args):
        count.append(1)
        if len(count) == 3: raise OSError('no space left on device')
        write(*args)
    monkeypatch.setattr(sq, 'write_image', fails)
    with pytest.raises(OSError, match='no space'): sq.write_sequence(tmp_path/'1', random(3, 5, 4, 5, seed=1), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ['1']
    assert (sq.read_sequence(tmp_path/'1').frames - random(3, 5, 4, 5)).abs().max() < .01


def test_permissions_are_those_of_any_new_folder(tmp_path):
    (tmp_path/'plain').mkdir()
    sq.write_sequence(tmp_path/'1', random(3, 1, 4, 5))
    assert (tmp_path/'1').stat().st_mode == (tmp_path/'plain').stat().st_mode


def test_names_of_siar_folders(tmp_path):
    for name in ('GT.PNG', '0.png', '1.PNG', '2.png'): sq.write_image(tmp_path/name, random(3, 4, 5))
    for n in range(3): sq.write_image(tmp_path/f'{n}-m.png', random(1, 4, 5))
    read = sq.read_sequence(tmp_path, require_source=True)             # upper case, and masks from 0 on
    assert read.numbers == (0, 1, 2) and read.masks.shape == (1, 3, 4, 5)
    (tmp_path/'0-m.png').unlink()
    assert sq.read_sequence(tmp_path).numbers == (1, 2)                # frame 0 without a mask is no input


def test_what_archives_leave_is_no_sequence(root):
    for name in ('__MACOSX', 'empty', '.draft'): (root/name).mkdir()
    (root/'__MACOSX'/'1.png').write_bytes(b''); (root/'empty'/'.DS_Store').write_bytes(b'')
    assert sq.sequence_ids(root) == [str(i) for i in range(1, 13)] and sq.check_sequences(root) == []


# --- splits

def test_splits_round_trip_and_sizes(tmp_path):
    splits = sq.make_splits([f'{i:05}' for i in range(14541)])
    assert [len(splits[part]) for part in sq.PARTS] == [11632, 1454, 1455]
    assert len(set().union(*splits.values())) == 14541
    folder = sq.write_splits(tmp_path/'data_splits'/'a', splits)
    for part in sq.PARTS: assert sq.read_split(folder/f'{part}.csv') == splits[part]
    with pytest.raises(FileExistsError): sq.write_splits(folder, splits)


def test_the_split_is_the_same_on_every_machine():
    splits = sq.make_splits(range(1, 11))
    assert (splits['val'], splits['test']) == (['5'], ['1'])


def test_split_files_by_others(tmp_path):
    (tmp_path/'a.csv').write_bytes('\ufeff,id,kind\r\n0, 00012 ,x\r\n1,7,y\r\n,,\r\n'.encode())
    assert sq.read_split(tmp_path/'a.csv') == ['00012', '7']
    (tmp_path/'b.csv').write_text('')
    with pytest.raises(ValueError, match='no column `id`'): sq.read_split(tmp_path/'b.csv')
    (tmp_path/'c.csv').write_text('id\n1\n1\n')
    with pytest.raises(ValueError, match='names 1 twice'): sq.read_split(tmp_path/'c.csv')
    with pytest.raises(FileNotFoundError): sq.read_split(tmp_path/'d.csv')


# --- dataset and loader

def test_dataset_follows_a_split(root, tmp_path):
    sq.write_splits(tmp_path/'s', dict(train=['10', '2'], val=['7']))
    assert [item['id'] for item in sd.SequenceDataset(root, tmp_path/'s'/'train.csv')] == ['10', '2']
    assert sd.SequenceDataset(root).ids == [str(i) for i in range(1, 13)]
    (root/'.13.new-1234').mkdir()                                         # what a killed writer leaves
    assert len(sd.SequenceDataset(root)) == 12 and sq.check_sequences(root) == []


@pytest.mark.parametrize('seed', range(4))
def test_augmentation_moves_all_layers_alike(root, seed):
    data = sd.SequenceDataset(root, n_frames=5, layers=True, augment=True, seed=seed)
    for item in data:
        layers = Layers(**{name: x[None] for name, x in item.items() if name not in ('id', 'frames')})
        assert item['frames'].shape == (3, 5, 16, 24)
        assert (compose(layers)[0] - item['frames']).abs().max() <= 2/255


def test_augmentation_depends_on_seed_epoch_index_only(root):
    data = sd.SequenceDataset(root, augment=True, seed=3)
    data.set_epoch(2)
    late = data[5]['frames']
    again = sd.SequenceDataset(root, augment=True, seed=3)
    assert not torch.equal(again[5]['frames'], late)
    again.set_epoch(2)
    again[0], torch.rand(3), np.random.rand(2)
    assert torch.equal(again[5]['frames'], late) and torch.equal(again[-7]['frames'], late)


@pytest.mark.parametrize('workers', [0, 2])
def test_a_killed_epoch_resumes_exactly(root, workers):
    data = sd.SequenceDataset(root, augment=True, n_frames=4)
    options = dict(batch_size=5, shuffle=True, seed=9, epoch=4)
    whole = list(sd.sequence_loader(data, **options))
    rest = list(sd.sequence_loader(data, start=1, workers=workers, **options))
    assert [len(batch['id']) for batch in whole] == [5, 5, 2] and len(rest) == 2
    for a, b in zip(whole[1:], rest):
        assert a['id'] == b['id'] and torch.equal(a['frames'], b['frames'])
    assert len(list(sd.sequence_loader(data, drop_last=True, **options))) == 2


def test_loader_takes_any_dataset():
    assert [batch.tolist() for batch in sd.sequence_loader(range(5), 2, collate_fn=torch.tensor)] == [[0, 1], [2, 3], [4]]


# --- checking

def test_check_names_every_broken_file(root):
    (root/'2'/'gt.png').unlink()
    (root/'3'/'10.png').write_bytes((root/'3'/'10.png').read_bytes()[:100])
    (root/'4'/'1.png').write_bytes(b'')
    sq.write_image(root/'5'/'gt.png', random(3, 9, 9))
    (root/'6'/'layers'/'4-shadow.png').unlink()
    (root/'7'/'03.png').write_bytes((root/'7'/'3.png').read_bytes())
    (root/'8'/'2-m.png').write_bytes((root/'8'/'layers'/'2-mask.png').read_bytes())
    found = {}
    for problem in sq.check_sequences(root): found.setdefault(problem.sequence, []).append(problem.file)
    assert found == {'2': ['gt.png'], '3': ['10.png'], '4': ['1.png'], '5': ['gt.png'], '6': ['layers/4-shadow.png'], '7': [''],
                     '8': [f'{n}-m.png' for n in range(1, 12) if n != 2]}


def test_import_is_light_and_silent():
    "No notebook tooling, no torchvision, no network look-ups."
    code = ('import sys, htcv.sequences, htcv.evaluation; '
            'print([m for m in ("IPython", "ipywidgets", "nbdev", "torchvision", "albumentations") if m in sys.modules])')
    done = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True, env=os.environ)
    assert (done.stdout.strip(), done.returncode) == ('[]', 0), done.stderr
