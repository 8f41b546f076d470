"""The grid of runs as commands, on one machine's devices, and as Slurm arrays."""

import os
import re
import shlex
import shutil

import pytest
from conftest import ROOT, RUN_SCRIPTS, digest, flags, folder, read, shell

from utils.data.kemdy import CORPORA
from utils.training.arguments import training_parser


def test_dry_run_prints_the_commands_of_every_run_script():
    for script in RUN_SCRIPTS:
        done = shell("bash", script, "--data_root", "a folder", DRY_RUN="1", FOLDS="0 3", SEEDS="12 13", LAMBDAS="10")
        assert done.returncode == 0, done.stderr
        commands = [shlex.split(line) for line in done.stdout.splitlines()]
        tasks = 1 if script == "run-joint.sh" else 2
        assert len(commands) == len({tuple(command) for command in commands}) == 2 * 2 * tasks
        for command in commands:
            parser = training_parser("", "any", tasks=(*CORPORA, "joint"))
            args = parser.parse_known_args(command[2:])[0]
            assert os.path.exists(command[1]) and str(args.data_root) == "a folder" and args.num_fold in (0, 3)
            assert args.exp_name.endswith("-seed13") == (args.seed == 13)


def test_the_grid_gives_every_run_a_device(tmp_path):
    # LAUNCH stands in for Python: each run prints the device that it was given.
    done = shell("bash", "run-grid.sh", "--lr", "1e-4", GPUS="3", LAUNCH="printenv CUDA_VISIBLE_DEVICES ; echo", FOLDS="0 1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    runs = [line for line in lines if line.startswith(("continual", "finetune", "ewc", "adapter"))]
    assert len(runs) == len(set(runs)) == 2 * 2 * 5 + 2 and all("--lr 1e-4" in run for run in runs)
    assert {line for line in lines if line.isdigit()} == {"0", "1", "2"}
    # What starts from task_a comes after it.
    first = [index for index, run in enumerate(runs) if run.startswith(("finetune", "ewc"))][0]
    assert sum("--exp_name task_a" in run for run in runs[:first]) == 4
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")  # without a card, or not there at all
    (tmp_path / "nvidia-smi").chmod(0o755)
    for none in ({"GPUS": "0"}, {"PATH": f"{tmp_path}:{os.environ['PATH']}"}):
        done = shell("bash", "run-grid.sh", LAUNCH="false", **none)
        assert done.returncode == 1 and done.stderr.startswith("error: no GPU found; "), done


def test_the_grid_keeps_to_the_devices_that_are_named():
    launch = {"LAUNCH": "printenv CUDA_VISIBLE_DEVICES ; echo", "FOLDS": "0"}
    done = shell("bash", "run-grid.sh", CUDA_VISIBLE_DEVICES="5,GPU-2f", **launch)
    assert done.returncode == 0 and {line for line in done.stdout.splitlines() if " " not in line} == {"5", "GPU-2f"}
    done = shell("bash", "run-grid.sh", CUDA_VISIBLE_DEVICES="5", GPUS="2", **launch)
    assert done.returncode == 1 and done.stderr == "error: GPUS=2, and CUDA_VISIBLE_DEVICES names 1\n"


def test_the_grid_in_a_dry_run_starts_nothing(tmp_path):
    done = shell("bash", "run-grid.sh", DRY_RUN="1", FOLDS="0", LAUNCH=f"touch {tmp_path}/started")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2 * 5 + 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("GPUS", "all", "not a number"), ("EXP_NAME", "x", "unset it"), ("SEEDS", "012", "not a number")],
)
def test_odd_values_in_the_environment_are_one_line(name, value, told):
    done = shell("bash", "run-init.sh" if name == "SEEDS" else "run-grid.sh", **{"GPUS": "1", "LAUNCH": "false", name: value})
    assert done.returncode == 1 and told in done.stderr and value in done.stderr and done.stderr.count("\n") == 1


