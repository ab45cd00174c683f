"""Speed and memory of the presets in one run: each in a process of its own, forward on ten frames of 256×256.

    measure_speed.py [--threads 2] [--repeats 3] [--training]     prints a table, writes results/43_speed.json
"""
import argparse, json, resource, subprocess, sys, time

import torch

PRESETS = ("report", "compact", "fusion", "fusion-small")


def one(preset, threads, repeats, training):
    "Best time and peak memory of this process."
    from htcv.decomposer import create_decomposer
    torch.set_num_threads(threads)
    model, frames = create_decomposer(preset, seed=0), torch.rand(1, 3, 10, 256, 256)
    def forward():
        with torch.no_grad(): model.eval()(frames)
    def step():
        seen = model.train()(frames)
        (seen.source.mean() + seen.shadow.mean() + seen.light.mean() + seen.occlusion_logit.mean()).backward()
        model.zero_grad()
    run, times = step if training else forward, []
    for _ in range(repeats + 1):
        began = time.perf_counter(); run(); times.append(time.perf_counter() - began)
    print(json.dumps([min(times[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--training", action="store_true", help="a training step instead of a forward pass")
    parser.add_argument("--one", choices=PRESETS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one: return one(options.one, options.threads, options.repeats, options.training)
    rows = []
    for preset in PRESETS:
        call = [sys.executable, __file__, "--one", preset, "--threads", str(options.threads), "--repeats", str(options.repeats)]
        done = subprocess.run(call + ["--training"]*options.training, capture_output=True, text=True, check=True)
        seconds, memory = json.loads(done.stdout.strip().splitlines()[-1])
        rows.append(dict(preset=preset, seconds=seconds, gigabytes=memory, times_faster=rows[0]["seconds"]/seconds if rows else 1.))
    from htcv.plots import markdown_table, save_results
    print(markdown_table(rows))
    save_results("43_speed" + "_training"*options.training, dict(rows=rows), dict(threads=options.threads, frames=10, size=256, training=options.training), 0)


if __name__ == "__main__": main()
