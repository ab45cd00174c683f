"`htcv_evaluate`: good folders, broken ones, wrong use, and numbers that can be had by hand."
import contextlib
import io
import json
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import pytest
import torch

from htcv import evaluation_report, scoring
from htcv.baselines import BASELINES
from htcv.benchmark_parts import BENCHMARK_PARTS
from htcv.composition import compose
from htcv.decomposer import create_decomposer, load_decomposer, save_decomposer
from htcv.evaluate_command import htcv_evaluate
from htcv.evaluation import bootstrap, iou, mae, median_source, psnr
from htcv.sequences import read_layers, read_sequence, write_image, write_sequence
from htcv.synthesis import synthesize

FILES = ['gallery.png', 'index.html', 'scores.json', 'table.md']
SIZE, N_FRAMES = (32, 41), 4


@pytest.fixture(scope='module')
def made():
    return synthesize(4, N_FRAMES, SIZE, seed=('held out', 'test_scoring'))


def write_folder(made, folder):
    "Four sequences with exact layers, numbered so that their names sort otherwise."
    frames, layers = made
    for i, name in enumerate(['1', '2', '9', '10']): write_sequence(folder/name, frames[i], layers.source[i], layers[i])
    return folder


@pytest.fixture
def no_pictures(monkeypatch):
    "Drawing takes most of the time, and most tests ask for something else."
    monkeypatch.setattr(evaluation_report, 'gallery', lambda report: plt.figure(figsize=(1, 1)))
    monkeypatch.setattr(evaluation_report, 'failures', lambda report: {})


@pytest.fixture
def folder(made, tmp_path, monkeypatch, no_pictures):
    "A folder of sequences in a current folder of its own."
    monkeypatch.chdir(tmp_path)
    return write_folder(made, tmp_path/'SIAR')


@pytest.fixture(scope='module')
def scored(made, tmp_path_factory):
    "A folder of sequences, and beside it one complete report of them."
    home = tmp_path_factory.mktemp('scored')
    write_folder(made, home/'SIAR')
    with contextlib.chdir(home), contextlib.redirect_stdout(io.StringIO()) as said: status = evaluate('SIAR')
    (home/'stdout.txt').write_text(said.getvalue(), encoding='utf-8')
    return home, status


def evaluate(*words):
    "Exit status of the command."
    try: return htcv_evaluate([str(word) for word in words])
    except SystemExit as stop: return stop.code


def stored(out='SIAR-scores'):
    with open(f'{out}/scores.json', encoding='utf-8') as file: return json.load(file)


def damage(path):
    path.write_bytes(path.read_bytes()[:200])


# --- good folders

def test_a_good_folder(scored):
    home, status = scored
    assert status == 0 and sorted(p.name for p in home.iterdir()) == ['SIAR', 'SIAR-scores', 'stdout.txt']
    assert sorted(p.name for p in (home/'SIAR-scores').iterdir()) == FILES
    report, said = stored(home/'SIAR-scores'), (home/'stdout.txt').read_text(encoding='utf-8')
    assert said == (home/'SIAR-scores'/'table.md').read_text(encoding='utf-8')
    assert [s['id'] for s in report['sequences']] == ['1', '2', '9', '10']
    assert all(s['known'] == ['source', 'masks', 'layers'] for s in report['sequences'])
    assert report['problems'] == [] and report['main'] in BASELINES
    assert len(report['rows']) == 4*(len(BASELINES) + 2)
    for name in [*BASELINES, 'oracle single frame']: assert f'| {name} |' in said


