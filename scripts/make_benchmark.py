"""Renders the benchmark that ships with the package, from the pictures beside it. Needs Blender (`htcv_render --setup`).

    make_benchmark.py            into htcv/benchmark, which must not hold sequences yet: remove `sequences` there first
    make_benchmark.py FOLDER     the same somewhere else, to compare
"""
import hashlib, shutil, sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from htcv.rendering import draw_jobs, paint, render_passes, render_sequences, save_passes
from htcv.sequences import read_image

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
    import textwrap
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


def main(home):
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
    checksums(home)


if __name__ == "__main__": main(Path(sys.argv[1]) if len(sys.argv) > 1 else HOME)
