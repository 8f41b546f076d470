"""Measure this code against a plain implementation of the published procedure, side by side: ``python -m benchmarks``.

Each measurement runs in a separate process, alternating between plain and ours, on the same synthetic data; the table reports
medians and their ratio. Encoders are full-size with random weights; ``--small`` is a quick check without meaningful ratios.
"""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.material import corpus_paths, make_corpus
from utils.errors import UserError, one_line_errors
from utils.files import write_json
from utils.flags import Parser, named_path, positive_int

# Measurements in the order of the table: (measurement, precision of ours, text of the row).
ROWS = (
    ("start_up", "no", "start-up to the first step, second run on a corpus"),
    ("fusion", "no", "training step of the fusion model, float32"),
    ("fusion", "bf16", "the same, ours in bf16"),
    ("ewc", "no", "training step of ewc"),
    ("adapter", "no", "training step of an adapter, features there"),
    ("validation", "no", "validation"),
    ("fisher", "no", "Fisher information"),
    ("written", "no", "bytes that an adapter run leaves"),
)
PER_STEP = ("fusion", "ewc", "adapter", "validation", "fisher")
THREADS = (0, 1, 2, 4)
EPOCHS, FOLDS, TRAINED_SHARE = 40, 5, 0.6
# Dense bf16 FLOP/s, from the vendor's specifications.
PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


def measure(what, side, folder, precision, args, num_workers=0):
    """Run a measurement in a separate process: ``{"value", "peak_bytes", "text"}``, with its preceding output as text."""
    command = [sys.executable, "-m", "benchmarks.measure", what, side, str(folder), "--precision", precision]
    command += ["--num_workers", str(num_workers)]
    command += ["--steps", str(args.steps), "--batch_size", str(args.batch_size), *(["--small"] if args.small else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}"
        )
    *text, numbers = done.stdout.splitlines()
    return json.loads(numbers) | {"text": "\n".join(text)}