def test_numbers_are_those_that_the_files_give_by_hand(scored):
    folder, report, by_hand = scored[0]/'SIAR', stored(scored[0]/'SIAR-scores'), []
    rows = {(row['id'], row['method']): row for row in report['rows']}
    for name in ['1', '2', '9', '10']:
        sequence, layers = read_sequence(folder/name), read_layers(folder/name)
        frames, source = sequence.frames[None], sequence.source[None]
        median = median_source(frames)
        by_hand.append(float(psnr(median, source)))
        assert rows[name, 'median']['psnr'] == pytest.approx(by_hand[-1])
        assert rows[name, 'oracle single frame']['psnr'] == pytest.approx(max(float(psnr(x, source)) for x in frames.unbind(2)))
        still = -10*((frames - median.unsqueeze(2))**2).mean().log10()
        assert rows[name, 'median']['recomposition_psnr'] == pytest.approx(float(still), abs=1e-3)
        nothing, seen = rows[name, 'A ≡ 1, L ≡ 0, M ≡ 0'], 1 - layers.occlusion_mask
        assert nothing['shadow_mae'] == pytest.approx(float(mae(torch.ones_like(seen), layers.shadow, seen)))
        assert nothing['true_coverage'] == pytest.approx(float(layers.occlusion_mask.mean()))
        assert 'psnr' not in nothing and 'iou' not in rows[name, 'median']
    values = report['means']['median']['psnr']
    assert values['mean'] == pytest.approx(sum(by_hand)/4)
    interval = bootstrap([dict(psnr=x) for x in by_hand], 'psnr')
    assert (values['mean'], values['low'], values['high']) == pytest.approx(interval)
    assert values['low'] < values['mean'] < values['high'] and values['sequences'] == 4


def test_every_mean_has_an_interval(scored):
    for method, scores in stored(scored[0]/'SIAR-scores')['means'].items():
        assert {'recomposition_psnr', 'seconds'} <= set(scores), method
        for name, values in scores.items(): assert values['low'] <= values['mean'] <= values['high'], (method, name)


def test_a_run_is_repeated_exactly_but_for_the_seconds(scored, tmp_path):
    home, _ = scored
    evaluation_report.write_report(scoring.score_folder(home/'SIAR', weights=None), tmp_path/'again')
    without = lambda path: re.sub(r'"seconds": (\{[^}]*\}|[\d.e-]+)', '', (path/'scores.json').read_text())
    assert without(home/'SIAR-scores') == without(tmp_path/'again')
    for name in ('gallery.png', 'table.md'): assert (home/'SIAR-scores'/name).read_bytes() == (tmp_path/'again'/name).read_bytes()


def test_the_page_stands_alone(scored):
    home, _ = scored
    html = (home/'SIAR-scores'/'index.html').read_text(encoding='utf-8')
    assert not re.search(r'://|<script|<link|@import|url\(', html)
    assert re.findall(r'src="([^,"]*)', html) == ['data:image/png;base64']*2  # gallery, failures; a baseline has no masks
    assert str(home) not in html + (home/'SIAR-scores'/'scores.json').read_text()
    for word in ('Source', 'Masks', 'Shadow and light', 'Every sequence', 'Settings', scoring.NOTE): assert word in html


def test_names_are_escaped(made, tmp_path, monkeypatch, no_pictures):
    frames, layers = made
    write_sequence(tmp_path/'a<b>&'/'<i>1', frames[0], layers.source[0])
    monkeypatch.chdir(tmp_path)
    assert evaluate('a<b>&', '--out', 'out') == 0
    html = (tmp_path/'out'/'index.html').read_text()
    assert 'a&lt;b&gt;&amp;' in html and '<i>' not in html


# --- what is known decides what is scored

