"""Gathers free pictures to train and validate on, from packages of Debian, into data/pictures/{train,validation}.

    training_pictures.py [FOLDER]     needs apt-get and dpkg-deb, a network, and about 1 GB while it works

Paintings in the public domain and free photographs: the puzzles of GCompris, and wallpapers. The ten paintings of the
benchmark are left out, with every other print or detail of them. None of these pictures is in the repository.
"""
import io, re, struct, subprocess, sys, tempfile, zlib
from collections import defaultdict
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gcompris-qt-data", "gnome-backgrounds", "mate-backgrounds", "plasma-workspace-wallpapers",
            "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "ukui-wallpapers", "sway-backgrounds")
ACTIVITIES = ("paintings", "details", "photo_hunter", "explore_monuments", "explore_world_animals")
IN_THE_BENCHMARK = re.compile("wave|cassat|vangoghbridge|night_cafe|monalisa|bruegel|arcimboldo_spring|inokashira|"
                              "poppies|durer", re.I)
KINDS = {".png", ".jpg", ".jpeg", ".webp"}
SIDE, SMALLEST = 512, 160                                  # of what is kept, in pixels
Image.MAX_IMAGE_PIXELS = None


def resources(path):
    "Name and bytes of every file in a binary Qt resource."
    data = path.read_bytes()
    version, tree, blobs, names = struct.unpack(">4i", data[4:20])
    size = 22 if version >= 2 else 14

    def node(index):
        at = tree + index*size
        name_at, flags = struct.unpack(">iH", data[at:at + 6])
        if flags & 2:
            count, first = struct.unpack(">ii", data[at + 6:at + 14])
            for child in range(first, first + count): yield from node(child)
            return
        length = struct.unpack(">H", data[names + name_at:names + name_at + 2])[0]
        name = data[names + name_at + 6:names + name_at + 6 + 2*length].decode("utf-16-be")
        at = blobs + struct.unpack(">i", data[at + 10:at + 14])[0]
        blob = data[at + 4:at + 4 + struct.unpack(">I", data[at:at + 4])[0]]
        yield name, zlib.decompress(blob[4:]) if flags & 1 else blob
    return node(0)


def join(pieces):
    "The pieces of a puzzle, (row, column) -> picture, as one picture."
    rows, columns = (sorted({at[i] for at in pieces}) for i in (0, 1))
    heights = [max(p.height for (r, _), p in pieces.items() if r == row) for row in rows]
    widths = [max(p.width for (_, c), p in pieces.items() if c == column) for column in columns]
    whole = Image.new("RGB", (sum(widths), sum(heights)))
    for (r, c), piece in pieces.items():
        whole.paste(piece, (sum(widths[:columns.index(c)]), sum(heights[:rows.index(r)])))
    return whole


def pictures(folder):
    "Name and picture of all that the unpacked packages hold."
    puzzles = defaultdict(dict)
    for activity in ACTIVITIES:
        for path in folder.rglob(f"{activity}.rcc"):
            for name, blob in resources(path):
                if Path(name).suffix.lower() not in KINDS: continue
                picture = Image.open(io.BytesIO(blob)).convert("RGB")
                piece = re.fullmatch(r"(.+)_([a-f])(\d)\.\w+", name)
                if piece: puzzles[piece[1]][piece[2], int(piece[3])] = picture
                else: yield f"{activity}-{Path(name).stem}", picture
    for name, pieces in puzzles.items(): yield f"paintings-{name}", join(pieces)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in KINDS and path.is_file() and "backgrounds" in str(path) or "wallpapers" in str(path):
            if path.suffix.lower() in KINDS and path.stat().st_size > 60_000 and not path.is_symlink():
                yield f"{path.parents[2].name}-{path.stem}", Image.open(path).convert("RGB")


def main(out):
    kept = defaultdict(int)
    with tempfile.TemporaryDirectory() as home:
        for package in PACKAGES:
            subprocess.run(["apt-get", "download", "-qq", package], cwd=home, check=True, stderr=subprocess.DEVNULL)
        for archive in Path(home).glob("*.deb"): subprocess.run(["dpkg-deb", "-x", archive, Path(home)/"all"], check=True)
        for name, picture in pictures(Path(home)/"all"):
            if IN_THE_BENCHMARK.search(name) or min(picture.size) < SMALLEST: continue
            picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            work = re.sub(r"[-_]?\d+$|_background$", "", name)    # details of one work stay on one side
            part = "validation" if zlib.crc32(work.encode()) % 7 == 0 else "train"
            (out/part).mkdir(parents=True, exist_ok=True)
            picture.save(out/part/f"{name}.png")
            kept[part] += 1
    print(", ".join(f"{n} to {part}" for part, n in kept.items()))


if __name__ == "__main__": main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT/"data"/"pictures")
