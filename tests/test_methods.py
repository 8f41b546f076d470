"""A method of one's own, in a copy of the repository: one script and one entry, and it stands wherever methods do."""

import re
import shutil
import sys

import pytest
from conftest import ROOT, flags, folder, read, shell

# The example of docs/add-a-method.md, which also counts its steps here.
SCRIPT, ENTRY = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "add-a-method.md").read_text(), re.M | re.S)[:2]
COUNTS = """
    steps = 0

    def after_step(self):
        self.steps += 1

    def after_task(self, run, model, dataset):
        (run.path / "steps.txt").write_text(f"{self.steps} on {len(dataset)}")

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]
"""


@pytest.fixture(scope="module")
def copy(outputs, tmp_path_factory):
    """A copy of the repository with the method in it, and the finished runs of all others."""
    copy = tmp_path_factory.mktemp("copy")
    for path in ROOT.iterdir():
        if path.suffix in (".py", ".sh", ".txt"):
            shutil.copy(path, copy)
        elif path.name in ("models", "utils", "slurm"):
            shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(outputs, copy / "outputs")
    (copy / "l2sp.py").write_text(SCRIPT.replace("\n\n\n@one_line_errors", COUNTS + "\n\n@one_line_errors"))
    (copy / "utils" / "methods.py").write_text(
        (ROOT / "utils" / "methods.py").read_text().replace("START = ", ENTRY + "START = ")
    )
    return copy


@pytest.fixture(scope="module")
def trained(copy, data_root, encoders):
    """Its run on KEMDy20, killed in the second epoch and resumed."""
    small = flags(data_root, encoders, copy / "outputs")
    dying = (
        "import os, runpy, sys\n"
        "from utils.training.run import Run\n"
        "save = Run.save_last\n"
        "Run.save_last = lambda *arguments: (save(*arguments), os._exit(9))\n"
        "sys.argv = ['l2sp.py', *sys.argv[1:]]\n"
        "runpy.run_path('l2sp.py', run_name='__main__')\n"
    )
    done = shell(sys.executable, "-c", dying, "--task", "KEMDy20", *small, cwd=copy)
    assert done.returncode == 9, done.stderr
    done = shell(sys.executable, "l2sp.py", "--task", "KEMDy20", *small, cwd=copy)
    assert done.returncode == 0 and "resuming after epoch 1 of 2" in done.stdout, done.stderr
    return folder(copy / "outputs", "l2sp", "KEMDy20")


def test_it_trains_and_resumes_with_its_own_state(trained):
    assert (trained / "steps.txt").read_text() == "4 on 14"
    config = read(trained / "config.json")
    assert config["method"] == "l2sp" and config["sequence"] == ["KEMDy19", "KEMDy20"]
    assert set(read(trained / "metrics.json")["test_before"]) == {"KEMDy19", "KEMDy20"}


def test_it_is_a_row_of_every_table_and_in_every_figure(copy, trained):
    more = ("--all", "--figures", str(copy / "figures"), "--confusion", "l2sp", "ewc", "--confusion_task", "KEMDy19")
    done = shell(sys.executable, "evaluate.py", *more, cwd=copy)
    assert done.returncode == 0, done.stderr
    tables = {text.splitlines()[0].rstrip(" -"): text for text in done.stdout.split("\n\n")}
    for title, text in tables.items():
        if any(row.startswith("ewc ") for row in text.splitlines()) and "λ" not in title:
            assert any(row.startswith("l2sp ") for row in text.splitlines()), title
    assert "finetune, ewc and l2sp" in done.stdout or "finetune, ewc, l2sp" in done.stdout
    assert any("run.sh" in line and "l2sp" in line for line in done.stdout.splitlines())  # the missing run
    drawn = {path.stem for path in (copy / "figures").rglob("*.png")}
    assert {"forgetting", "curves_l2sp", "emotions", "confusion"} <= drawn


def test_it_is_in_the_grid_and_in_the_slurm_jobs(copy):
    grid = shell("bash", "run-grid.sh", cwd=copy, DRY_RUN="1", FOLDS="0")
    assert grid.returncode == 0, grid.stderr
    lines = grid.stdout.splitlines()
    own = [number for number, line in enumerate(lines) if " l2sp.py --task" in line]
    starts = [number for number, line in enumerate(lines) if "continual_learning_init.py --task KEMDy" in line]
    assert len(own) == 2 and min(own) > max(starts)
    slurm = shell("bash", "slurm/submit.sh", cwd=copy, DRY_RUN="1", FOLDS="0")
    assert slurm.returncode == 0 and "l2sp" in slurm.stderr + slurm.stdout


def test_it_is_exported_with_its_card(copy, trained):
    done = shell(sys.executable, "-m", "utils.results.export", str(trained), "l2sp.safetensors", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert "with a penalty on the distance to its start." in " ".join((copy / "l2sp.md").read_text().split())