def test_masks_alone_and_nothing_at_all(made, tmp_path):
    frames, layers = made
    write_sequence(tmp_path/'Eval'/'1', frames[0], layers.source[0], masks=layers.occlusion_mask[0])
    write_sequence(tmp_path/'Eval'/'2', frames[1], masks=layers.occlusion_mask[1])
    write_sequence(tmp_path/'Eval'/'3', frames[2])
    write_image(tmp_path/'Eval'/'3'/'0.png', torch.zeros(3, 9, 9))  # no input in this layout, so its size is no problem
    report = scoring.score_folder(tmp_path)
    assert [s['known'] for s in report.sequences] == [['source', 'masks'], ['masks'], []] and not report.problems
    assert [s['n_frames'] for s in report.sequences] == [N_FRAMES]*3
    nothing = report.of('A ≡ 1, L ≡ 0, M ≡ 0')
    assert ['iou' in nothing[i] for i in '123'] == [True, True, False] and 'shadow_mae' not in nothing['1']
    assert list(report.of('mean')) == list('123') and list(report.of('oracle single frame')) == ['1']
    assert list(report.tables()) == ['Source', 'Masks']
    assert [line['sequences'] for line in report.tables()['Masks']] == [2]
    assert report.ranking() == ['1']


def test_no_truth_at_all(made, tmp_path, monkeypatch, no_pictures):
    for i in range(2): write_sequence(tmp_path/'photographs'/str(i), made[0][i])
    monkeypatch.chdir(tmp_path)
    assert evaluate('photographs') == 0
    report = stored('photographs-scores')
    assert set(report['means']['mean']) == {'recomposition_psnr', 'recomposition_ssim', 'seconds'}
    assert report['main'] == 'mean'  # of all stills, nothing is nearer to the frames


@pytest.mark.parametrize('given', ['SIAR/9', 'SIAR/9/'])
def test_a_folder_that_is_a_sequence(folder, given):
    assert evaluate(given) == 0
    report = stored('9-scores')
    assert [s['id'] for s in report['sequences']] == ['9'] and report['means']['mean']['psnr']['sequences'] == 1


def test_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder/'2')
    assert evaluate('.', '--out', '../../here') == 0
    assert stored('../../here')['settings']['name'] == '2'


def test_a_split_and_fewer_frames(folder):
    (folder.parent/'test.csv').write_text('id\n10\n2\n')
    assert evaluate('SIAR', '--split', 'test.csv', '--frames', 2, '--without', 'robust PCA') == 0
    report = stored()
    assert [s['id'] for s in report['sequences']] == ['10', '2'] and {s['n_frames'] for s in report['sequences']} == {2}
    assert report['settings']['split'] == 'test' and 'robust PCA' not in report['means']


def test_the_benchmark_is_what_is_scored_without_a_folder(folder):
    (folder.parent/'few.csv').write_text('id\n2\nidentical 1\ndim, occluders 1\nsmooth 5\n'.replace('dim, occluders 1', '"dim, occluders 1"'))
    assert evaluate('--split', 'few.csv', '--frames', 2, '--without', 'robust PCA') == 0
    report = stored('benchmark-scores')
    assert report['settings']['name'] == 'benchmark' and list(report['parts']) == list(BENCHMARK_PARTS)
    assert [s['id'] for s in report['sequences']] == ['2', 'identical 1', 'dim, occluders 1', 'smooth 5']
    assert [s['known'] for s in report['sequences']] == [['source', 'masks', 'layers']]*3 + [['source', 'masks']]
    rows = {(row['id'], row['method']): row for row in report['rows']}
    assert rows['identical 1', 'median']['psnr'] == 100 and rows['identical 1', 'median']['part'] == 'constant light'
    means = report['parts']['constant light']['mean']['psnr']
    both = [rows[i, 'mean']['psnr'] for i in ('identical 1', 'dim, occluders 1')]
    assert means['mean'] == pytest.approx(sum(both)/2) and means['sequences'] == 2
    text = (folder.parent/'benchmark-scores'/'table.md').read_text(encoding='utf-8')
    source = text.split('## Masks')[0]
    assert [part for part in BENCHMARK_PARTS if source.count(f'| {part} |') == 1] == list(BENCHMARK_PARTS)
    html = (folder.parent/'benchmark-scores'/'index.html').read_text(encoding='utf-8')
    for part in BENCHMARK_PARTS: assert f'PSNR, {part}' in html


