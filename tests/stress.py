"""Kill runs with SIGKILL at random moments, start them again, and compare what they end with to runs left alone.

``python tests/stress.py --kills 50`` with the demonstration's encoders (bash run-demo.sh makes them) on small corpora of noise.
Each start is a process forked from one that has imported everything, so that a kill costs no import; it calls the script's own
main. A third of the kills comes at any moment, a third when a file is seen half written, a third when one has just taken its
place.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["OMP_NUM_THREADS"] = "1"  # a fork has no threads; sums in another order would differ in their last bits

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from lookalike import make_kemdy19, make_kemdy20  # noqa: E402
from tqdm import tqdm  # noqa: E402

import adapter  # noqa: E402
import continual_learning_init  # noqa: E402
import ewc  # noqa: E402
import finetune  # noqa: E402
from utils.errors import UserError, one_line_errors  # noqa: E402
from utils.files import BEST_MODEL, HISTORY, METRICS, PREDICTIONS, read_json, run_folder  # noqa: E402

SETTINGS = {
    "task_a": (continual_learning_init, []),
    "finetune": (finetune, []),
    "ewc": (ewc, []),
    "adapter": (adapter, ["--lr", "4e-3", "--num_epochs", "20"]),
    "adapter_wo_pretraining": (adapter, ["--lr", "4e-3", "--num_epochs", "20", "--without_pretraining"]),
}
RESUMING = "resuming after epoch"
MOMENTS = ("any moment", "inside a write", "between two files")


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


def left(process):
    """Exit code of a process that has ended, else None."""
    number, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if number else None


def kill(process, folder, moment, seconds, generator):
    """SIGKILL a process at a moment: ``seconds`` from now, or after that when the folder's files say so.

    Returns:
        True if it was killed, False if it ended before; a UserError if it ended badly.
    """
    due = time.monotonic() + seconds
    before = None
    while True:
        code = left(process)
        if code is not None:
            if code:
                raise UserError(f"a run ended with code {code}: see {folder.parents[3] / 'log'}")
            return False
        if time.monotonic() >= due:
            if moment == "any moment":
                break
            partial, whole = files(folder)
            if moment == "inside a write" and partial:
                time.sleep(generator.random() * 0.004)
                break
            if moment == "between two files" and before is not None and whole != before:
                time.sleep(generator.random() * 0.004)
                break
            before = whole
            time.sleep(0.0002)
        else:
            time.sleep(min(0.005, max(0.0, due - time.monotonic())))
    os.kill(process, 9)
    os.waitpid(process, 0)
    return True


def files(folder):
    """(is a file half written?, the time of change of every whole one)."""
    try:
        entries = [(entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(folder)]
    except OSError:  # not there yet, or a file went between being listed and being looked at
        return False, None
    return any(name.endswith(".partial") for name, _ in entries), {pair for pair in entries if not pair[0].endswith(".partial")}


def differences(undisturbed, killed):
    """What two run folders do not share, bit for bit, but for times and the run's id."""
    states = [torch.load(folder / BEST_MODEL, weights_only=True) for folder in (undisturbed, killed)]
    found = [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
    found += sorted(states[0].keys() ^ states[1].keys())
    found += [BEST_MODEL] * (len({(folder / BEST_MODEL).read_bytes() for folder in (undisturbed, killed)}) > 1)
    histories = [pd.read_csv(folder / HISTORY).drop(columns="seconds") for folder in (undisturbed, killed)]
    metrics = [read_json(folder / METRICS) | {"seconds_training": 0, "run": ""} for folder in (undisturbed, killed)]
    predictions = [(folder / PREDICTIONS).read_bytes() for folder in (undisturbed, killed)]
    found += [HISTORY] * (not histories[0].equals(histories[1]))
    found += [METRICS] * (metrics[0] != metrics[1]) + [PREDICTIONS] * (predictions[0] != predictions[1])
    listed = [
        {path.name for path in folder.iterdir() if not path.name.endswith(".partial")} for folder in (undisturbed, killed)
    ]
    return found + sorted(listed[0] ^ listed[1])


def stress(setting, args, folder, generator, bar):
    """Kill a setting's run until there are enough kills; returns the counts."""
    script, more = SETTINGS[setting]
    flags = [*("--task", "KEMDy20", "--cpu", "--num_workers", str(args.num_workers), "--batch_size", "16", "--lr", "5e-4")]
    flags += ["--num_epochs", str(args.num_epochs), "--data_root", str(folder.parent / "data")]
    flags += [f"--{kind}_model={args.encoders / kind}" for kind in ("text", "speech")] + more
    if script in (finetune, ewc):
        checkpoint = run_folder(folder / "first", "task_a", 0, "KEMDy19") / BEST_MODEL
        flags += ["--checkpoint", str(checkpoint)]
        if not checkpoint.exists():
            first = [*flags[:-2], "--task", "KEMDy19", "--output_root", str(folder / "first")]
            os.waitpid(start(continual_learning_init, first, folder / "log"), 0)

    def run_in(name):
        # Features are shared, as they are between runs.
        root = folder / name
        cache = ["--speech_cache", str(folder / "features")] if script is adapter else []
        return run_folder(root, setting, 0, "KEMDy20"), [*flags, *cache, "--output_root", str(root)]

    undisturbed, command = run_in("undisturbed")
    began = time.monotonic()
    os.waitpid(start(script, command, folder / "log"), 0)
    alone = time.monotonic() - began
    if not (undisturbed / METRICS).exists():
        raise UserError(f"the undisturbed run of {setting} did not finish: see {folder / 'log'}")
    counts = {"setting": setting, "kills": 0, **dict.fromkeys(MOMENTS, 0), "found half written": 0, "resumes": 0, "runs": 0}
    counts["identical"] = 0
    while counts["kills"] < args.kills:
        log = folder / "log"
        log.write_text("")
        killed, command = run_in(f"killed{counts['runs']}")
        finished = False
        while not finished:
            process = start(script, command, log)
            if counts["kills"] >= args.kills:  # enough: this start may finish
                kill(process, killed, "any moment", float("inf"), generator)
                break
            moment = MOMENTS[counts["kills"] % 3]
            finished = not kill(process, killed, moment, generator.random() * alone * args.patience, generator)
            if not finished:
                counts["kills"] += 1
                counts[moment] += 1
                counts["found half written"] += files(killed)[0]
                bar.update()
        counts["runs"] += 1
        counts["resumes"] += log.read_text().count(RESUMING)
        different = differences(undisturbed, killed)
        if different:
            raise UserError(f"{killed} and {undisturbed} differ in {', '.join(different)}")
        counts["identical"] += 1
        shutil.rmtree(folder / f"killed{counts['runs'] - 1}")
    return counts | {"seconds": round(time.monotonic() - began)}


@one_line_errors
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="which settings")
    parser.add_argument("--kills", type=int, default=50, help="kills of each setting")
    parser.add_argument("--encoders", type=Path, default=ROOT / "data" / "demo" / "encoders", help="text/ and speech/")
    parser.add_argument("--num_epochs", type=int, default=5, help="epochs of each run")
    parser.add_argument("--num_workers", type=int, default=0, help="threads that read wavs")
    parser.add_argument("--patience", type=float, default=0.8, help="a start lives at most so many times a whole run")
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
            tqdm.write(", ".join(f"{name} {value}" for name, value in table[-1].items()))
    print(pd.DataFrame(table).to_string(index=False))


if __name__ == "__main__":
    main()
