"""What the machine, the shell and a launcher hand to a run: paths, CPUs, GPUs, open files, variables, what git ignores."""

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import unicodedata
from contextlib import nullcontext

import pytest
from conftest import ROOT, shell
from test_grid import executable

from utils.errors import UserError
from utils.flags import encoder_name, named_path
from utils.machine import available_cpus, require_granted_gpu, require_whole_launch


def test_cpus_are_those_of_the_job():
    code = "import os, utils.machine as m; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); print(m.available_cpus())"
    assert shell(sys.executable, "-c", code).stdout == "1\n"
    assert available_cpus() == len(os.sched_getaffinity(0))


def test_every_path_flag_expands_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert named_path("~/x") == tmp_path / "x" and encoder_name("~/x") == str(tmp_path / "x") and encoder_name("a/b") == "a/b"
    for path in (*ROOT.glob("*.py"), *ROOT.glob("utils/**/*.py")):
        assert "type=Path" not in path.read_text(encoding="utf-8"), path
    assert str(named_path("./~")) == "~" and named_path("a~b").name == "a~b"
    with pytest.raises(argparse.ArgumentTypeError, match="no such home folder; for a file of that name use ./~nobody-here"):
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


LAUNCHES = {
    "WORLD_SIZE=2 RANK=0": "no MASTER_ADDR and no MASTER_PORT: 'unset WORLD_SIZE RANK' if an earlier job left it",
    "WORLD_SIZE=1 RANK=0 LOCAL_RANK=0": "no MASTER_ADDR and no MASTER_PORT",
    "WORLD_SIZE=2 RANK=2 MASTER_ADDR=x MASTER_PORT=1": "RANK=2 and WORLD_SIZE=2 in the environment: ranks are",
    "LOCAL_RANK=0": "no MASTER_ADDR and no MASTER_PORT and no RANK and no WORLD_SIZE",
    "OMPI_COMM_WORLD_SIZE=2": "no MASTER_ADDR",
} | dict.fromkeys(["", "RANK=0", "WORLD_SIZE=1", "WORLD_SIZE=1 RANK=0 LOCAL_RANK=-1"])  # one process
LAUNCHES["WORLD_SIZE=1 RANK=0 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500"] = None  # one process under torchrun


@pytest.mark.parametrize("launch", LAUNCHES)
def test_variables_that_an_earlier_job_left_are_named(launch):
    answers(LAUNCHES[launch], require_whole_launch, dict(pair.split("=") for pair in launch.split()))


def answers(answer, function, *arguments):
    with nullcontext() if answer is None else pytest.raises(UserError, match=re.escape(answer)):
        function(*arguments)


GPUS = {
    "CUDA_VISIBLE_DEVICES=0,1": "(CUDA_VISIBLE_DEVICES=0,1), but torch cannot use it: the driver's version is 470.57, ",
    "SLURM_JOB_GPUS=0": "(SLURM_JOB_GPUS=0)",
    "SLURM_GPUS_ON_NODE=2": "(SLURM_GPUS_ON_NODE=2)",
    "": "(NVIDIA T4), but torch cannot use it: the driver's version is 470.57, this torch is built for CUDA 12.8; ",
}
GPUS |= dict.fromkeys(["CUDA_VISIBLE_DEVICES=", "CUDA_VISIBLE_DEVICES=-1 SLURM_JOB_GPUS=0"])


@pytest.mark.parametrize("variables", GPUS)
def test_a_granted_gpu_that_torch_cannot_use_is_told(variables, tmp_path):
    environment = {"PATH": str(tmp_path)} | dict(pair.split("=") for pair in variables.split())
    executable(tmp_path / "nvidia-smi", 'echo "NVIDIA T4, 470.57"; echo "NVIDIA T4, 470.57"\n')
    answers(GPUS[variables], require_granted_gpu, environment, "12.8")
    # Without a card only what is said counts.
    executable(tmp_path / "nvidia-smi", "echo NVIDIA-SMI has failed; exit 9\n")
    answers("version is unknown" if GPUS[variables] and variables else None, require_granted_gpu, environment, None)


def test_no_gpu_was_granted(tmp_path):
    for variables in ({}, {"SLURM_GPUS_ON_NODE": "0"}):
        require_granted_gpu({"PATH": str(tmp_path)} | variables, "12.8")


@pytest.mark.parametrize(("soft", "hard", "code"), [(20, None, 0), (24, 24, 1)])
def test_few_open_files_are_raised_or_told(soft, hard, code):
    def limit():
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most if hard is None else hard))

    call = "from utils.errors import *; from utils.machine import *; one_line_errors(require_open_files)(2)"
    done = subprocess.run([sys.executable, "-c", call], cwd=ROOT, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == code and ("error: a process may have 24 files open here (ulimit -n)" in done.stderr) == bool(code)


def test_nothing_is_made_at_import():
    # With /dev/shm read-only there are no semaphores: --help needs none.
    refusing = (
        "import _multiprocessing, sys, runpy\n"
        "def refuse(*arguments, **options): raise OSError(30, 'Read-only file system')\n"
        "_multiprocessing.SemLock = refuse\n"
        "sys.argv = ['ewc.py', '--help']\n"
        "runpy.run_path('ewc.py', run_name='__main__')\n"
    )
    done = shell(sys.executable, "-W", "ignore", "-c", refusing)
    assert done.returncode == 0 and "--ewc_lambda" in done.stdout, done.stderr


# Wherever in the checkout somebody puts outputs, corpora, tables and reports.
PRIVATE = """outputs/task_a/fold_0/KEMDy19/config.json outputs/.digests.json outputs/task_a/fold_0/.KEMDy19.lock
    runs/task_a/fold_0/KEMDy19/predictions.csv utils/x/fold_0/KEMDy19/last_checkpoint.pt report.txt table.tex
    data/KEMDy20_v1_1/.wav_index.csv KEMDy20/.wav_index.csv.host.12 tests/KEMDy19/wav/a.wav utterances.csv
    tests/utterances.csv docs/model.safetensors faults.csv model.md"""
PUBLIC = """utils/new.py tests/test_new.py docs/page.md method.py run-new.sh figures/demo/new.png README.md .gitignore LICENSE
    requirements.lock"""


def test_git_takes_nothing_that_a_run_writes(tmp_path):
    git = lambda *words, cwd=tmp_path: subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True).stdout  # noqa: E731
    git("init", "-q")
    for name in (*PRIVATE.split(), *PUBLIC.split()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    shutil.copy(ROOT / ".gitignore", tmp_path)
    (tmp_path / ".venv").symlink_to("docs")  # as on a cluster, where the environment is on another file system
    git("add", "-A")
    assert set(git("ls-files").split()) == {*PUBLIC.split()}
    assert git("ls-files", "-ci", "--exclude-standard", cwd=ROOT) == ""  # and ignores nothing that is tracked
