"What `scripts/mutate.py` argues away is really there to be argued."
import json, sys

import nbformat


def test_argued_mutants_can_be_made(root):
    sys.path.insert(0, str(root/"scripts"))
    import mutate
    for name, argued in json.loads((root/"tests/argued_mutants.json").read_text(encoding="utf-8")).items():
        made = {line for _, line, _ in mutate.mutants(nbformat.read(root/"nbs"/f"{name}.ipynb", as_version=4).cells)}
        assert set(argued) <= made, f"{name}: {sorted(set(argued) - made)} changed: argue again, or take it out"
