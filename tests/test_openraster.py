"OpenRaster files in a paint program that is not ours."
import os, shutil, subprocess, zipfile
from xml.etree import ElementTree as xml

import cv2
import pytest
import torch

from htcv.composition import compose
from htcv.openraster import flatten_openraster, write_openraster
from htcv.synthesis import synthesize


def rewritten(path, draft, visible):
    "The same file showing another group, and without the merged picture, which a program could show instead of the layers."
    with zipfile.ZipFile(path) as old: members = {m.filename: (m.compress_type, old.read(m)) for m in old.infolist()}
    del members["mergedimage.png"]
    image = xml.fromstring(members["stack.xml"][1])
    for i, group in enumerate(image.iter("stack")):  # the first is the root
        if i: group.set("visibility", "visible" if i == visible + 1 else "hidden")
    with zipfile.ZipFile(draft, "w") as new:
        for name, (method, content) in members.items():
            new.writestr(name, xml.tostring(image) if name == "stack.xml" else content, method)


@pytest.fixture
def screen():
    "A display that nobody looks at: `:5` or so."
    if not shutil.which("Xvfb"): pytest.skip("no Xvfb here")
    with subprocess.Popen(["Xvfb", "-displayfd", "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try: yield f":{server.stdout.readline().strip()}"
        finally: server.terminate()


@pytest.mark.slow
def test_krita_shows_the_same_picture(tmp_path, screen, frame=2):
    if not shutil.which("krita"): pytest.skip("no Krita here")
    _, layers = synthesize(1, 3, (61, 83), seed="test_openraster")
    path = write_openraster(tmp_path/"made.ora", layers)
    rewritten(path, tmp_path/"other.ora", frame)
    call = ["krita", "--nosplash", "--export", "--export-filename", tmp_path/"shown.png", tmp_path/"other.ora"]
    done = subprocess.run(call, env=os.environ | {"HOME": str(tmp_path), "DISPLAY": screen}, capture_output=True, text=True, timeout=180)
    assert (tmp_path/"shown.png").exists(), done.stdout + done.stderr
    shown = torch.from_numpy(cv2.imread(str(tmp_path/"shown.png"))[..., ::-1].astype("float32")/255).permute(2, 0, 1)
    assert (shown - flatten_openraster(path, frame)[:3]).abs().max() <= 1/255
    assert (shown - compose(layers, mode="soft")[0, :, frame]).abs().max() <= 2.5/255
