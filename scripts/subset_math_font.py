"""Makes docs/_static/fonts/htcv-math.woff2 from Latin Modern Math, with the characters that formulas here use.

    subset_math_font.py [latinmodern-math.otf]     needs `pip install fonttools brotli`, Debian's fonts-lmodern

Browsers draw MathML by themselves but stretch brackets and sums only with a font that holds a MATH table, which a
plain Linux has not. As the font's licence asks, what is derived from it has another name.
"""
import sys
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

ROOT = Path(__file__).resolve().parents[1]
DEBIAN = "/usr/share/texmf/fonts/opentype/public/lm-math/latinmodern-math.otf"
FAMILY = "htcv Math"
CHARACTERS = ("20-7E A0-FF 131 237 2C6-2DD 300-338 370-3FF 2010-2064 2070-209C 2102 210E 2115 211D 2124 2190-21D5 "
              "2200-22FF 2308-230B 23B4-23E1 27E6-27EF 27F5-27FA 2A00-2A06 1D400-1D467 1D49C-1D4CF 1D538-1D56B 1D6A4-1D71B")


def main(path=DEBIAN):
    font = TTFont(path)
    options = subset.Options(flavor="woff2", layout_features=["ssty", "dtls", "flac", "kern", "mark", "mkmk", "ccmp"],
                             hinting=False, desubroutinize=True, name_IDs=["*"], drop_tables=["FFTM"])
    tool = subset.Subsetter(options)
    tool.populate(unicodes=subset.parse_unicodes(CHARACTERS))
    tool.subset(font)
    for record in font["name"].names:
        if record.nameID in (1, 4, 16): record.string = FAMILY
        if record.nameID in (3, 6): record.string = FAMILY.replace(" ", "") + "-Regular"
    font["CFF "].cff.fontNames[0] = FAMILY.replace(" ", "") + "-Regular"
    made = ROOT/"docs/_static/fonts/htcv-math.woff2"
    subset.save_font(font, made, options)
    print(f"{made.relative_to(ROOT)}: {len(font.getGlyphOrder())} glyphs, {made.stat().st_size//1000} kB")


if __name__ == "__main__": main(*sys.argv[1:])
