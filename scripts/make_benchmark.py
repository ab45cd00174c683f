"""Makes the files of the benchmark that ships with the package, from the pictures beside it.

    make_benchmark.py                        all of it, into htcv/benchmark, which must not hold sequences yet
    make_benchmark.py --part hard            the hard lamps: rendered, needs Blender (`htcv_render --setup`)
    make_benchmark.py --part smooth          the smooth lamps: simulated here, in a minute
    make_benchmark.py --into FOLDER          the same somewhere else, to compare

The third part, constant light, has no files: `htcv.benchmark_parts` derives it from the layers of the first.
"""
import argparse, hashlib, io, shutil, textwrap
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from htcv.rendering import draw_jobs, paint, render_passes, render_sequences, save_passes
from htcv.sequences import read_image, write_image

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT/"htcv"/"benchmark"
SEED, SIZE, FRAMES = "benchmark 1", 256, 10
TEXT = ("A picture hangs in a hall with one window and nine lamps. Whoever photographs it takes the lamps home as well: "
        "a bright disc on the varnish, the edge of a shadow, a finger, the strap of a bag. Ten visitors leave with ten "
        "different photographs of one picture, and none of them is the picture. Yet what one of them missed another has "
        "seen. The lamps moved; the paint did not. To take ten photographs apart is to ask of every point which of the "
        "ten to believe, and how much light to give back to it before it is believed.")


def blank(colour):
    figure = plt.figure(figsize=(2.56, 2.56), dpi=200)
    figure.patch.set_facecolor(colour)
    axis = figure.add_axes([0, 0, 1, 1], xlim=(0, 1), ylim=(0, 1))
    axis.axis("off")
    return figure, axis


def draw_page(path):
    "A printed page: a heading, two columns, a small diagram."
    figure, axis = blank("#f1ead9")
    axis.text(.08, .9, "On ten photographs", fontsize=11, family="serif", weight="bold", color="#26211c")
    axis.text(.08, .845, "of one picture", fontsize=8, family="serif", style="italic", color="#7b2d26")
    lines = textwrap.wrap(TEXT, 34)
    for column, x in enumerate((.08, .54)):
        for row, line in enumerate(lines[column*11:column*11 + 11]):
            axis.text(x, .76 - .034*row, line, fontsize=3.6, family="serif", color="#26211c")
    for i in range(5):
        axis.add_patch(plt.Rectangle((.1 + .085*i, .1), .06, .08 + .05*((i*7) % 5), color=["#2f5d62", "#c8963e"][i % 2]))
    axis.plot([.56, .62, .7, .78, .86, .92], [.12, .2, .17, .3, .26, .33], color="#7b2d26", lw=1.2)
    axis.plot([.56, .56, .92], [.36, .1, .1], color="#26211c", lw=.6)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_poster(path):
    "A poster: large type, flat colours, hard edges."
    figure, axis = blank("#1d3a5f")
    axis.add_patch(plt.Circle((.68, .62), .3, color="#e4572e"))
    axis.add_patch(plt.Circle((.68, .62), .19, color="#f3c969"))
    axis.add_patch(plt.Circle((.68, .62), .08, color="#1d3a5f"))
    for i in range(9): axis.plot([0, .52], [.3 + .05*i, .42 + .05*i], color="#76b39d", lw=1.5)
    axis.add_patch(plt.Rectangle((0, 0), 1, .24, color="#f2efe6"))
    axis.text(.06, .085, "LICHT", fontsize=25, weight="bold", color="#1d3a5f")
    axis.text(.6, .13, "& SCHATTEN", fontsize=8, weight="bold", color="#e4572e")
    axis.text(.6, .08, "ten frames, one picture", fontsize=4.5, color="#1d3a5f")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def checksums(home):
    "One line a file, as `sha256sum` writes it."
    files = sorted(p for p in home.rglob("*") if p.is_file() and p.name not in ("SHA256SUMS", "README.md"))
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(home).as_posix()}" for p in files]
    (home/"SHA256SUMS").write_text("\n".join(lines) + "\n")


# ---- smooth lamps, as phones take them --------------------------------------------------------------------------

