"""Gathering pictures where there is nothing to gather from."""
import json, os

import pytest

OFFLINE = """
import json
from htcv.training_pictures import PACKAGES, Package, gather_pictures
some = PACKAGES[:2] + tuple(package for package in PACKAGES if package.registry == 'pypi')[:1]
try: gather_pictures({folder!r}, some)
except ConnectionError as error: print(json.dumps(str(error)))
"""


def test_without_apt_and_without_a_network_it_says_what_to_do(fresh_python, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path/"nothing here"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip finds nothing, at once
    said = json.loads(fresh_python(OFFLINE.format(folder=str(tmp_path/"pictures"))).splitlines()[-1])
    assert "network" in said and "apt-get update" in said and "pip" in said
    assert said.count("there is no apt-get here") == 2 and "scikit-image is not to be had from pypi" in said
    assert [path.name for path in (tmp_path/"pictures").iterdir()] == ["pictures.json"]  # nothing half-written


@pytest.mark.skipif("not os.environ.get('HTCV_PICTURES')", reason="HTCV_PICTURES is not set: no pictures were gathered")
def test_what_was_gathered_is_what_the_index_says():
    from pathlib import Path
    folder = Path(os.environ["HTCV_PICTURES"])
    pictures = json.loads((folder/"pictures.json").read_text())["pictures"]
    for part in ("train", "validation"):
        there = {path.name for path in (folder/part).iterdir()}
        assert there == {name for name, one in pictures.items() if one["part"] == part}
