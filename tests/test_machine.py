"""What the machine, the shell and a launcher hand to a run: paths, CPUs, open files, variables, places that git ignores."""

import argparse
import errno
import os
import resource
import shutil
import subprocess
import sys
import unicodedata

import pytest
from conftest import ROOT, clean_environment, flags, folder, read, shell

from utils.errors import UserError, one_line_errors
from utils.flags import encoder_name, named_path
from utils.machine import available_cpus, require_whole_launch
from utils.training.arguments import add_start_flags, training_parser


def test_cpus_are_those_of_the_job():
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from utils.training.arguments import training_parser\n"
        "print(training_parser('', 'x').parse_args(['--task', 'KEMDy19']).num_workers)\n"
    )
    assert shell(sys.executable, "-c", code).stdout == "1\n"
    assert available_cpus() == len(os.sched_getaffinity(0))


def test_every_path_flag_expands_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = training_parser("", "x")
    add_start_flags(parser)
    names = ("data_root", "output_root", "checkpoint", "text_model", "speech_model")
    args = parser.parse_args(["--task", "KEMDy19", *(f"--{name}=~/{name}" for name in names)])
    assert all(str(getattr(args, name)) == str(tmp_path / name) for name in names)
    assert parser.parse_args(["--task", "KEMDy19", "--text_model", "a/b"]).text_model == "a/b"
    for script in ("evaluate.py", "continual_learning_init.py", "finetune.py", "ewc.py", "adapter.py"):
        assert "type=Path" not in (ROOT / script).read_text()
    assert str(named_path("./~")) == "~" and named_path("a~b").name == "a~b"
    with pytest.raises(argparse.ArgumentTypeError, match="no such home folder; a name that begins so is ./~nobody-here"):
        named_path("~nobody-here/x")


def test_a_path_is_found_in_either_unicode_form(tmp_path, monkeypatch):
    composed, decomposed = (unicodedata.normalize(form, "결과") for form in ("NFC", "NFD"))
    (tmp_path / decomposed / "text").mkdir(parents=True)
    assert named_path(str(tmp_path / composed / "new")) == tmp_path / decomposed / "new"
    monkeypatch.chdir(tmp_path)
    assert encoder_name(f"{composed}/text") == f"{decomposed}/text" and encoder_name("owner/text") == "owner/text"
    # Where outputs go, other capitals are another folder.
    assert named_path("Results").name == "Results" and not (tmp_path / "results").mkdir()
    assert named_path("Results").name == "Results"


LEFT_OVER = {
    "WORLD_SIZE=2 RANK=0": "no MASTER_ADDR and no MASTER_PORT: 'unset WORLD_SIZE RANK' if an earlier job left it",
    "WORLD_SIZE=1 RANK=0 LOCAL_RANK=0": "no MASTER_ADDR and no MASTER_PORT",
    "LOCAL_RANK=0": "no MASTER_ADDR and no MASTER_PORT and no RANK and no WORLD_SIZE",
    "WORLD_SIZE=two": "WORLD_SIZE=two in the environment is not a number",
    "WORLD_SIZE=2 RANK=2 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500": "ranks are 0 to WORLD_SIZE - 1",
    "OMPI_COMM_WORLD_SIZE=2": "no MASTER_ADDR",
}


@pytest.mark.parametrize("left", LEFT_OVER, ids=str)
def test_variables_that_an_earlier_job_left_are_named(left):
    environment = dict(pair.split("=") for pair in left.split())
    with pytest.raises(UserError, match=LEFT_OVER[left].replace("(", r"\(")):
        require_whole_launch(environment)


@pytest.mark.parametrize("whole", ["", "RANK=0", "WORLD_SIZE=1", "WORLD_SIZE=1 RANK=0 LOCAL_RANK=-1"], ids=str)
def test_variables_of_one_process_are_let_be(whole):
    require_whole_launch(dict(pair.split("=") for pair in whole.split()))


def test_one_process_under_torchrun_is_one(data_root, encoders, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    launch.append("continual_learning_init.py")
    done = shell(*launch, *flags(data_root, encoders, tmp_path), "--task", "KEMDy20", "--num_epochs", "1")
    assert done.returncode == 0, done.stderr
    assert read(folder(tmp_path, "task_a", "KEMDy20") / "config.json")["machine"]["processes"] == 1


@pytest.mark.parametrize(("soft", "hard", "code"), [(20, None, 0), (24, 24, 1)])
def test_few_open_files_are_raised_or_told(soft, hard, code, data_root, encoders, tmp_path):
    def limit():
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most if hard is None else hard))

    command = [sys.executable, "continual_learning_init.py", *flags(data_root, encoders, tmp_path), "--task", "KEMDy20"]
    done = subprocess.run(
        [*command, "--num_workers", "2", "--num_epochs", "1"],
        cwd=ROOT, env=clean_environment(), preexec_fn=limit, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    if code:
        assert done.stderr.splitlines()[-1].startswith("error: ") and "ulimit -n" in done.stderr


def test_no_more_open_files_is_one_line(capsys):
    @one_line_errors
    def main():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a.wav")

    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.startswith("error: a.wav: Too many open files; start it from a shell that allows more")


def test_nothing_is_made_at_import():
    # With /dev/shm read-only there are no semaphores: whoever only asks for help needs none.
    refusing = (
        "import _multiprocessing, sys, runpy\n"
        "def refuse(*arguments, **options): raise OSError(30, 'Read-only file system')\n"
        "_multiprocessing.SemLock = refuse\n"
        "sys.argv = ['ewc.py', '--help']\n"
        "runpy.run_path('ewc.py', run_name='__main__')\n"
    )
    done = shell(sys.executable, "-W", "ignore", "-c", refusing)
    assert done.returncode == 0 and "--ewc_lambda" in done.stdout, done.stderr


def test_git_takes_nothing_that_a_run_writes(tmp_path):
    """Wherever in the checkout somebody puts outputs, corpora, tables and reports."""
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    private = [
        *("outputs/task_a/fold_0/KEMDy19/config.json", "outputs/.digests.json", "outputs/task_a/fold_0/.KEMDy19.lock"),
        *("runs/task_a/fold_0/KEMDy19/predictions.csv", "utils/x/fold_0/KEMDy19/last_checkpoint.pt", "report.txt", "table.tex"),
        *("data/KEMDy20_v1_1/.wav_index.csv", "KEMDy20/.wav_index.csv.host.12", "tests/KEMDy19/wav/a.wav", "utterances.csv"),
        *("tests/utterances.csv", "docs/model.safetensors", "faults.csv", "model.md"),
    ]
    public = [
        "utils/new.py",
        "tests/test_new.py",
        "docs/page.md",
        "method.py",
        "run-new.sh",
        "figures/demo/new.png",
        "README.md",
    ]
    for name in (*private, *public):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    subprocess.run(["git", "add", "-A"], cwd=tmp_path, check=True)
    added = subprocess.run(["git", "ls-files"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    assert set(added) == {*public, ".gitignore"}


def test_git_ignores_nothing_that_is_tracked():
    listed = subprocess.run(["git", "ls-files", "-ci", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    assert listed.stdout == ""
