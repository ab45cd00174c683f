"""Gives names of the code other names, everywhere: code cells, tests, scripts, and `backticked` prose.

    rename_symbol.py OLD=NEW [OLD=NEW …] [--only NOTEBOOK …]

Works on tokens, so strings and comments keep their words, apart from names in backticks. A notebook whose outputs
belonged to its code before still counts as executed: nothing that it shows depends on how a variable is called.
Where an output holds an old name, the notebook has to be executed again, and is named.
"""
import argparse, io, json, re, sys, tokenize
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).parent))
from run_notebooks import EXECUTED, hashes

ROOT = Path(__file__).resolve().parents[1]


def in_code(text, names):
    "Source with other names; what Python cannot read, e.g. a cell of shell commands, stays."
    magic = [line.startswith(("%", "!")) for line in text.split("\n")]
    if any(magic): return text
    try: tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, IndentationError): return text
    lines = text.split("\n")
    for token in reversed(tokens):
        (row, start), (last, end), string = token.start, token.end, token.string
        if token.type not in (tokenize.NAME, tokenize.STRING, tokenize.COMMENT): continue
        line = lines[row - 1]
        if token.type == tokenize.NAME and string in names: lines[row - 1] = line[:start] + names[string] + line[end:]
        elif token.type != tokenize.NAME and row == last:
            new = in_prose(string, names)
            if is_f_string(string): new = in_f_string(new, names)
            lines[row - 1] = line[:start] + new + line[end:]
        elif token.type == tokenize.STRING:
            for i in range(row - 1, last): lines[i] = in_prose(lines[i], names)
    return "\n".join(lines)


def is_f_string(string): return string[:2].lower().rstrip("'\"") in ("f", "rf", "fr")


def in_f_string(string, names):
    "Names inside the braces of an f-string, which older Pythons read as one token."
    def inside(match): return re.sub(r"(?<![\w'\"])(\w+)(?![\w'\"])", lambda m: names.get(m[1], m[1]), match[0])
    return re.sub(r"\{[^{}]*\}", inside, string)


def in_prose(text, names):
    "Text with other names in its `backticks`."
    def inside(match): return re.sub(r"\w+", lambda m: names.get(m[0], m[0]), match[0])
    return re.sub(r"`[^`\n]+`", inside, text)


def rename(path, names):
    "One file; says whether its outputs show an old name."
    if path.suffix != ".ipynb":
        text = path.read_text()
        if (new := in_code(text, names)) != text: path.write_text(new)
        return False
    nb = nbformat.read(path, 4)
    before = json.dumps(nb)
    fresh = nb.metadata.get(EXECUTED) == " ".join(hashes(nb))
    for cell in nb.cells: cell.source = (in_code if cell.cell_type == "code" else in_prose)(cell.source, names)
    if json.dumps(nb) == before: return False
    if fresh: nb.metadata[EXECUTED] = " ".join(hashes(nb))
    nbformat.write(nb, path)
    shown = json.dumps([cell.get("outputs", []) for cell in nb.cells])
    return any(re.search(rf"(?<!\w){old}(?!\w)", shown) for old in names)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="OLD=NEW")
    parser.add_argument("--only", nargs="+", metavar="NOTEBOOK", help="stems of the files to change; default: all")
    given = parser.parse_args()
    names = dict(pair.split("=") for pair in given.names)
    wrong = [name for pair in names.items() for name in pair if not name.isidentifier()]
    if wrong: parser.error(f"{wrong[0]!r} is no name of Python")
    files = [*ROOT.glob("nbs/*.ipynb"), *ROOT.glob("tests/*.py"), *ROOT.glob("scripts/*.py")]
    files = [path for path in sorted(files) if path != Path(__file__).resolve()]
    if given.only: files = [path for path in files if path.stem in given.only]
    for path in files:
        if rename(path, names): print(f"{path.relative_to(ROOT)}: an output shows an old name; execute it again")


if __name__ == "__main__": main()
