"What several tests ask for."
import os, subprocess, sys
from pathlib import Path

import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


@pytest.fixture(scope="session")
def root(): return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def notebooks(root):
    "Committed notebooks by name."
    import nbformat
    return {path.stem: nbformat.read(path, as_version=4) for path in sorted(root.glob("nbs/[!_.]*.ipynb"))}


@pytest.fixture(scope="session")
def fresh_python(root):
    "Runs a piece of code in an interpreter of its own and returns what it printed."
    def run(code, **environment):
        env = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"} | environment
        done = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()
    return run
