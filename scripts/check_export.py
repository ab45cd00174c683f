"""Compares htcv/ with what the notebooks export, in a temporary folder, and says which cell differs.

    check_export.py           change nothing; fail where a module and its notebook differ
    check_export.py --write   export, but never over a module that was edited by hand

Every export leaves the hashes of what it wrote in `.exported.json`, which git ignores. A module whose text was neither
written by the last export, nor is committed, nor is what the notebooks export now, was edited by hand, however new its
notebook is: `nbdev_update` brings such an edit into the notebook. Where there is neither a record nor git, a module
that is newer than its notebook was.
"""
import argparse, hashlib, json, os, re, shutil, subprocess, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"^# %% (\S+?\.ipynb) #(\S+)$|^# %% (auto) (#0)$", flags=re.M)
GENERATED = {"_modidx.py", "__init__.py"}  # nbdev writes both from everything else
RECORD = ".exported.json"  # module -> hash of its text as an export last wrote it or found it


def export_into(folder, root=ROOT):
    "Everything that an export reads, copied; then nbdev's own export of the copy."
    for name in ("settings.ini", "pyproject.toml", "README.md"):
        if (root/name).exists(): shutil.copy(root/name, folder/name)
    for part, pattern in (("nbs", "*.ipynb"), ("htcv", "*.py")):
        (folder/part).mkdir()
        for path in root.glob(f"{part}/{pattern}"): shutil.copy(path, folder/part/path.name)
    for path in folder.glob("htcv/[!_]*.py"): path.unlink()  # what no notebook makes any more does not come back
    tool = Path(sys.executable).parent/"nbdev_export"
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run([tool], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode: sys.exit(f"nbdev_export failed:\n{done.stdout}{done.stderr}")


def chunks(text):
    "The pieces of a module: (notebook, cell id) -> code, in order; what stands above all cells is under ('', '')."
    parts, last, start = {}, ("", ""), 0
    for match in MARK.finditer(text):
        parts[last] = text[start:match.start()]
        last, start = (match[1] or match[3], match[2] or match[4]), match.end()
    return parts | {last: text[start:]}


def names(code):
    "What a cell defines, for people who do not know cell ids by heart."
    found = re.findall(r"^(?:async\s+)?(?:def|class)\s+(\w+)", code, flags=re.M) or re.findall(r"^(\w+)\s*=", code, flags=re.M)
    return f" ({', '.join(f'`{name}`' for name in dict.fromkeys(found))})" if found else ""


def differing_cells(ours, exported):
    "(notebook, cell id, names) of every piece in which a module and its export differ."
    mine, theirs = chunks(ours), chunks(exported)
    for notebook, cell in dict.fromkeys([*mine, *theirs]):
        a, b = mine.get((notebook, cell)), theirs.get((notebook, cell))
        if a == b: continue
        if (a or "").strip() == (b or "").strip() and None not in (a, b): continue  # blank lines before the next mark
        yield notebook.split("/")[-1], cell, names((a or "") + "\n" + (b or ""))


def compare(root, folder):
    "name -> the cells that differ, of all files that the export would change; no cells for nbdev's own files."
    modules = {p.name for place in (root, folder) for p in place.glob("htcv/*.py")}
    found = {}
    for name in sorted(modules):
        ours, exported = root/"htcv"/name, folder/"htcv"/name
        texts = [path.read_text(encoding="utf-8") if path.exists() else "" for path in (ours, exported)]
        if texts[0] != texts[1]:
            found[name] = [] if name in GENERATED else list(differing_cells(*texts))
    return found


def digest(data): return hashlib.sha256(data).hexdigest()


def recorded(root=ROOT):
    "What the last export left: module -> hash; nothing where there was none."
    try: return json.loads((root/RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError): return {}


def remember(modules, root=ROOT):
    "Adds these modules to the record, as they are now; what is gone is taken out."
    hashes = recorded(root) | {name: digest((root/"htcv"/name).read_bytes()) for name in modules if (root/"htcv"/name).exists()}
    kept = {name: hashes[name] for name in sorted(hashes) if (root/"htcv"/name).exists()}
    draft = root/f"{RECORD}.part"
    draft.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    draft.replace(root/RECORD)


def committed(name, root=ROOT):
    "The module as it is committed, or None: no clone, or not in it."
    try: done = subprocess.run(["git", "show", f"HEAD:./htcv/{name}"], cwd=root, capture_output=True)
    except OSError: return None  # no git
    return done.stdout if done.returncode == 0 else None


def edited_by_hand(name, cells, root=ROOT):
    "A module that neither an export wrote nor git has; where nobody knows, one that is newer than its notebooks."
    path = root/"htcv"/name
    if name in GENERATED or not path.exists(): return False
    text, known = path.read_bytes(), [recorded(root).get(name)]
    if (in_git := committed(name, root)) is not None: known.append(digest(in_git))
    if any(known): return digest(text) not in known
    books = {root/"nbs"/book for book, _, _ in cells if book.endswith(".ipynb")}
    return all(not book.exists() or path.stat().st_mtime_ns > book.stat().st_mtime_ns for book in books)


def report(name, cells, by_hand):
    "One line for each cell that differs, and what to do about it."
    if name in GENERATED: return [f"htcv/{name}: not what nbdev writes; run `make export`"]
    what = ("was edited by hand: `nbdev_update --fname htcv/{0}` brings that into the notebook" if by_hand
            else "is older than its notebook: `make export`")
    lines = [f"htcv/{name} {what.format(name)}"]
    for book, cell, known in cells:
        if book == "auto" and len(cells) > 1: continue  # `__all__` follows from the cells named beside it
        if book == "auto": lines.append("    the list of its exports, `__all__`")
        else: lines.append(f"    nbs/{book}, {cell}{known}" if book else "    the lines above the first cell")
    return lines


def main(arguments=None, root=ROOT):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="export what is out of step")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="htcv-export-") as temporary:
        folder = Path(temporary)
        export_into(folder, root)
        found = compare(root, folder)
        by_hand = {name: edited_by_hand(name, cells, root) for name, cells in found.items()}
        if found and options.write and not any(by_hand.values()):
            for name in found:
                exported = folder/"htcv"/name
                if exported.exists(): shutil.copyfile(exported, root/"htcv"/name)
                else: (root/"htcv"/name).unlink()
            remember([path.name for path in root.glob("htcv/*.py")], root)
            print("exported: " + ", ".join(found))
            return 0
        if options.write: remember([path.name for path in root.glob("htcv/*.py") if path.name not in found], root)
    for name, cells in found.items(): print("\n".join(report(name, cells, by_hand[name])))
    if found: print("nothing was changed")
    else: print(f"the export is in step: {len(list(root.glob('htcv/*.py')))} modules")
    return 1 if found else 0


if __name__ == "__main__": sys.exit(main())