def test_the_grid_says_that_a_run_failed():
    done = shell("bash", "run-grid.sh", GPUS="2", LAUNCH="false", FOLDS="0")
    assert done.returncode == 1 and "a run failed" in done.stderr


# Arrays that are never empty.
FILLED = {"run", "command"}
# What bash 3.2, which macOS has, does not know.
NEWER = r"readarray|mapfile|declare -A|local -n|\bwait -n\b|\$\{\w+@\w\}|\$\{\w+(\^|,)|\|&|&>>|\[-1\]|EPOCH"


def test_old_bashes_can_run_every_script():
    scripts = [path for pattern in ("*.sh", "utils/shell/*.sh", "slurm/*") for path in ROOT.glob(pattern)]
    assert len(scripts) > 12
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        # Before 4.4 an empty array is "unbound" under set -u, unless it is written ${array[@]+"${array[@]}"}.
        arrays = set(re.findall(r'(?<!\[@\]\+)"\$\{(\w+)\[@\]\}"', text))
        assert arrays <= FILLED, (path, arrays)
        assert not re.search(NEWER, re.sub(r"(?m)#.*", "", text)), path


@pytest.mark.parametrize("script", [*RUN_SCRIPTS, "run-grid.sh"])
def test_a_dry_run_elsewhere_gives_commands_for_there(script, tmp_path):
    done = shell("bash", str(ROOT / script), "--text_model", "a/b", DRY_RUN="1", FOLDS="0", SPEECH_MODEL="c d", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    parser = training_parser("", "any", tasks=(*CORPORA, "joint"))
    for line in done.stdout.splitlines():
        _, file, *words = shlex.split(line)
        args = parser.parse_known_args(words)[0]
        assert os.path.isabs(file) and os.path.exists(file)
        # What is named is as it was named, and the rest is the repository's.
        assert (args.text_model, args.speech_model) == ("a/b", "c d")
        assert (args.data_root, args.output_root) == (ROOT / "data", ROOT / "outputs")


def test_paths_in_flags_are_the_callers(outputs, data_root, encoders, tmp_path):
    (tmp_path / "corpora").symlink_to(data_root)
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "text").symlink_to(encoders / "text")
    small = flags("corpora", encoders, "~/runs")
    small[small.index("--text_model") + 1] = "my/text"
    done = shell(
        "bash", str(ROOT / "run-adapter.sh"), *small, FOLDS="0", TASKS="KEMDy19", HOME=str(tmp_path), cwd=tmp_path
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = folder(tmp_path / "runs", "adapter", "KEMDy19")
    assert digest(made / "best_model.pt") == digest(folder(outputs, "adapter", "KEMDy19") / "best_model.pt")
    arguments = read(made / "config.json")["arguments"]
    # Whole, so that the run can be understood from anywhere.
    assert arguments["data_root"] == str(tmp_path / "corpora") and arguments["text_model"] == str(tmp_path / "my" / "text")
    again = shell(
        "bash", str(ROOT / "run-adapter.sh"), *flags(tmp_path / "corpora", encoders, "runs"), "--text_model", "my/text",
        FOLDS="0", TASKS="KEMDy19", cwd=tmp_path,
    )  # fmt: skip
    assert again.returncode == 0 and "is finished: skipped" in again.stdout, again


def test_a_failed_run_is_named_as_a_command(tmp_path):
    done = shell("bash", "run-init.sh", "--exp_name", "x; touch F", LAUNCH="false", FOLDS="0")
    assert done.returncode == 1
    assert shlex.split(done.stderr.split("failed: ")[1])[-2:] == ["--exp_name", "x; touch F"]


def slurm(tmp_path, *arguments, **environment):
    """Submit with an sbatch that writes down how it is called."""
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(f'#!/bin/sh\necho "$TASKS|$FOLDS|$SEEDS|$*" >> {tmp_path}/called\nwc -l < {tmp_path}/called\n')
    fake.chmod(0o755)
    path = f"{fake.parent}:{os.environ['PATH']}"
    return shell("bash", "slurm/submit.sh", *arguments, PATH=path, **environment)


def test_slurm_arrays_wait_for_what_they_start_from(tmp_path):
    done = slurm(tmp_path, "--partition", "gpu", "--", "--lr", "1e-4", FOLDS="0 2")
    assert done.returncode == 0, done.stderr
    calls = [line.split("|") for line in (tmp_path / "called").read_text().splitlines()]
    of_script = {call[3].split("slurm/run.sbatch ")[1].split()[0]: call for call in calls}
    assert set(of_script) == set(RUN_SCRIPTS) - {"run-ewc-lambda.sh"}
    assert "--dependency" not in of_script["run-init.sh"][3] and "--array=0-3" in of_script["run-init.sh"][3]
    for script in ("run-finetune.sh", "run-ewc.sh"):
        assert "--dependency=aftercorr:1 " in of_script[script][3]
        # Index by index the other corpus: aftercorr waits for the run that each starts from.
        assert of_script[script][0].split() == of_script["run-init.sh"][0].split()[::-1]
    assert "--array=0-1" in of_script["run-joint.sh"][3] and of_script["run-joint.sh"][0] == "joint"
    assert all("--partition gpu" in call[3] and call[3].endswith("--lr 1e-4") for call in calls)


def test_an_array_index_is_one_run(tmp_path):
    seen = set()
    for index in range(4):
        done = shell(
            "bash", "slurm/run.sbatch", "run-finetune.sh", "--lr", "1e-4", SLURM_ARRAY_TASK_ID=str(index), DRY_RUN="1",
            FOLDS="0 2", TASKS="KEMDy20 KEMDy19", SLURM_SUBMIT_DIR=".",
        )  # fmt: skip
        (line,) = done.stdout.splitlines()
        seen.add((line.split("--task ")[1].split()[0], line.split("--num_fold ")[1].split()[0]))
    assert seen == {(task, fold) for task in CORPORA for fold in "02"}
    beyond = shell("bash", "slurm/run.sbatch", "run-init.sh", SLURM_ARRAY_TASK_ID="10", DRY_RUN="1")
    assert beyond.returncode == 2 and "beyond 5 folds of 2 tasks" in beyond.stderr


def test_slurm_runs_what_was_submitted_from_elsewhere(tmp_path):
    command = ("bash", str(ROOT / "slurm" / "submit.sh"), "--", "--data_root", "corpora")
    done = shell(*command, DRY_RUN="1", FOLDS="0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = shlex.split(done.stderr.splitlines()[0])
    assert f"--output={ROOT}/outputs/slurm-%x-%A_%a.log" in first and not list(tmp_path.iterdir())
    # Slurm copies the script elsewhere, and starts it where sbatch was called.
    script = next(index for index, word in enumerate(first) if word.endswith("run.sbatch"))
    copy = tmp_path / "slurm_script"
    shutil.copy(first[script], copy)
    job = {"SLURM_ARRAY_TASK_ID": "0", "DRY_RUN": "1", "FOLDS": "0", "cwd": tmp_path}
    done = shell("bash", str(copy), *first[script + 1 :], **job)
    assert done.returncode == 0 and f" {ROOT}/continual_learning_init.py " in done.stdout, done.stderr
    assert done.stdout.rstrip().endswith("--data_root corpora")
    for missing in (["run-init.sh"], []):
        done = shell("bash", str(copy), *missing, **job)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "name it with its path" in done.stderr


def test_without_slurm_it_says_so_and_dry_run_shows_the_commands():
    done = shell("bash", "slurm/submit.sh", DRY_RUN="1", SEEDS="12 13")
    assert done.returncode == 0 and done.stderr.count("sbatch --parsable") == 12