SMOOTH_SEED, SMOOTH_SIZE, SMOOTH_FRAMES = 2, (240, 320), 8
SUBJECTS = {  # id -> what hangs or lies there, and whether the phone is held in a hand
    1: ("03-bruegel-harvesters", False), 2: ("07-leonardo-mona-lisa", False), 3: ("letter", False), 4: ("table", False),
    5: ("05-arcimboldo-spring", True), 6: ("09-van-gogh-langlois-bridge", True), 7: ("01-hokusai-great-wave", True),
    8: ("columns", True)}


def to_linear(x): return np.where(x <= .04045, x/12.92, ((x + .055)/1.055)**2.4)
def to_stored(x): return np.where(x <= .0031308, 12.92*x, 1.055*np.clip(x, 0, None)**(1/2.4) - .055).clip(0, 1)


def draw_white_page(kind):
    "White paper with print on it, (240,320,3) in [0,1]: a letter, a table with a chart, or two columns."
    figure = plt.figure(figsize=(3.2, 2.4), dpi=100)
    figure.patch.set_facecolor("#f7f6f2")
    axis = figure.add_axes([0, 0, 1, 1], xlim=(0, 1), ylim=(0, 1))
    axis.axis("off")
    ink = dict(family="serif", color="#1c1b1a")
    axis.text(.07, .88, {"letter": "To whom it may concern", "table": "Lamps and frames", "columns": "The hall"}[kind], fontsize=8.5, weight="bold", **ink)
    if kind == "letter":
        for i, line in enumerate(textwrap.wrap(TEXT, 62)[:11]): axis.text(.07, .77 - .066*i, line, fontsize=5, **ink)
        axis.plot(.62 + .03*np.arange(9), .05 + .03*np.sin(np.arange(9)*2.1), color="#23407a", lw=1.1)
    if kind == "columns":
        for i, line in enumerate(textwrap.wrap(TEXT, 34)[:20]):
            axis.text(.07 + .46*(i//10), .76 - .068*(i % 10), line, fontsize=4.6, **ink)
        axis.plot([.5, .5], [.1, .82], color="#1c1b1a", lw=.5)
    if kind == "table":
        numbers = np.random.default_rng(7).integers(10, 99, (7, 4))
        for r in range(8):
            axis.plot([.07, .55], [.79 - .09*r]*2, color="#1c1b1a", lw=.9 if r < 2 else .4)
            for c in range(4): axis.text(.1 + .12*c, .725 - .09*r, str(numbers[r % 7, c]) if r else "abcd"[c], fontsize=6, **ink) if r < 7 else None
        for r, colour in enumerate(["#2f5d62", "#c8963e", "#7b2d26", "#4b6cb7"]):
            axis.add_patch(plt.Rectangle((.63 + .08*r, .2), .06, numbers[r, 0]/180 + .1, color=colour))
    figure.canvas.draw()
    page = np.asarray(figure.canvas.buffer_rgba())[..., :3]/255
    plt.close(figure)
    return page


def smooth_subject(name, rng, held):
    "The flat thing that is photographed, stored values (240,320,3): held shots see some of the wall around it."
    if name in ("letter", "table", "columns"): picture = draw_white_page(name)
    else:
        stored = np.asarray(Image.open(HOME/"pictures"/f"{name}.png").convert("RGB"))/255
        picture = cv2.resize(stored[32:224], SMOOTH_SIZE[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)
    if not held: return picture
    H, W = SMOOTH_SIZE
    plaster = cv2.GaussianBlur(rng.normal(0, 1, (H, W)), (0, 0), 1.2)
    wall = np.array([.62, .6, .56]) + .08*plaster[..., None]
    inner = cv2.resize(picture, (round(.84*W), round(.84*H)), interpolation=cv2.INTER_AREA)
    top, left = (H - inner.shape[0])//2, (W - inner.shape[1])//2
    wall[top:top + inner.shape[0], left:left + inner.shape[1]] = inner
    return wall.clip(0, 1)


def smooth_light(rng, size):
    "Gains of one frame in linear light (H,W,3), mean about 1: few lamps far away, a tint, sometimes somebody's wide shadow."
    H, W = size
    y, x = np.mgrid[:H, :W]/W
    gain = np.full((H, W, 3), rng.uniform(.12, .5))
    for _ in range(rng.integers(1, 4)):
        place, reach = rng.uniform([-.5, -.5], [1.5, 1.25]), rng.uniform(.3, .8)
        colour = np.exp(rng.normal(0, .08, 3))
        gain += colour*rng.uniform(.4, 1.)*((1 + ((x - place[0])**2 + (y - place[1])**2)/reach**2)**-1.5)[..., None]
    if rng.random() < .6:
        angle, width = rng.uniform(0, 2*np.pi), rng.uniform(.05, .15)
        away = (x - rng.uniform(.25, .75))*np.cos(angle) + (y - rng.uniform(.2, .55))*np.sin(angle)
        gain *= 1 - rng.uniform(.3, .75)/(1 + np.exp(-away/width*2))[..., None]
    return gain/gain.mean((0, 1)).mean()*np.exp(rng.normal(0, .03, 3))*2**rng.uniform(-.45, .45)


def glare(rng, size):
    "Light of a lamp's blurred reflection, linear (H,W,1)."
    H, W = size
    y, x = np.mgrid[:H, :W]/W
    place, width, angle = rng.uniform([.1, .1], [.9, .65]), rng.uniform(.025, .09, 2), rng.uniform(0, np.pi)
    u, v = (x - place[0])*np.cos(angle) + (y - place[1])*np.sin(angle), (y - place[1])*np.cos(angle) - (x - place[0])*np.sin(angle)
    return rng.uniform(.3, 1.5)*np.exp(-.5*((u/width[0])**2 + (v/width[1])**2))[..., None]


def finger(rng, size):
    "Opacity (H,W,1) and linear colour (H,W,3) of a finger or two that reach in from the border."
    H, W = size
    opacity, colour = np.zeros((H, W)), np.ones((H, W, 3))*to_linear(np.array([.78, .58, .47]))*rng.uniform(.35, 1.3)
    side, along = rng.integers(4), rng.uniform(.15, .85)
    for k in range(rng.integers(1, 3)):
        start = {0: (0, along*H), 1: (W, along*H), 2: (along*W, 0), 3: (along*W, H)}[int(side)] + np.array([0, 0])
        inward = {0: (1, 0), 1: (-1, 0), 2: (0, 1), 3: (0, -1)}[int(side)]
        across = np.array(inward[::-1])*.13*W*k
        end = start + across + np.array(inward)*rng.uniform(.1, .26)*W + np.array(inward[::-1])*rng.normal(0, .05)*W
        cv2.line(opacity, tuple(int(c) for c in start + across), tuple(int(c) for c in end), 1., int(rng.uniform(.07, .11)*W), cv2.LINE_AA)
    return cv2.GaussianBlur(opacity, (0, 0), 1.)[..., None], colour*(.75 + .5*cv2.GaussianBlur(opacity, (0, 0), 7))[..., None]


def hand(rng, size):
    "The homography (3,3) from the wall to a shot of a phone in a hand."
    H, W = size
    corners = np.array([[0, 0], [W, 0], [W, H], [0, H]], np.float32)
    shift = rng.normal(0, .012*W, 2) + rng.normal(0, .007*W, (4, 2))
    return cv2.getPerspectiveTransform(corners, (corners + shift).astype(np.float32))


def warp(x, homography, size): return cv2.warpPerspective(x.astype(np.float32), homography, size[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def camera(linear, rng):
    "A file as a phone writes it: photon and read noise, eight bits, JPEG. Bytes."
    noisy = linear + np.sqrt(7e-4*linear.clip(0, None) + 3e-6)*rng.normal(0, 1, linear.shape)
    buffer = io.BytesIO()
    Image.fromarray((255*to_stored(noisy)).round().astype(np.uint8)).save(buffer, "JPEG", quality=int(rng.integers(78, 95)))
    return buffer.getvalue()


def simulate(folder, name, held, rng):
    "One sequence: shots, what they show where, and the clean picture at a level inside the envelope of the light."
    size = SMOOTH_SIZE
    clean = smooth_subject(name, rng, held)
    fingers, shots, lit, hides, moves = set(rng.choice(SMOOTH_FRAMES, 3, replace=False)), [], [], [], []
    for t in range(SMOOTH_FRAMES):
        linear = to_linear(clean)*smooth_light(rng, size)
        if rng.random() < .5: linear = linear + glare(rng, size)
        lit.append(to_stored(linear))
        move = hand(rng, size) if held else np.eye(3)
        shot, opacity = warp(linear, move, size).clip(0, None) if held else linear, np.zeros((*size, 1))
        if t in fingers:
            opacity, colour = finger(rng, size)
            shot = shot*(1 - opacity) + opacity*colour
        shots.append(camera(shot, rng)); moves.append(move)
        hides.append(warp(opacity[..., 0], np.linalg.inv(move), size) > .02)
    shown = ~np.stack(hides)[..., None]
    low = np.where(shown, lit, 1).min(0), np.where(shown, lit, 0).max(0)
    source = np.where(shown.any(0), np.clip(clean, *low), clean)
    folder.mkdir(parents=True)
    if not held: write_shots(folder, shots, source, hides)
    else: write_held(folder, shots, source, hides, moves)


def write_shots(folder, shots, source, hides):
    "From a tripod: the camera's own files."
    for n, shot in enumerate(shots, 1): (folder/f"{n}.jpg").write_bytes(shot)
    write_truth(folder, source, hides)


def write_truth(folder, source, hides):
    write_image(folder/"gt.png", torch.from_numpy(np.ascontiguousarray(source)).permute(2, 0, 1).float().clamp(0, 1))
    for n, mask in enumerate(hides, 1): write_image(folder/f"{n}-m.png", torch.from_numpy(mask)[None].float())


def write_held(folder, shots, source, hides, moves):
    "From a hand: the camera's files in `taken/`; beside it the same laid on the first by the package's own alignment."
    from htcv.photographs import align
    (folder/"taken").mkdir()
    for n, shot in enumerate(shots, 1): (folder/"taken"/f"{n}.jpg").write_bytes(shot)
    found = align(sorted((folder/"taken").glob("*.jpg")), reference=0)
    if len(found) != len(shots): raise RuntimeError(f"{folder}: {len(found)} of {len(shots)} shots could be aligned")
    def first(x): return warp(x, moves[0], SMOOTH_SIZE)
    seen = found.seen.all(0) & (first(np.ones(SMOOTH_SIZE)) > .99)
    H, W = SMOOTH_SIZE
    edge = next(k for k in range(60) if seen[k:H - k, k:W - k].all())
    box = slice(edge, H - edge), slice(edge, W - edge)
    for n, pixels in enumerate(found.pixels, 1): Image.fromarray(pixels[box]).save(folder/f"{n}.webp", lossless=True, method=6)
    write_truth(folder, first(source)[box].clip(0, 1), [first(mask)[box] > .02 for mask in hides])


# ---- all of it --------------------------------------------------------------------------------------------------

def make_smooth(home):
    for i, (name, held) in SUBJECTS.items():
        simulate(home/"smooth"/str(i), name, held, np.random.default_rng([SMOOTH_SEED, i]))
        print(f"smooth {i}: {name}, {'hand-held' if held else 'tripod'}")


def make_hard(home):
    pictures = home/"pictures"
    if home != HOME: shutil.copytree(HOME/"pictures", pictures)
    draw_page(pictures/"11-own-page.png")
    draw_poster(pictures/"12-own-poster.png")
    render_sequences(home/"sequences", len(list(pictures.glob("*.png"))), FRAMES, SIZE, pictures, SEED, crop=False)
    picture = torch.nn.functional.interpolate(read_image(pictures/"01-hokusai-great-wave.png")[None], (128, 128),
                                              mode="area")[0]
    albedo = paint(picture, "filmic")
    jobs = draw_jobs(1, (128, 128), ("lights", SEED), "filmic")
    passes = render_passes(albedo, jobs, samples=64, light_groups=True)
    save_passes(home/"lights.npz", passes, albedo, "filmic")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("hard", "smooth"), action="append", help="default: both")
    parser.add_argument("--into", type=Path, default=HOME)
    options = parser.parse_args()
    for part, make in dict(hard=make_hard, smooth=make_smooth).items():
        if part in (options.part or ("hard", "smooth")): make(options.into)
    checksums(options.into)


if __name__ == "__main__": main()
