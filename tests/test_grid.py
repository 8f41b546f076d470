"""Run scripts, the grid on one machine's devices, Slurm arrays and the demonstration, as the commands that they give."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT, shell

from utils.methods import COMBINED, KEMDY, METHODS, SEQUENCE

TRAINED = {name: method for name, method in METHODS.items() if method.how != COMBINED}
SEQUENCES = [name for name, method in TRAINED.items() if method.how == SEQUENCE]
RUN_SCRIPTS = (*filter(None, (method.run_script for method in TRAINED.values())), "run-ewc-lambda.sh")


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


@pytest.fixture()
def fake(tmp_path):
    """Environment with a Python that has what is asked for, trains nothing, writes down its calls, and knows three corpora."""
    text = f"""case "$*" in
        *requirements.py) ;;
        "-c import sys; print(sys.executable)") echo "$0" ;;
        "-m utils.methods"* | "-P -m utils.results.tuning"* | -I*) exec '{sys.executable}' "$@" ;;
        *"-m utils.data.corpus"*) echo "$*" >> '{tmp_path}/corpora'
          case "$*" in *" A B"*) printf '0 1\\nhappy\\nvery sad\\n' ;; *" B") echo '0 1 2' ;; *) echo 0 ;; esac ;;
        *) echo "$*" >> '{tmp_path}/called' ;;
        esac
        """
    return {"VIRTUAL_ENV": str(executable(tmp_path / "fake env" / "bin" / "python", text).parent.parent)}


def commands(script, *flags, **environment):
    """What a dry run prints, as lists of words."""
    done = shell("bash", *str(script).split(), *flags, DRY_RUN="1", **environment)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def value(words, flag):
    """What argparse makes of a flag: the words after its last occurrence, up to the next flag."""
    after = words[len(words) - words[::-1].index(flag) :]
    return " ".join(after[: next((index for index, word in enumerate(after) if word.startswith("--")), None)])


@pytest.mark.parametrize("script", RUN_SCRIPTS)
def test_a_dry_run_prints_the_commands(script, tmp_path):
    choice = {"FOLDS": "0 3", "SEEDS": "12 13", "LAMBDAS": "10", "SPEECH_MODEL": "c d"}
    here = commands(script, "--data_root", "a folder", **choice)
    assert len(here) == len(set(map(tuple, here))) == 2 * 2 * (1 if script == "run-joint.sh" else 2)
    for words in here:
        assert os.path.exists(ROOT / words[1]) and value(words, "--data_root") == "a folder"
        assert value(words, "--num_fold") in "03" and value(words, "--speech_model") == "c d"
        suffix = "" if value(words, "--seed") == "12" else "-seed13"
        assert value(words, "--exp_name") == value(words, "--experiment") + suffix
        assert not {"--after", "--with", "--labels"} & set(words)
    # From elsewhere, what is named is as it was named, and the rest is the repository's.
    for words in commands(ROOT / script, "--text_model", "a/b", **choice, cwd=tmp_path):
        assert os.path.isabs(words[1]) and os.path.exists(words[1]) and value(words, "--text_model") == "a/b"
        assert (value(words, "--data_root"), value(words, "--output_root")) == (f"{ROOT}/data", f"{ROOT}/outputs")


@pytest.mark.parametrize(("flags", "name"), [(("--exp_name", "mine"), "mine"), ((), "ewc_500-seed13")])
def test_an_experiment_is_named_without_its_seed(flags, name):
    (words,) = commands("run-ewc.sh", *flags, FOLDS="0", TASKS="KEMDy20", SEEDS="13", EXP_NAME="ewc_500")
    assert value(words, "--exp_name") == name and value(words, "--experiment") == name.removesuffix("-seed13")


ALONE, LATER = ["--task A", "--task B", "--task C"], ["--task B --after A", "--task C --after A B"]
GENERIC = "run.sh"
STEPS = {"run-init.sh": ALONE, "run-adapter.sh": ALONE, "run-ewc.sh": LATER, f"{GENERIC} lwf": LATER}
STEPS["run-joint.sh"] = ["--task joint --with A B", "--task joint --with A B C"]


@pytest.mark.parametrize("script", STEPS)
def test_an_order_is_run_step_by_step(script, fake, tmp_path):
    found = commands(script, "--data_root=my data", ORDER="A B C", **fake)
    assert [" ".join(words).split(" --num_fold")[0].split(".py ")[1] for words in found] == STEPS[script] * 2
    assert [value(words, "--num_fold") for words in found] == [fold for fold in "01" for _ in STEPS[script]]
    # One classifier has the classes of all; adapters have their own.
    labels = [words[words.index("--labels") + 1 :][:2] for words in found if "--labels" in words]
    assert labels == ([] if "adapter" in script else [["happy", "very sad"]] * len(found))
    assert "--data_root my data A B C" in (tmp_path / "corpora").read_text()
    (last,) = commands(script, ORDER="A B C", TASKS="C", FOLDS="7", **fake)
    assert STEPS[script][-1] in " ".join(last) and value(last, "--num_fold") == "7"
    assert all("--labels" not in words for words in commands(script, ORDER="KEMDy20 KEMDy19", FOLDS="0"))
    nothing = shell("bash", *script.split(), DRY_RUN="1", ORDER="A B", TASKS="X", FOLDS="0", **fake)
    assert nothing.returncode == 1 and nothing.stderr.endswith('error: ORDER="A B" TASKS="X" leaves nothing to run\n')
    # Apart, corpora have folds of their own.
    found = commands("run-init.sh", TASKS="C B", **fake)
    assert [value(words, "--task") + value(words, "--num_fold") for words in found] == ["C0", "B0", "B1", "B2"]


def test_a_method_without_a_run_script_and_an_unknown_one():
    (words,) = commands(f"{GENERIC} mas", "--lr", "1", FOLDS="0", TASKS="KEMDy19")
    assert words[-10:] == [*"--batch_size 8 --num_epochs 40 --importance mas --ewc_lambda 2 --lr 1".split()]
    assert commands(f"{GENERIC} ewc", "--lr", "1", FOLDS="0") == commands("run-ewc.sh", "--lr", "1", FOLDS="0")
    done = shell("bash", GENERIC, "nothing", DRY_RUN="1")
    assert done.returncode == 1 and done.stderr.startswith("error: there is no method 'nothing'") and not done.stdout
    listed = [line.split()[0] for line in shell("bash", GENERIC).stdout.split("methods:\n")[1].splitlines()]
    assert listed == list(TRAINED)


OTHERS = ("run-grid.sh", "run-tune.sh", "run-leakage.sh", "slurm/submit.sh", "run-demo.sh", "run-handover.sh")
OTHERS += ("run-tests.sh", "install.sh")


@pytest.mark.parametrize("script", [*RUN_SCRIPTS, GENERIC, *OTHERS])
def test_help_names_variables_and_flags_and_runs_nothing(script, fake, tmp_path):
    done = shell("bash", script, "--help", **fake)
    assert done.returncode == 0 and not done.stderr and done.stdout.startswith((ROOT / script).read_text().split("\n")[1][2:])
    if script in RUN_SCRIPTS:
        names = "FOLDS TASKS ORDER SEEDS TEXT_MODEL SPEECH_MODEL LAUNCH DRY_RUN".split()
        names.append("LAMBDAS" if "lambda" in script else "EXP_NAME")
        assert all(re.search(rf"(?m)^  {name} +\S", done.stdout) for name in names)
        assert re.search("instead of its defaults below: .*--batch_size 8 --num_epochs 40", done.stdout)
        assert re.fullmatch(r"\w+\.py --help\n", (tmp_path / "called").read_text())  # the script's own follows
    assert (tmp_path / "called").exists() == (script in RUN_SCRIPTS)


# LAUNCH stands in for Python: each run prints the device that it was given.
LAUNCH = {"LAUNCH": "printenv CUDA_VISIBLE_DEVICES ; echo"}


def of_runs(text):
    """What runs on several devices have printed, without their numbers."""
    return re.sub(r"(?m)^\d+ \| ", "", text)


def test_the_grid_gives_every_run_a_device(fake, tmp_path):
    done = shell("bash", "run-grid.sh", "--lr", "1e-4", GPUS="3", FOLDS="0 1", **LAUNCH)
    lines = of_runs(done.stdout).splitlines()
    runs = [line for line in lines if ".py " in line]
    assert len(runs) == len(set(runs)) == 2 * 2 * (len(TRAINED) - 1) + 2 and all("--lr 1e-4" in run for run in runs)
    assert {line for line in lines if line.isdigit()} == {"0", "1", "2"}
    # What starts from others comes after them.
    order = [value(run.split(), "--exp_name") for run in runs]
    assert min(map(order.index, SEQUENCES)) == max(len(order) - order[::-1].index(name) for name in set(TRAINED) - {*SEQUENCES})
    # Chosen methods, with what they start from.
    found = commands("run-grid.sh", METHODS="adapter_shared lora", FOLDS="0")
    assert [value(words, "--exp_name") for words in found[::2]] == ["adapter", "lora", "adapter_shared"]
    done = shell("bash", "run-grid.sh", METHODS="ewd", DRY_RUN="1")
    assert done.returncode == 1 and done.stderr.startswith("error: there is no method 'ewd'"), done
    # In an order, a stage is a step, and the corpora are read once.
    done = shell("bash", "run-grid.sh", GPUS="2", ORDER="A B C", METHODS="finetune ewc adapter", **LAUNCH, **fake)
    lines = of_runs(done.stdout).splitlines()
    steps = [line.split("--after ")[1][:3] for line in lines if line.startswith(("finetune", "ewc"))]
    assert done.returncode == 0 and steps == ["A -"] * 4 + ["A B"] * 4
    assert (tmp_path / "corpora").read_text().count("\n") == 1


def test_the_grid_keeps_to_the_devices_that_are_named_or_there(tmp_path):
    done = shell("bash", "run-grid.sh", CUDA_VISIBLE_DEVICES="5,GPU-2f", FOLDS="0", **LAUNCH)
    lines = of_runs(done.stdout).splitlines()
    assert done.returncode == 0 and {line for line in lines if " " not in line} == {"5", "GPU-2f"}
    done = shell("bash", "run-grid.sh", CUDA_VISIBLE_DEVICES="5", GPUS="2", **LAUNCH)
    assert done.returncode == 1 and done.stderr == "error: GPUS=2, and CUDA_VISIBLE_DEVICES names 1\n"
    executable(tmp_path / "nvidia-smi", "exit 9\n")  # without a card, or not there at all
    for none in ({"GPUS": "0"}, {"PATH": f"{tmp_path}:{os.environ['PATH']}"}):
        done = shell("bash", "run-grid.sh", LAUNCH="false", **none)
        assert done.returncode == 1 and done.stderr.startswith("error: no GPU found; "), done
    assert len(commands("run-grid.sh", FOLDS="0", METHODS="ewc joint", LAUNCH=f"touch {tmp_path}/started")) == 2 * 2 + 1
    assert not (tmp_path / "started").exists()


def test_several_runs_share_a_gpu(tmp_path):
    started = tmp_path / "started"
    executable(tmp_path / "nvidia-smi", "echo 'GPU 0: A'; echo 'GPU 1: B'\n")
    # Each run waits for six that run at the same time.
    waiting = 'echo $CUDA_VISIBLE_DEVICES >> "$0.d"; for i in $(seq 100); do [ $(wc -l < "$0.d") = 6 ] && exit; sleep 0.1; done'
    launch = executable(started, f"{waiting}\nexit 1\n")
    path = f"{tmp_path}:{os.environ['PATH']}"
    choice = {"RUNS_PER_GPU": "3", "METHODS": "adapter", "FOLDS": "0 1 2", "LAUNCH": str(launch), "PATH": path}
    dry = shell("bash", "run-grid.sh", DRY_RUN="1", **choice)
    assert dry.stderr == "6 runs at a time, 3 on each of the GPUs 0 1\n" and dry.stdout.count("\n") == 6
    assert not Path(f"{started}.d").exists()
    done = shell("bash", "run-grid.sh", **choice)
    assert done.returncode == 0, done.stderr
    assert sorted(Path(f"{started}.d").read_text().split()) == [*"000111"]


@pytest.mark.parametrize("script", ["run-grid.sh", "run-leakage.sh"])
def test_a_dry_run_whose_reader_has_seen_enough_is_no_failure(script):
    # More than a pipe holds.
    command = f"bash {script} --data_root {'x' * 4000} | head -1"
    done = shell("bash", "-c", command, DRY_RUN="1", METHODS="adapter", FOLDS="0", SEEDS=" ".join(map(str, range(20))))
    assert done.stdout.count("\n") == 1 and ".py --task " in done.stdout and not done.stderr, done.stderr


@pytest.mark.parametrize(
    "odd",
    [
        *("GPUS=all is not a number", "EXP_NAME=x would put", "ORDER=A: a sequence has two", "SEEDS: 012 is not a valid --seed"),
        "RUNS_PER_GPU=0 is not a number",
    ],
)
def test_odd_values_in_the_environment_are_one_line(odd):
    name, value = re.match(r"(\w+)[=:] ?(\w+)", odd).groups()
    done = shell("bash", "run-init.sh" if name == "SEEDS" else "run-grid.sh", **{"GPUS": "1", "LAUNCH": "false", name: value})
    assert done.returncode == 1 and done.stderr.startswith(f"error: {odd}") and done.stderr.count("\n") == 1


def test_a_failed_run_is_named_as_a_command():
    done = shell("bash", "run-init.sh", "--exp_name", "x; touch F", LAUNCH="false", FOLDS="0")
    assert done.returncode == 1 and shlex.split(done.stderr.split("failed: ")[1])[-2:] == ["--exp_name", "x; touch F"]
    done = shell("bash", "run-grid.sh", GPUS="2", LAUNCH="false", FOLDS="0", TASKS="KEMDy19")
    assert done.returncode == 1 and "a run failed" in done.stderr


# A run that tells its process, and ends a moment after TERM with the code of one that resumes.
RUN = "trap 'kill $! 2>/dev/null; sleep 0.3; echo kept; exit 75' TERM; sleep 60 & echo under way $$; wait"


@pytest.mark.parametrize(("number", "to_run"), [("INT", False), ("TERM", False), ("HUP", False), ("TERM", True)])
def test_runs_on_devices_end_with_a_signal_to_all_or_to_one(number, to_run):
    # A shell's background process ignores Ctrl-C, and so would what it starts.
    script = (
        f"printf '%s\\n' \"$1\" \"$1\" 'echo never' '' 'echo never' | '{sys.executable}' -I utils/shell/slots.py 0 1 & wait $!"
    )
    # Under nohup, where these tests may run, what hangs up is to be ignored.
    listening = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    process = subprocess.Popen(
        ["bash", "-c", script, "x", RUN], cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=listening
    )
    runs = [int(process.stdout.readline().split()[-1]) for _ in range(2)]
    parent = int((Path("/proc") / str(runs[0]) / "stat").read_text().split()[3])
    os.kill(runs[0] if to_run else parent, getattr(signal, f"SIG{number}"))
    assert sorted(process.stdout.read().splitlines()) == ["1 | kept", "2 | kept"] and process.wait() == 75


def test_runs_on_devices_wait_for_those_before_an_empty_line():
    lines = "false\nsleep 0.3; echo first $CUDA_VISIBLE_DEVICES\n\n\necho second; exit 3\ncat; echo third\n"
    command = [sys.executable, "-I", "utils/shell/slots.py", "a"]
    done = subprocess.run(command, cwd=ROOT, input=lines, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "2 | first a\n3 | second\n4 | third\n")
    told = done.stderr.splitlines()
    assert [line for line in told if "failed" in line] == [
        f"failed with exit code {what}" for what in ("1: false", "3: echo second; exit 3")
    ]
    assert told[0].startswith("1 of 4 runs are done, about 0 min left") and told[-1] == "4 of 4 runs are done"


def submitted(tmp_path, *arguments, **environment):
    """Submit with an sbatch that writes down how it is called: {method: [(job id, TASKS, words)]}."""
    path = executable(tmp_path / "bin" / "sbatch", f'echo "$TASKS|$*" >> {tmp_path}/sent\nwc -l < {tmp_path}/sent\n')
    done = shell("bash", "slurm/submit.sh", *arguments, PATH=f"{path.parent}:{os.environ['PATH']}", **environment)
    assert done.returncode == 0, done.stderr
    calls = {}
    for number, line in enumerate((tmp_path / "sent").read_text().splitlines(), 1):
        tasks, _, words = line.partition("|")
        calls.setdefault(words.split("--job-name=")[1].split()[0], []).append((number, tasks, words))
    return calls


def test_slurm_arrays_wait_for_what_they_start_from(tmp_path):
    calls = submitted(tmp_path, "--partition", "gpu", "--", "--lr", "1e-4", FOLDS="0 2", SEEDS="12 13")
    assert set(calls) == set(TRAINED)
    for name, ((_, tasks, words),) in calls.items():
        assert f"--array=0-{3 if name == 'joint' else 7} " in words and "--partition gpu" in words
        assert words.endswith(f"slurm/run.sbatch {METHODS[name].run_script or f'run.sh {name}'} --lr 1e-4")
        # Index by index the other corpus: aftercorr waits for the run that each starts from.
        assert (tasks.split() == [*KEMDY][::-1]) == (name in SEQUENCES) == ("--dependency" in words)
        if name in SEQUENCES:
            assert f"--dependency=aftercorr:{calls[METHODS[name].starts_from][0][0]} " in words


def test_a_printed_slurm_command_trains_the_encoders_that_were_named(tmp_path):
    models = {"TEXT_MODEL": "klue/bert-base", "SPEECH_MODEL": "my wavlm"}
    executable(tmp_path / "sbatch", 'echo "$TEXT_MODEL, $SPEECH_MODEL"\n')
    done = shell("bash", "slurm/submit.sh", DRY_RUN="1", FOLDS="0", METHODS="finetune", **models)
    assert done.returncode == 0 and done.stderr.count("\n") == 2
    pasted = shell("bash", "-c", done.stderr, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert pasted.stdout == "klue/bert-base, my wavlm\n" * 2


def test_slurm_gets_an_array_a_step(tmp_path, fake):
    calls = submitted(tmp_path, ORDER="A B C", METHODS="finetune ewc adapter joint", **fake)
    assert set(calls) == {"task_a", "finetune", "ewc", "adapter", "joint"}
    (start, _, _), *_ = calls["task_a"]
    assert [tasks for _, tasks, _ in calls["task_a"]] == ["A", "B", "C"]
    for (second, tasks, words), (_, last, waiting) in (calls["finetune"], calls["ewc"]):
        assert (tasks, last) == ("B", "C") and "--array=0-1 " in words
        assert f"--dependency=aftercorr:{start} " in words and f"--dependency=aftercorr:{second} " in waiting
    assert len(calls["adapter"]) == 3 and "--array=0-3 " in calls["joint"][0][2]


def test_an_array_index_is_a_line_of_the_dry_run():
    choice = {"FOLDS": "0 2", "TASKS": "KEMDy20 KEMDy19"}
    lines = commands("run-finetune.sh", "--lr", "1", **choice)
    for script in ("run-finetune.sh", f"{GENERIC} finetune"):  # by its run script, too
        job = f"slurm/run.sbatch {script}"
        assert lines == [commands(job, "--lr", "1", SLURM_ARRAY_TASK_ID=str(i), **choice)[0] for i in range(4)]
        beyond = shell("bash", *job.split(), SLURM_ARRAY_TASK_ID="4", DRY_RUN="1", **choice)
        assert beyond.returncode == 1 and beyond.stderr.startswith("error: index 4, and ") and not beyond.stdout


def test_slurm_runs_what_was_submitted_from_elsewhere(tmp_path):
    done = shell("bash", f"{ROOT}/slurm/submit.sh", "--", "--data_root", "corpora", DRY_RUN="1", FOLDS="0", cwd=tmp_path)
    first = shlex.split(done.stderr.splitlines()[0])
    assert f"--output={ROOT}/outputs/slurm-%x-%A_%a.log" in first and not list(tmp_path.iterdir())
    # Slurm copies the script elsewhere, and starts it where sbatch was called.
    copy, job = tmp_path / "slurm_script", {"SLURM_ARRAY_TASK_ID": "0", "FOLDS": "0", "cwd": tmp_path}
    script = first.index(f"{ROOT}/slurm/run.sbatch")
    shutil.copy(first[script], copy)
    (words,) = commands(copy, *first[script + 1 :], **job)
    assert words[1] == f"{ROOT}/continual_learning_init.py" and words[-2:] == ["--data_root", "corpora"]
    for missing in (["run-init.sh"], []):
        done = shell("bash", str(copy), *missing, **job)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "name it with its path" in done.stderr


def test_a_new_method_is_in_the_grid_where_a_bare_python_is_all_there_is(tmp_path):
    root, entry = tmp_path / "a copy", 'Method("pull", "pull.py", SEQUENCE, "fusion", "", "", flags=("--pull", "a b")),'
    for name in ("utils/shell", "slurm"):
        shutil.copytree(ROOT / name, root / name)
    for path in (*ROOT.glob("run*.sh"), ROOT / "requirements.txt", *ROOT.glob("utils/*.py")):
        shutil.copy(path, root / path.relative_to(ROOT))
    methods = root / "utils" / "methods.py"
    methods.write_text(methods.read_text().replace("for method in (\n", f"for method in (\n{entry}\n"))
    executable(tmp_path / "bin" / "python3", f"exec '{sys.executable}' -S \"$@\"\n")
    only = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "VIRTUAL_ENV": "", "CONDA_PREFIX": "", "FOLDS": "0", "cwd": root}
    found = commands("run-grid.sh", "--lr", "1", **only)
    pulled = [words for words in found if words[1] == "pull.py"]
    assert len(found) == 2 * len(TRAINED) + 1 and len(pulled) == 2 and all(value(words, "--pull") == "a b" for words in pulled)
    done = shell("bash", "slurm/submit.sh", DRY_RUN="1", **only)
    assert done.returncode == 0 and done.stderr.count("sbatch --parsable") == len(TRAINED) + 1, done.stderr
    assert done.stderr.count("slurm/run.sbatch run.sh pull") == 1
    # The demonstration would make the environment first.
    venv, install, path, material, *_ = commands("run-demo.sh", **only)
    assert venv[1:] == ["-m", "venv", "--clear", f"{root}/.venv"] and install[-2:] == ["-r", f"{root}/requirements.lock"]
    assert path == [f"PATH={root}/.venv/bin:$PATH"] and material[2:] == ["python", "-P", "-m", "utils.demo", "data/demo"]
    assert not {"outputs", "data", ".venv"} & {path.name for path in root.iterdir()}


DEMO = {
    "": ("made/figures", 22),
    "--full": ("made/figures", 199),
    "--full --publish": ("figures/demo", 199),
    "--tune": (None, 198),
    "--leakage": (None, 216),
    "--publish": (None, 0),
    "--tune --publish": (None, 0),
}


@pytest.mark.parametrize("flags", DEMO)
def test_the_demonstration_draws_tracked_figures_only_when_it_is_told_to(flags, fake, tmp_path):
    figures, expected = DEMO[flags]
    done = shell("bash", "run-demo.sh", *flags.split(), DEMO_DATA="material", DEMO_OUTPUTS="made", **fake)
    if not expected:
        assert done.returncode == 2 and done.stderr == "usage: bash run-demo.sh [--full | --tune | --leakage] [--publish]\n"
        return
    calls = [line.split() for line in (tmp_path / "called").read_text().splitlines()]
    runs = [words for words in calls if "--num_epochs" in words]
    assert done.returncode == 0 and len(runs) == expected, done.stderr
    assert {value(words, "--num_epochs") for words in runs} == {"6", "12"} and all("--cpu" in words for words in runs)
    combined = [words for words in calls if "utils.results.combine" in words]
    assert [value(words, "--folds") for words in combined] == ["0 1 2 3 4"] * flags.startswith("--full")
    assert [value(words, "--figures") for words in calls if "--figures" in words] == ([figures] if figures else [])
    assert sum(Path(words[0]).name == "leakage.py" for words in calls) == (flags == "--leakage")
    # Trials are on other corpora than those that are shown.
    assert {value(words, "--data_root").startswith("material/tuning") for words in runs} == {flags == "--tune"}


@pytest.mark.parametrize("flags", ["", "--full", "--leakage"])
def test_a_dry_run_of_the_demonstration_makes_nothing(flags, fake, tmp_path):
    where = {"DEMO_DATA": f"{tmp_path}/material", "DEMO_OUTPUTS": f"{tmp_path}/made"}
    making, *found = commands("run-demo.sh", *flags.split(), **where, **fake)
    assert making[0] == "env" and "utils.demo" in making
    assert sum("--num_epochs" in words for words in found) == DEMO[flags][1]
    assert ("evaluate.py" in found[-1]) == ("leakage" not in flags)
    assert {path.name for path in tmp_path.iterdir()} == {"fake env"}


@pytest.mark.parametrize("script", ["run-handover.sh", "run-combine.sh"])
def test_a_dry_run_of_what_makes_no_grid(script, fake, tmp_path):
    where = {"DEMO_DATA": f"{tmp_path}/material", "HANDOVER": f"{tmp_path}/made"}
    found = [" ".join(words) for words in commands(script, **where, **fake)]
    assert any("utils.results.export" in line or "utils.results.combine" in line for line in found)
    assert {path.name for path in tmp_path.iterdir()} == {"fake env"}


# What bash 3.2, which macOS has, does not know.
NEWER = r"readarray|mapfile|declare -A|local -n|\bwait -n\b|\$\{\w+@\w\}|\$\{\w+(\^|,)|\|&|&>>|\[-1\]|EPOCH"


def test_old_bashes_can_run_every_script():
    scripts = [path for pattern in ("*.sh", "utils/shell/*.sh", "slurm/*") for path in ROOT.glob(pattern)]
    assert len(scripts) > 12
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        # Before 4.4 an empty array is "unbound" under set -u, unless it is written ${array[@]+"${array[@]}"}. Not empty are:
        arrays = set(re.findall(r'(?<!\[@\]\+)(?<!\[@\]\+--labels )"\$\{(\w+)\[@\]\}"', text))
        assert arrays <= {"run", "command", "starts", "steps", "stages", "devices", "report"}, (path, arrays)
        assert not re.search(NEWER, re.sub(r"(?m)#.*", "", text)), path