def test_one_part_of_the_benchmark(folder):
    (folder.parent/'few.csv').write_text('id\nsmooth 2\n')
    assert evaluate('--part', 'smooth lamps', '--split', 'few.csv', '--frames', 1) == 0
    assert list(stored('benchmark-scores')['parts']) == ['smooth lamps']


# --- weights

@pytest.fixture
def weights(folder):
    return save_decomposer(create_decomposer('tiny', seed=0), folder.parent/'tiny.safetensors')


def test_weights(folder, weights):
    assert evaluate('SIAR', '--weights', weights, '--threshold', .12, '--order', 'light_first') == 0
    report = stored()
    assert report['main'] == 'decomposer' and report['settings']['threshold'] == .12
    assert report['settings']['weights']['file'] == 'tiny.safetensors' and len(report['settings']['weights']['sha256']) == 64
    frames, truth = read_sequence(folder/'10').frames[None], read_layers(folder/'10')
    with torch.no_grad(): layers = load_decomposer(weights)(frames).layers()
    [row] = [row for row in report['rows'] if (row['id'], row['method']) == ('10', 'decomposer')]
    assert row['iou'] == pytest.approx(float(iou(layers.occlusion_mask, truth.occlusion_mask, .12)))
    layers.occlusion_mask = (layers.occlusion_mask >= .12).float()
    assert row['recomposition_psnr'] == pytest.approx(float(psnr(compose(layers, 'light_first'), frames)))
    assert row['worst_frame'] in range(1, N_FRAMES + 1)


def test_the_pictures_of_a_model(made, tmp_path):
    "Layers beside the true ones, and a page with both kinds of failure."
    frames, layers = made
    for i in range(2): write_sequence(tmp_path/'S'/str(i), frames[i], layers.source[i], layers[i])
    weights = save_decomposer(create_decomposer('tiny', seed=0), tmp_path/'tiny.safetensors')
    model = scoring.model_method(weights)
    report = scoring.score_folder(tmp_path/'S', dict(mean=scoring.standard_methods()['mean'], decomposer=model), main='decomposer')
    rows = evaluation_report.sequence_block(report, '1')
    assert [len(row) for row in rows] == [N_FRAMES, 3, 8]
    assert torch.equal(rows[1][2][1], report.view('1')[1]['decomposer'].source[0])
    assert [len(figure.axes) for figure in (evaluation_report.worst_sources(report), evaluation_report.worst_masks(report))] == [12, 12]
    figure = evaluation_report.gallery(report)
    assert [text.get_text()[:5] for text in figure.texts] == ['Best ', 'Worst'] and len(figure.axes) == 2*(N_FRAMES + 11)
    assert evaluation_report.page(report, b'', evaluation_report.failures(report)).count('data:image/png') == 2
    plt.close('all')


def test_threshold_and_order_may_come_with_the_weights(folder, weights):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file
    with safe_open(weights, 'pt') as file: metadata = file.metadata()
    save_file(load_file(weights), weights, metadata=metadata | dict(threshold='0.35', order='light_first'))
    assert evaluate('SIAR/1', '--weights', weights) == 0
    assert stored('1-scores')['settings']['threshold'] == .35
    assert stored('1-scores')['settings']['weights']['order'] == 'light_first'
    assert evaluate('SIAR/1', '--weights', weights, '--threshold', .6, '--force') == 0
    assert stored('1-scores')['settings']['threshold'] == .6


def test_pictures_too_small_for_the_model_stop_nobody_else(made, tmp_path, weights, capsys):
    frames, layers = made
    write_sequence(tmp_path/'small'/'1', frames[0, ..., :12, :12], layers.source[0, ..., :12, :12])
    assert evaluate('small', '--weights', weights) == 1
    assert '1: decomposer: frames must be at least 16×16' in capsys.readouterr().err
    assert 'psnr' in stored('small-scores')['means']['mean']


# --- broken sequences

