"""Kill runs with SIGKILL at random moments, start them again, and compare what they end with to runs left alone.

``python tests/stress.py --kills 50`` with the demonstration's encoders (bash run-demo.sh makes them) on small corpora of noise.
Each start is a process forked from one that has imported everything, so that a kill costs no import; it calls the script's own
main.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["OMP_NUM_THREADS"] = "1"  # a fork has no threads; sums in another order would differ in their last bits

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from lookalike import make_kemdy19, make_kemdy20  # noqa: E402
from tqdm import tqdm  # noqa: E402

from utils.errors import UserError, one_line_errors  # noqa: E402
from utils.files import BEST_MODEL, HISTORY, METRICS, PREDICTIONS, read_json, run_folder  # noqa: E402
from utils.methods import COMBINED, METHODS, PAPER, SEQUENCE  # noqa: E402
from utils.training import start as _  # noqa: E402, F401  (imported before the fork)


def start(script, flags, log):
    """Fork a process that runs a script's main; returns its number."""
    process = os.fork()
    if process:
        return process
    code = 1
    tqdm.set_lock(threading.RLock())  # the parent's is shared, and stays locked when its holder is killed
    try:
        sys.stdout = sys.stderr = open(log, "a", buffering=1)  # a line is there when its process is killed
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stdout.fileno(), 2)
        sys.argv = [f"{script.__name__}.py", *flags]
        script.main()
        code = 0
    except SystemExit as exit:
        code = exit.code or 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(process, seconds=None):
    """Exit code of a process, or None if it has to be killed after some seconds."""
    due = None if seconds is None else time.monotonic() + seconds
    while due is None or time.monotonic() < due:
        number, status = os.waitpid(process, os.WNOHANG if due else 0)
        if number:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(process, 9)
    os.waitpid(process, 0)
    return None


def differences(undisturbed, killed):
    """What two run folders do not share, bit for bit, but for times, the run's id, and F, which another run may have added."""
    states = [torch.load(folder / BEST_MODEL, weights_only=True) for folder in (undisturbed, killed)]
    found = [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
    found += sorted(states[0].keys() ^ states[1].keys())
    found += [BEST_MODEL] * (len({(folder / BEST_MODEL).read_bytes() for folder in (undisturbed, killed)}) > 1)
    histories = [pd.read_csv(folder / HISTORY).drop(columns="seconds") for folder in (undisturbed, killed)]
    metrics = [read_json(folder / METRICS) | {"seconds_training": 0, "run": ""} for folder in (undisturbed, killed)]
    predictions = [(folder / PREDICTIONS).read_bytes() for folder in (undisturbed, killed)]
    found += [HISTORY] * (not histories[0].equals(histories[1]))
    found += [METRICS] * (metrics[0] != metrics[1]) + [PREDICTIONS] * (predictions[0] != predictions[1])
    kept = [{path.name for path in folder.iterdir() if "partial" not in path.name} for folder in (undisturbed, killed)]
    return found + sorted(name for name in kept[0] ^ kept[1] if not name.startswith(("fisher-", "mas-")))


def stress(setting, args, folder, generator, bar):
    """Kill a method's run until there are enough kills; returns the counts."""
    method = METHODS[setting]
    log = folder / "log"
    shared = ["--cpu", "--num_workers=0", "--batch_size=16", f"--num_epochs={args.num_epochs}", "--lr=5e-4"]
    shared += [f"--data_root={folder.parent / 'data'}", *(f"--{of}_model={args.encoders / of}" for of in ("text", "speech"))]

    def start_in(root, of=method, task="KEMDy20", more=()):
        script = import_module(of.script.removesuffix(".py"))
        return start(script, [f"--task={task}", f"--output_root={root}", *more, *shared, *of.flags], log)

    # Features of a frozen encoder are shared, as they are between runs.
    more = [] if method.model == "fusion" else [f"--speech_cache={folder / 'features'}"]
    if method.how == SEQUENCE:
        wait(start_in(folder / "first", METHODS[method.starts_from], "KEMDy19", more))
        more += [f"--checkpoint={run_folder(folder / 'first', method.starts_from, 0, 'KEMDy19') / BEST_MODEL}"]
    began = time.monotonic()
    if wait(start_in(folder / "alone", more=more)):
        raise UserError(f"the run of {setting} that was left alone failed: see {log.read_text()}")
    alone = time.monotonic() - began
    counts = {"setting": setting, "kills": 0, "resumes": 0, "runs": 0, "identical": 0}
    while counts["kills"] < args.kills:
        killed, code = folder / f"killed{counts['runs']}", None
        while code is None:
            seconds = generator.random() * alone if counts["kills"] < args.kills else None
            code = wait(start_in(killed, more=more), seconds)
            counts["kills"] += code is None
            bar.update(code is None)
        if code:
            raise UserError(f"a run ended with code {code}: {log.read_text()}")
        counts["runs"] += 1
        different = differences(*(run_folder(root, setting, 0, "KEMDy20") for root in (folder / "alone", killed)))
        if different:
            raise UserError(f"{killed} and {folder / 'alone'} differ in {', '.join(different)}")
        counts["identical"] += 1
        shutil.rmtree(killed)
    return counts | {"resumes": log.read_text().count("resuming after epoch"), "seconds": round(time.monotonic() - began)}


@one_line_errors
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    trained = [name for name, method in METHODS.items() if method.how != COMBINED]
    parser.add_argument("--settings", nargs="+", choices=trained, default=list(PAPER), help="which methods")
    parser.add_argument("--kills", type=int, default=50, help="kills of each")
    parser.add_argument("--encoders", type=Path, default=ROOT / "data" / "demo" / "encoders", help="text/ and speech/")
    parser.add_argument("--num_epochs", type=int, default=5, help="epochs of each run")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    args = parser.parse_args()
    if not args.encoders.is_dir():
        raise UserError(f"--encoders {args.encoders}: there is no such folder; bash run-demo.sh makes the demonstration's")
    generator, table = random.Random(args.seed), []
    with (
        tempfile.TemporaryDirectory(prefix="stress-") as folder,
        tqdm(total=args.kills * len(args.settings), desc="kills", disable=None) as bar,
    ):
        make_kemdy19(Path(folder) / "data" / "KEMDy19", sessions=6, utterances=30)
        make_kemdy20(Path(folder) / "data" / "KEMDy20", sessions=6, utterances=30)
        for setting in args.settings:
            (Path(folder) / setting).mkdir()
            table.append(stress(setting, args, Path(folder) / setting, generator, bar))
    print(pd.DataFrame(table).to_string(index=False))


if __name__ == "__main__":
    main()
