"""Exports all notebooks and fails if that changed anything: then notebook and module had drifted apart."""
import hashlib, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def snapshot():
    files = [*ROOT.glob("htcv/**/*.py"), *ROOT.glob("nbs/*.ipynb")]
    status = subprocess.run(["git", "status", "--porcelain", "--", "htcv", "nbs"], cwd=ROOT, capture_output=True, text=True)
    return {str(f.relative_to(ROOT)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files} | {"git status": status.stdout}


before = snapshot()
subprocess.run([str(Path(sys.executable).parent/"nbdev_export")], cwd=ROOT, check=True)
after = snapshot()
changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
if changed: sys.exit("the export was out of step (now it is not; commit it): " + ", ".join(changed))
print(f"the export is in step: {len(after) - 1} files unchanged")
