"OpenRaster files in a paint program that is not ours."
import shutil, subprocess, zipfile
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


@pytest.mark.slow
def test_krita_shows_the_same_picture(tmp_path, frame=2):
    krita, screen = shutil.which("krita"), shutil.which("xvfb-run")
    if not krita or not screen: pytest.skip("no Krita and xvfb-run here")
    _, layers = synthesize(1, 3, (61, 83), seed="test_openraster")
    path = write_openraster(tmp_path/"made.ora", layers)
    rewritten(path, tmp_path/"other.ora", frame)
    call = [screen, "-a", krita, "--nosplash", "--export", "--export-filename", tmp_path/"shown.png", tmp_path/"other.ora"]
    subprocess.run(call, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, capture_output=True, timeout=180)
    assert (tmp_path/"shown.png").exists(), "Krita exported nothing"
    shown = torch.from_numpy(cv2.imread(str(tmp_path/"shown.png"))[..., ::-1].astype("float32")/255).permute(2, 0, 1)
    assert (shown - flatten_openraster(path, frame)[:3]).abs().max() <= 1/255
    assert (shown - compose(layers, mode="soft")[0, :, frame]).abs().max() <= 2.5/255
