"""How long everything takes and how much memory: each row in a process of its own, all rows in one run.

    measure_performance.py                 writes results/53_performance.json: some minutes on two quiet cores
    measure_performance.py --quick         tiny pictures, to see that it works; a page made from this says so
    measure_performance.py --only inference   some groups; prints the table and writes nothing

On a machine with a CUDA device its rows follow those of the processor. nbs/53_performance.ipynb shows what was measured.
"""
import argparse, json, os, platform, resource, subprocess, sys, time

import torch

GROUPS = ("idle", "inference", "frames", "pixels", "variants", "training", "labels", "data")
PRESETS = ("report", "compact", "fusion", "fusion-small")


def rows(groups, quick, device):
    "What to measure. Sizes are pixels of a square's side."
    T, side, step = (3, 64, 64) if quick else (10, 256, 128)
    base = dict(preset="fusion", frames=T, size=side, batch=1, device=device)
    def row(group, **facts): return base | dict(group=group) | facts
    found = [row("idle", preset=None)]
    found += [row("inference", preset=preset) for preset in PRESETS]  # what follows varies one of these
    found += [row("frames", frames=n) for n in ((1, 2, 4) if quick else (1, 2, 5, 20, 50))]
    found += [row("pixels", size=n) for n in ((32, 96) if quick else (128, 512, 1024))]
    found += [row("variants", preset=preset, variant="bf16") for preset in ("report", "fusion", "fusion-small")]
    found += [row("variants", variant="compile")]*(not quick)
    found += [row("training", preset=preset, size=step) for preset in PRESETS]
    found += [row("labels", preset=None, what=what) for what in ("light and shadow", "occlusion", "occlusion, vote of all frames")]
    found += [row("data", preset=None, what=what, size=step, batch=4) for what in ("synthesis", "scene bank")]
    return [r for r in found if r["group"] in groups and (device == "cpu" or r["group"] != "idle")]


# ---- one row, in a process of its own -------------------------------------------------------------------------

def photographs(row):
    "Frames (B,3,T,H,W) of a benchmark sequence, as many and as large as wanted, and their source."
    from htcv.rendering import benchmark_folder
    from htcv.sequences import read_sequence, resize
    sequence = read_sequence(benchmark_folder()/"3")
    size = (row["size"], row["size"])
    frames = resize(sequence.frames[:, torch.arange(row["frames"]) % sequence.frames.shape[1]], size)
    return (x.expand(row["batch"], *x.shape).contiguous().to(row["device"]) for x in (frames, resize(sequence.source, size)))


def model_of(row):
    "With the weights that are shipped, where there are any: they decide how much a variant changes the picture."
    from htcv.decomposer import create_decomposer, load_decomposer, shipped_weights
    path = shipped_weights(row["preset"])
    return load_decomposer(path, row["device"]) if path.is_file() else create_decomposer(row["preset"], seed=0).eval().to(row["device"])


def inference(row):
    model, (frames, _), variant = model_of(row), photographs(row), row.get("variant", "plain")
    changed = torch.compile(model) if variant == "compile" else model
    def forward(model=changed, half=variant == "bf16"):
        if hasattr(model, "half_precision"): model.half_precision = lambda x: torch.autocast(x.device.type, torch.bfloat16, enabled=half)
        with torch.no_grad(), torch.autocast(row["device"], torch.bfloat16, enabled=half): return model(frames).source
    if variant == "plain": return forward, dict
    return forward, lambda: dict(difference=float((forward().float() - forward(model, False)).abs().max()))


def training(row):
    from torch.nn.functional import l1_loss
    from htcv.fusion_training import fusion_loss
    from htcv.synthesis import synthesize
    model = model_of(row).train().requires_grad_()
    frames, layers = synthesize(row["batch"], row["frames"], row["size"], seed="performance", device=row["device"])
    batch = dict(frames=frames) | {name: x for name, x in vars(layers).items()}
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    def loss():
        if hasattr(model, "apply_fullres"): return fusion_loss(model, batch)["loss"]
        seen = model(frames)
        return sum(l1_loss(getattr(seen, name), batch[name].expand_as(getattr(seen, name))) for name in ("source", "occlusion_mask", "occlusion_rgb")) + \
               sum((getattr(seen, name) - batch[name]).abs().mean() for name in ("shadow", "light"))
    def step():
        torch.manual_seed(0)
        loss().backward()
        optimizer.step(); optimizer.zero_grad()
    return step, dict