def test_a_broken_sequence_is_named_and_the_rest_scored(folder, capsys):
    damage(folder/'2'/'3.png')
    (folder/'9'/'layers'/'1-light.png').unlink()
    assert evaluate('SIAR') == 1
    complaint, report = capsys.readouterr().err, stored()
    assert 'broken: 2/3.png is damaged' in complaint and 'broken: 9/layers/1-light.png does not exist' in complaint
    assert [(p['sequence'], p['file']) for p in report['problems']] == [('2', '3.png'), ('9', 'layers/1-light.png')]
    assert [s['id'] for s in report['sequences']] == ['1', '10'] and report['means']['mean']['psnr']['sequences'] == 2
    for name in ('index.html', 'table.md'): assert '2/3.png is damaged' in (folder.parent/'SIAR-scores'/name).read_text()


@pytest.mark.parametrize('spoil, file, problem', [
    (lambda f: write_image(f/'2.png', torch.zeros(3, 9, 9)), '2.png', r'is \(9, 9\)'),
    (lambda f: write_image(f/'gt.png', torch.zeros(3, 9, 9)), 'gt.png', r'is \(9, 9\)'),
    (lambda f: write_image(f/'layers'/'3-mask.png', torch.zeros(1, 9, 9)), 'layers/3-mask.png', r'is \(9, 9\)'),
    (lambda f: (f/'4.png').write_bytes(b''), '4.png', 'damaged'),
    (lambda f: (f/'01.png').write_bytes((f/'1.png').read_bytes()), '', 'twice'),
    (lambda f: [p.unlink() for p in f.glob('?.png')], '', 'no frames'),
])
def test_every_kind_of_damage(folder, spoil, file, problem):
    spoil(folder/'9')
    report = scoring.score_folder(folder, {'mean': scoring.standard_methods()['mean']})
    assert {(p.sequence, p.file) for p in report.problems} == {('9', file)}
    assert re.search(problem, report.problems[0].problem) and str(folder) not in report.problems[0].problem
    assert list(report.of('mean')) == ['1', '2', '10']


def test_a_missing_sequence_of_a_split(folder):
    report = scoring.score_folder(folder, {'mean': scoring.standard_methods()['mean']}, split=['1', '77'])
    assert [p.sequence for p in report.problems] == ['77'] and list(report.of('mean')) == ['1']


def test_nothing_can_be_scored(folder, capsys):
    for path in folder.glob('*/1.png'): damage(path)
    assert evaluate('SIAR') == 1
    assert stored()['rows'] == [] and len(stored()['problems']) == 4
    assert '0 of 4 sequences scored' in capsys.readouterr().err


def test_a_method_that_raises_is_a_problem_of_that_method(folder):
    def greedy(case): raise ValueError('needs more frames')
    report = scoring.score_folder(folder, dict(greedy=greedy, mean=lambda case: case.frames.mean(2)))
    assert [p.problem for p in report.problems] == ['greedy: needs more frames']*4 and report.main == 'mean'


def test_methods_of_ones_own(folder):
    "What recomposes perfectly and has understood nothing, and what was given the truth."
    cheat = lambda case: scoring.replace(scoring.trivial_layers(case.frames.mean(2), case.frames),
                                         occlusion_mask=torch.ones_like(case.frames[:, :1]), occlusion_rgb=case.frames)
    given = scoring.Method(lambda case: case.layers, sees_truth=True, own_source=False)
    report = scoring.score_folder(folder, dict(cheat=cheat, given=given))
    means = report.means()
    assert means['cheat']['recomposition_psnr']['mean'] == 100 and means['cheat']['psnr']['mean'] < 30
    assert 'psnr' not in means['given'] and means['given']['iou']['mean'] == 1 and report.main == 'cheat'
    assert [line['method'] for line in report.tables()['Source']] == ['cheat']
    assert not any('**' in str(line) for table in report.tables().values() for line in table)  # no rival to be better than


# --- wrong use

