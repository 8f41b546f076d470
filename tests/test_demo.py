"""The demonstration in miniature: its material, and the whole of run-demo.sh."""

import filecmp
import os
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import EXPERIMENTS, ROOT, shell
from transformers import AutoModel, AutoTokenizer

from utils.data.corpus import read_corpus
from utils.data.kemdy import EMOTIONS
from utils.demo.__main__ import main as make
from utils.methods import KEMDY
from utils.shell.requirements import unsatisfied

SIZE = ("--sessions", "6", "--utterances", "7", "--pretraining_steps", "2")


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "material"
    make([str(folder), *SIZE])
    return folder


@pytest.mark.parametrize("name", KEMDY)
def test_the_corpora_are_read_as_the_real_ones_are(material, name):
    corpus = read_corpus(material, name)
    assert corpus.name == name and corpus.synthetic and len(corpus.sessions) == 6
    assert set(corpus.dropped) <= {"other speaker's file", "several labels"} and corpus.dropped["several labels"] >= 6
    assert corpus.rows == len(corpus.utterances) + sum(corpus.dropped.values())
    assert set(corpus.utterances["emotion"]) <= set(EMOTIONS)
    assert corpus.utterances["text"].str.contains("[가-힣]").all()
    assert corpus.utterances["duration"].between(0.3, 10).all()
    assert corpus.notes.get("wavs not at 16 kHz", 0) == 0


def test_kemdy19_is_acted_and_kemdy20_mostly_neutral(material):
    acted, free = (read_corpus(material, name).utterances["emotion"] for name in KEMDY)
    assert acted.value_counts(normalize=True).max() < 0.2 < 0.5 < (free == "neutral").mean()


def test_the_encoders_load_as_real_ones_do(material):
    tokenizer = AutoTokenizer.from_pretrained(material / "encoders" / "text")
    encoded = tokenizer(["오늘 정말 화가 나"], return_tensors="pt")
    assert tokenizer.unk_token_id not in encoded["input_ids"]
    with torch.no_grad():
        text = AutoModel.from_pretrained(material / "encoders" / "text").eval()
        assert text(encoded["input_ids"]).pooler_output.shape == (1, text.config.hidden_size)
        speech = AutoModel.from_pretrained(material / "encoders" / "speech").eval()
        assert speech(torch.randn(1, 8_000)).last_hidden_state.shape[1] > 10


def test_the_same_seed_makes_the_same_bytes_and_another_does_not(material, tmp_path):
    make([str(tmp_path / "again"), *SIZE])
    make([str(tmp_path / "other"), *SIZE, "--seed", "13"])
    files = [
        path.relative_to(material) for path in sorted(material.rglob("*")) if path.is_file() and path.name != ".wav_index.csv"
    ]
    assert len(files) > 150
    assert filecmp.cmpfiles(material, tmp_path / "again", files, shallow=False)[0] == files
    assert len(filecmp.cmpfiles(material, tmp_path / "other", files, shallow=False)[0]) < len(files) / 4


def test_what_is_complete_is_left_alone(material, capsys):
    before = {path: path.stat().st_mtime_ns for path in material.rglob("*.csv")}
    make([str(material), *SIZE])
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_one_modality_alone(material):
    for only, folder in (("voice", "voice-only"), ("words", "words-only")):
        make([str(material), *SIZE, "--only", only])
        whole = read_corpus(material, "KEMDy19").utterances
        part = read_corpus(material / folder, "KEMDy19")
        assert part.synthetic and part.utterances["segment_id"].tolist() == whole["segment_id"].tolist()
        assert part.utterances["duration"].tolist() == whole["duration"].tolist()
        assert (part.utterances["text"] == "").all() == (only == "voice")
        assert (soundfile.read(part.utterances["wav_path"][0])[0] == 0).all() == (only == "words")


def test_a_folder_with_something_else_in_it_is_not_touched(tmp_path, capsys):
    (tmp_path / "KEMDy19").mkdir()
    (tmp_path / "KEMDy19" / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as exit:
        make([str(tmp_path), *SIZE])
    assert exit.value.code != 0
    assert (tmp_path / "KEMDy19" / "notes.txt").read_text() == "mine"


def test_the_whole_demonstration(material, tmp_path):
    done = shell(
        "bash", "run-demo.sh", DEMO_DATA=str(material), DEMO_OUTPUTS=str(tmp_path / "outputs"),
        DEMO_FIGURES=str(tmp_path / "figures"), DEMO_SIZE=" ".join(SIZE), SEEDS="12",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SYNTHETIC" in done.stdout and "2 folds." in done.stdout
    table = done.stdout[done.stdout.index("Test weighted F1, synthetic") :].splitlines()
    rows = {row.split()[0]: row.split()[1:] for row in table[4:11]}
    assert set(rows) == {"majority", *EXPERIMENTS, "joint"} and all("-" not in row for row in rows.values())
    assert len(list((tmp_path / "outputs").glob("*/fold_*/*/metrics.json"))) == len(EXPERIMENTS) * 2 * 2 + 2
    assert "Missing runs" not in done.stdout
    assert (tmp_path / "figures" / "forgetting.png").stat().st_size > 20_000
    assert "installing" not in done.stdout


def test_run_demo_refuses_what_it_does_not_know():
    done = shell("bash", "run-demo.sh", "--fast")
    assert done.returncode == 2 and "usage" in done.stderr


def test_requirements_are_compared_by_version(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("# comment\ntorch==2.11.0  # a pair\nnumpy==0.0.1\nno-such-package==1.0\n\n")
    assert [line.split(" (")[0] for line in unsatisfied(path)] == ["numpy 0.0.1", "no-such-package 1.0"]
    assert unsatisfied(ROOT / "requirements.txt") == []


def test_run_scripts_use_the_active_environment_if_it_will_do(tmp_path):
    # An active environment whose python lacks everything is passed over for one that will do.
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    probe = "source utils/shell/environment.sh; find_python && command -v python"
    found = shell("bash", "-c", probe, VIRTUAL_ENV=str(tmp_path)).stdout.strip()
    assert found and Path(found).parent != fake.parent
    fake.write_text(f'#!/bin/sh\nexec {os.sys.executable} "$@"\n')
    chosen = shell("bash", "-c", f"{probe} >/dev/null && python -c 'import torch'", VIRTUAL_ENV=str(tmp_path))
    assert chosen.returncode == 0


def test_a_broken_or_old_venv_is_made_anew(tmp_path):
    # With a Python that only records what it is asked to do, so that nothing is installed.
    (tmp_path / "utils" / "shell").mkdir(parents=True)
    for name in ("environment.sh", "requirements.py"):
        (tmp_path / "utils" / "shell" / name).write_bytes((ROOT / "utils" / "shell" / name).read_bytes())
    (tmp_path / "requirements.txt").write_text("no-such-package==1.0\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(tmp_path / "gone")
    fake = tmp_path / "bin" / "python3"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncase "$1" in *requirements.py|-m) exit 1;; esac\n')
    fake.chmod(0o755)
    script = f"cd {tmp_path}; source utils/shell/environment.sh; make_python"
    done = shell("bash", "-c", script, PATH=f"{fake.parent}:/usr/bin:/bin", VIRTUAL_ENV="", CONDA_PREFIX="")
    assert done.returncode != 0 and "cannot make .venv" in done.stderr
    assert f"-m venv --clear {tmp_path}/.venv" in (tmp_path / "asked").read_text()