def labels(row):
    from htcv.light_shadow import lighting_pseudo_labels, pseudo_underlying
    from htcv.occlusion_pseudo_labels import occlusion_pseudo_labels
    frames, source = photographs(row)
    if row["what"] == "light and shadow": return lambda: lighting_pseudo_labels(frames, source), dict
    picture, vote = pseudo_underlying(frames, source), "all" if "vote" in row["what"] else "frame"
    return lambda: occlusion_pseudo_labels(frames, picture, vote=vote), dict


def data(row):
    from htcv.scene_bank import drawn_scenes, sample_images
    from htcv.training_sequences import RelitSequences, draw_batch
    from htcv.synthesis import synthesize
    B, T, size = row["batch"], row["frames"], row["size"]
    if row["what"] == "synthesis": return lambda: synthesize(B, T, size, seed="performance", device=row["device"]), dict
    lit = RelitSequences(dict(drawn=drawn_scenes(4*T, size)), sample_images(24, size))
    return lambda: draw_batch(lit, 0, B, T, size), dict


def measure(row, patience):
    "The best of some runs, and the peak of this process's memory."
    torch.manual_seed(0)
    cuda = row["device"] == "cuda"
    work = {"training": training, "labels": labels, "data": data, "idle": lambda row: (lambda: None, dict)}.get(row["group"], inference)
    run, more = work(row)
    def timed():
        began = time.perf_counter()
        run()
        if cuda: torch.cuda.synchronize()
        return time.perf_counter() - began
    first, times = timed(), []
    while len(times) < 2 or len(times) < 7 and sum(times) < patience: times.append(timed())
    memory = torch.cuda.max_memory_allocated()/2**30 if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20
    return dict(seconds=min(times), first=first, gigabytes=memory) | more()


# ---- all rows -------------------------------------------------------------------------------------------------

def in_a_process(row, threads, patience):
    "The row with its numbers, or with what went wrong."
    call = [sys.executable, __file__, "--threads", str(threads), "--patience", str(patience), "--one", json.dumps(row)]
    done = subprocess.run(call, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    if done.returncode == 0: return row | json.loads(done.stdout.strip().splitlines()[-1])
    return row | dict(seconds=None, gigabytes=None, wrong=(done.stderr.strip().splitlines() or ["killed"])[-1][:200])


def processor():
    "What Linux calls the processor."
    try: return next(line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    except (OSError, StopIteration): return platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--patience", type=float, default=3., help="seconds for the runs of a row, at least two runs")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one: return print(json.dumps(measure(options.one, options.patience)))
    from tqdm import tqdm
    from htcv.plots import markdown_table, save_results
    began, gpu = time.time(), torch.cuda.is_available()
    todo = [row for device in ["cpu", *["cuda"]*gpu] for row in rows(options.only or GROUPS, options.quick, device)]
    done = [in_a_process(row, options.threads, options.patience) for row in tqdm(todo, disable=None)]
    shown = ("group", "device", "preset", "what", "variant", "batch", "frames", "size", "seconds", "first", "gigabytes", "difference", "wrong")
    print(markdown_table([{name: row.get(name) for name in shown} for row in done], digits=3))
    config = dict(threads=options.threads, cores=os.cpu_count(), processor=processor(), torch=torch.__version__, quick=options.quick,
                  gpu=torch.cuda.get_device_name() if gpu else None, load_before=os.getloadavg()[0])
    if not options.only: save_results("53_performance", dict(rows=done), config, 0, dict(seconds=time.time() - began))


if __name__ == "__main__": main()