def machine():
    """One line describing hardware and software."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    facts, processor = Path("/proc/cpuinfo"), platform.processor() or platform.machine()
    models = re.findall(r"(?m)^model name\s*: (.*)", facts.read_text()) if facts.exists() else []
    return f"{(models or [processor])[0]}, {torch.get_num_threads()} threads, {gpu}, torch {torch.__version__}"


def take(rows, args):
    """Run all measurements, alternating between plain and ours.

    Returns:
        (results, failed): ``{(what, precision, side): [measurement, …]}``, and the messages of failed ones. A failure does not
        end the benchmark, since the other measurements take a long time.
    """
    sizes = {"KEMDy19": 400, "KEMDy20": 500} if args.small else {"KEMDy19": 9627, "KEMDy20": 12828}
    results, failed = {}, []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for name, path in corpus_paths(folder).items():
            make_corpus(path, name, sizes[name])

        def attempt(*arguments):
            try:
                return [measure(*arguments)]
            except UserError as error:
                failed.append(str(error))
                tqdm.write(failed[-1], file=sys.stderr)
                return []

        turns = [(row[:2], side) for row in rows for _ in range(args.repeats) for side in ("plain", "ours")]
        for (what, precision), side in tqdm(turns, desc="measurements", disable=None):
            of = results.setdefault((what, precision, side), [])
            if side == "plain" and precision != "no" and (what, "no", side) in results:
                results[what, precision, side] = results[what, "no", side]  # the published procedure only supports float32
            elif not (what == "written" and of):  # deterministic, once is enough
                of += attempt(what, side, folder, precision, args)
        wanted = args.only or ("flops", "features", "loading", "predict")
        for what in {"flops", "features", "predict"}.intersection(wanted):
            results[what, "no", "ours"] = sum((attempt(what, "ours", folder, "no", args) for _ in range(args.repeats)), [])
        if "loading" in wanted:
            results["loading"] = {n: one for n in THREADS for one in attempt("loading", "ours", folder, "no", args, n)}
        if args.profile:
            results["profile"] = "".join(one["text"] for one in attempt("profile", "ours", folder, "bf16", args))
    return {key: of for key, of in results.items() if of}, failed


def median(measurements, key="value"):
    return statistics.median(one[key] for one in measurements)


def report(rows, results, args):
    """The table and the sentences below it as lines, and all numbers as a dictionary."""
    lines = [f"{machine()}; batches of {args.batch_size}, {'small' if args.small else 'full-size'} encoders", ""]
    numbers = {"machine": machine(), "arguments": {name: str(value) for name, value in vars(args).items()}}
    rows = [row for row in rows if all((*row[:2], side) in results for side in ("plain", "ours"))]
    if rows:
        lines += ["| | published procedure | ours | ratio | peak memory, published | ours |", "|---|---:|---:|---:|---:|---:|"]
    for what, precision, title in rows:
        sides = [results[what, precision, side] for side in ("plain", "ours")]
        plain, ours = (median(of) / (args.steps if what in PER_STEP else 1) for of in sides)
        memory = [median(of, "peak_bytes") for of in sides]
        numbers[f"{what} {precision}"] = {"published": plain, "ours": ours, "ratio": plain / ours, "peak_bytes": memory}
        unit = (lambda value: f"{value / 1e6:,.0f} MB") if what == "written" else (lambda value: f"{value:.3g} s")
        gigabytes = [f"{of / 1e9:.1f} GB" if what != "written" else "" for of in memory]
        lines.append(f"| {title} | {unit(plain)} | {unit(ours)} | {plain / ours:.2g} | {gigabytes[0]} | {gigabytes[1]} |")
    if rows:
        lines.append("")
    if "ewc no" in numbers and "fusion no" in numbers:
        numbers["ewc over finetune"] = numbers["ewc no"]["ours"] / numbers["fusion no"]["ours"]
        lines.append(f"A step of ewc takes {numbers['ewc over finetune']:.3f} of one of finetune.")
    if ("flops", "no", "ours") in results:
        flops = numbers["flops_per_step"] = median(results["flops", "no", "ours"])
        lines.append(f"A training step of the fusion model has {flops:.3g} floating-point operations.")
        if "fusion bf16" in numbers:
            lines.append(_rate(numbers["fusion bf16"], flops, args.batch_size))
    if ("features", "no", "ours") in results:
        made = median(results["features", "no", "ours"]) / args.steps / args.batch_size
        numbers["features"] = {"seconds_per_utterance": made}
        lines.append(f"Features take {made:.2g} s an utterance, once.")
    if "features" in numbers and "adapter no" in numbers:
        step = numbers["adapter no"]["ours"] / args.batch_size
        share = made / (EPOCHS * FOLDS * TRAINED_SHARE * step)
        whole = numbers["adapter no"]["published"] / args.batch_size / (step * (1 + share))
        numbers["features"] |= {"share_of_training": share, "ratio_with_features": whole}
        lines.append(
            f"That is {share:.1%} of what {EPOCHS} epochs of {FOLDS} folds then take; over all of these, making them included, "
            f"an adapter's training is {whole:.3g} times as fast."
        )
    if "loading" in results:
        numbers["loading"] = {n: one["value"] for n, one in results["loading"].items()}
        times = ", ".join(f"{n}: {1000 * one['value']:.2g} ms" for n, one in results["loading"].items())
        lines.append(f"Reading a batch of wavs, by threads that read ahead: {times}.")
    if ("predict", "no", "ours") in results:
        of = [one["value"] for one in results["predict", "no", "ours"]]
        found = numbers["predict"] = {name: statistics.median(one[name] for one in of) for name in of[0]}
        rates = {name: f"{1 / found[name]:.3g}" for name in ("bare", "many", "bare, one", "one")}
        lines.append(
            f"Predicting with an adapter: {rates['many']} utterances/s of many files, {found['bare'] / found['many']:.2f} of "
            f"the {rates['bare']} of the bare model on ready tensors; {rates['one']} one file a call, "
            f"{found['bare, one'] / found['one']:.2f} of {rates['bare, one']}. Import takes {found['import']:.2g} s, loading "
            f"{found['loading']:.2g} s."
        )
    return [*lines, results.get("profile", "")], numbers


def _rate(numbers, flops, batch_size):
    """Utterances/s and FLOP/s of fusion training in bf16, and the fraction of the GPU's peak."""
    seconds = numbers["ours"]
    numbers |= {"utterances_per_second": batch_size / seconds, "flops_per_second": flops / seconds}
    peak = next((rate for name, rate in PEAK_BF16.items() if name in machine()), None)
    share = f", {flops / seconds / peak:.0%} of the peak of the GPU" if peak else ""
    return f"Fusion training in bf16: {batch_size / seconds:.3g} utterances/s, {flops / seconds / 1e12:.3g} TFLOP/s{share}."


@one_line_errors
def main():
    parser = Parser(
        prog="python -m benchmarks",
        description=__doc__.split("\n")[0],
        example="python -m benchmarks --small --only adapter",
    )
    parser.add_argument("--small", action="store_true", help="small encoders and corpora")
    parser.add_argument("--steps", type=positive_int, default=3, help="steps of each measurement, after one to warm up")
    parser.add_argument("--repeats", type=positive_int, default=3, help="measurements of each side, by turns")
    parser.add_argument("--batch_size", type=positive_int, default=8, help="utterances a step")
    names = list(dict.fromkeys([*(what for what, *_ in ROWS), "flops", "features", "loading", "predict"]))
    parser.add_argument("--only", nargs="+", choices=names, help="some of the measurements")
    parser.add_argument("--profile", action="store_true", help="also show where the time of fusion training in bf16 goes")
    parser.add_argument("--output", type=named_path, help="also write the numbers as JSON")
    args = parser.parse_args()
    if args.output and (args.output.is_dir() or not os.access(args.output.resolve().parent, os.W_OK)):
        raise UserError(f"--output {args.output} cannot be written: name a file in a folder that is there")

    rows = [row for row in ROWS if not args.only or row[0] in args.only]
    results, failed = take(rows, args)
    lines, numbers = report(rows, results, args)
    print("\n".join(lines).rstrip())
    if args.output:
        write_json(args.output, numbers)
    if failed:
        raise UserError(f"{len(failed)} measurements failed, and are left out: {failed[0]}")


if __name__ == "__main__":
    main()