@pytest.mark.parametrize('words, answer', [
    (['nowhere'], 'nowhere is not a folder'), (['SIAR/1/gt.png'], 'is not a folder'), (['empty'], 'holds no sequences'),
    (['SIAR', '--weights', 'nowhere.safetensors'], 'no weights at nowhere.safetensors'), (['SIAR', '--weights', 'SIAR/1/gt.png'], 'no safetensors file'),
    (['SIAR', '--threshold', '0'], '(0, 1]'), (['SIAR', '--threshold', 'high'], 'invalid float'), (['SIAR', '--frames', '0'], 'at least 1'),
    (['SIAR', '--split', 'nowhere.csv'], 'nowhere.csv does not exist'), (['SIAR', '--without', 'magic'], "no method 'magic'"),
    (['SIAR', '--out', 'SIAR/scores'], 'among the sequences'), (['SIAR', '--order', 'backwards'], 'invalid choice'), (['--part', 'easy'], 'invalid choice'), (['SIAR', '--part', 'hard lamps'], 'leave SEQUENCES out'), (['SIAR', '--fast'], 'unrecognized'),
])
def test_wrong_use_is_refused_before_the_work(folder, capsys, monkeypatch, words, answer):
    for name in ('score_folder', 'score_benchmark'): monkeypatch.setattr(scoring, name, lambda *a, **k: pytest.fail('the work began'))
    (folder.parent/'empty').mkdir()
    assert evaluate(*words) == 2
    assert answer in capsys.readouterr().err
    assert sorted(p.name for p in folder.parent.iterdir()) == ['SIAR', 'empty']


def test_a_folder_with_both_layouts(folder, capsys):
    (folder.parent/'Eval').mkdir()
    assert evaluate('.', '--out', 'out') == 2 and 'holds SIAR and Eval' in capsys.readouterr().err


def test_an_existing_report_is_kept(folder, capsys, monkeypatch):
    assert evaluate('SIAR/1', '--out', 'out') == 0
    before = (folder.parent/'out'/'scores.json').read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(scoring, 'score_folder', lambda *a, **k: pytest.fail('the work began'))
        assert evaluate('SIAR/2', '--out', 'out') == 2 and 'pass --force' in capsys.readouterr().err
        (folder.parent/'out'/'notes.txt').write_text('mine')
        assert evaluate('SIAR/2', '--out', 'out', '--force') == 2 and 'notes.txt' in capsys.readouterr().err
    assert (folder.parent/'out'/'scores.json').read_bytes() == before
    (folder.parent/'out'/'notes.txt').unlink()
    assert evaluate('SIAR/2', '--out', 'out', '--force') == 0
    assert [s['id'] for s in stored('out')['sequences']] == ['2'] and sorted(p.name for p in (folder.parent/'out').iterdir()) == FILES


def test_nothing_is_half_written(folder, monkeypatch):
    def fails(*a): raise OSError('no space left on device')
    monkeypatch.setattr(evaluation_report, 'page', fails)
    with pytest.raises(OSError, match='no space'): evaluate('SIAR/1', '--out', 'out')
    assert [p.name for p in folder.parent.iterdir()] == ['SIAR']


def test_help_has_examples(capsys):
    assert evaluate('--help') == 0
    said = capsys.readouterr().out
    assert 'examples:' in said and 'exit status:' in said and 'validation' in said


def test_in_a_process_of_its_own(folder):
    damage(folder/'1'/'1.png')
    code = 'import sys; from htcv.scoring import htcv_evaluate; sys.exit(htcv_evaluate())'
    done = subprocess.run([sys.executable, '-c', code, 'SIAR', '--out', 'out'], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines() == ['broken: 1/1.png is damaged or no picture (the file ends too early): replace it or take it out',
                                        '3 of 4 sequences scored: look at out/index.html']
    assert done.stdout.startswith('# SIAR: 3 of 4 sequences scored')
