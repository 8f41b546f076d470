"""The demonstration in miniature: its material, every run of run-demo.sh and its tables, and the Python that scripts take."""

import filecmp
import re
import sys
from pathlib import Path

import pytest
import soundfile
from conftest import EXPERIMENTS, ROOT, run_main, shell
from test_grid import executable, fake  # noqa: F401

from utils.data.corpus import read_corpus
from utils.data.kemdy import EMOTIONS
from utils.demo import corpora, encoders
from utils.demo.__main__ import main as make
from utils.methods import KEMDY
from utils.shell.requirements import unsatisfied

SIZE = ("--sessions", "6", "--utterances", "7", "--pretraining_steps", "2")


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "material"
    make([str(folder), *SIZE])
    return folder


def test_the_corpora_are_read_as_the_real_ones_are(material):
    for name in KEMDY:
        corpus = read_corpus(material, name)
        assert corpus.name == name and corpus.synthetic and len(corpus.sessions) == 6
        assert set(corpus.dropped) <= {"other speaker's file", "several labels"} and corpus.dropped["several labels"] >= 6
        assert corpus.rows == len(corpus.utterances) + sum(corpus.dropped.values())
        assert set(corpus.utterances["emotion"]) <= set(EMOTIONS)
        assert corpus.utterances["text"].str.contains("[가-힣]").all()
        assert corpus.utterances["duration"].between(0.3, 10).all()
        assert corpus.notes.get("wavs not at 16 kHz", 0) == 0
    # KEMDy19 is acted, and KEMDy20 mostly neutral.
    acted, free = (read_corpus(material, name).utterances["emotion"] for name in KEMDY)
    assert acted.value_counts(normalize=True).max() < 0.2 < 0.5 < (free == "neutral").mean()


def test_the_same_seed_makes_the_same_bytes_and_another_does_not(material, tmp_path):
    for seed in (12, 13):
        for name in KEMDY:
            corpora.make_corpus(tmp_path / str(seed) / name, name, seed, 6, 7)
    encoders.make_text_encoder(tmp_path / "12" / "encoders" / "text", 12, 2)
    encoders.make_speech_encoder(tmp_path / "12" / "encoders" / "speech", 12, 2)
    files = [path.relative_to(material) for path in material.rglob("*") if path.is_file() and path.name != ".wav_index.csv"]
    assert len(files) > 150
    assert filecmp.cmpfiles(material, tmp_path / "12", files, shallow=False)[0] == files
    assert len(filecmp.cmpfiles(material, tmp_path / "13", files, shallow=False)[0]) < len(files) / 4


def test_what_is_complete_is_left_alone_and_something_else_is_not_touched(material, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in material.rglob("*.csv")}
    make([str(material), *SIZE])
    assert before == {path: path.stat().st_mtime_ns for path in before}
    (tmp_path / "KEMDy19").mkdir()
    (tmp_path / "KEMDy19" / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as exit:
        make([str(tmp_path), *SIZE])
    assert exit.value.code != 0 and [path.name for path in tmp_path.rglob("*")] == ["KEMDy19", "notes.txt"]


@pytest.mark.parametrize("only", corpora.ABLATIONS)
def test_one_modality_alone(material, tmp_path, only):
    corpora.make_ablated(tmp_path / "KEMDy19", material / "KEMDy19", only)
    whole, part = (read_corpus(root, "KEMDy19") for root in (material, tmp_path))
    assert part.synthetic
    for column in ("segment_id", "duration"):
        assert part.utterances[column].tolist() == whole.utterances[column].tolist()
    assert (part.utterances["text"] == "").all() == (only == "voice")
    assert (soundfile.read(part.utterances["wav_path"][0])[0] == 0).all() == (only == "words")


def test_the_whole_demonstration(material, tmp_path, fake, capsys):  # noqa: F811
    # The commands of run-demo.sh, for one epoch, one after the other in this process: nothing is imported 22 times.
    environment = fake | {"DEMO_DATA": str(material), "DEMO_OUTPUTS": str(tmp_path / "outputs"), "DEMO_SIZE": " ".join(SIZE)}
    done = shell("bash", "run-demo.sh", SEEDS="12", DEMO_FIGURES=str(tmp_path / "figures"), **environment)
    assert done.returncode == 0 and "installing" not in done.stdout, done.stderr
    making, *runs, evaluation = (line.split() for line in (tmp_path / "called").read_text().splitlines())
    assert making[:3] == ["-P", "-m", "utils.demo"]
    make(making[3:])
    for words in runs:
        run_main(Path(words[0]).name, *words[1:], "--num_epochs", "1")
    capsys.readouterr()
    run_main(Path(evaluation[0]).name, *evaluation[1:])
    report = capsys.readouterr().out
    assert "SYNTHETIC" in report and "2 folds." in report and "Missing runs" not in report
    table = report[report.index("Test scores and continual learning, synthetic") :].splitlines()
    rows = {row.split()[0]: row.split()[-1] for row in table[5:12]}
    assert set(rows) == {"majority", *EXPERIMENTS, "joint"}
    assert {name for name, bwt in rows.items() if bwt == "-"} == {"majority", "task_a", "joint"}
    assert len(list((tmp_path / "outputs").glob("*/fold_*/*/metrics.json"))) == len(EXPERIMENTS) * 2 * 2 + 2
    assert (tmp_path / "figures" / "forgetting.png").stat().st_size > 20_000


def test_requirements_are_compared_by_version(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("# comment\ntorch==2.11.0  # a pair\nnumpy==0.0.1\nno-such-package==1.0\n\n")
    assert [line.split(" (")[0] for line in unsatisfied(path)] == ["numpy 0.0.1", "no-such-package 1.0"]
    assert unsatisfied(ROOT / "requirements.txt") == []


def test_the_lock_fits_the_requirements():
    pins = [
        dict(
            re.findall(
                r"(?m)^([\w-]+)==(\S+)", (ROOT / f"requirements.{ending}").read_text().replace("huggingface_", "huggingface-")
            )
        )
        for ending in ("txt", "lock")
    ]
    assert len(pins[0]) > 15 and pins[0].items() <= pins[1].items()
    entries = re.split(r"(?m)^(?=\w)", (ROOT / "requirements.lock").read_text())[1:]
    assert len(entries) == len(pins[1]) and all("--hash=sha256:" in entry for entry in entries)


def test_run_scripts_use_the_active_environment_if_it_will_do(tmp_path):
    # One whose python lacks everything is passed over for one that will do.
    active, probe = tmp_path / "bin" / "python", "source utils/shell/environment.sh; find_python && command -v python"
    for text in ("exit 1", f'[ "$1" = -c ] && echo {active} || exec {sys.executable} "$@"'):
        executable(active, text)
        found = shell("bash", "-c", probe, VIRTUAL_ENV=str(tmp_path)).stdout.strip()
        assert found and (found == str(active)) == (text != "exit 1")


@pytest.fixture()
def bare(tmp_path):
    """A folder with what makes the environment."""
    (tmp_path / "utils" / "shell").mkdir(parents=True)
    for name in ("install.sh", "utils/shell/environment.sh", "utils/shell/requirements.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "requirements.txt").write_text("no-such-package==1.0\n")
    return tmp_path


def test_install_makes_the_environment_and_nothing_else(bare):
    # With a Python that makes copies of itself, and has what is asked for once pip was called.
    python = executable(
        bare / "bin" / "python3",
        f"""case "$*" in
        *requirements.py) [ -e {bare}/installed ] ;;
        "-m venv --clear "*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
        "-m pip install "*) echo "$*" > {bare}/installed ;;
        *"print(sys.executable)") echo "$0" ;;
        esac
        """,
    )
    only = {"PATH": f"{python.parent}:/usr/bin:/bin", "VIRTUAL_ENV": "", "CONDA_PREFIX": "", "cwd": bare}
    before = {*bare.iterdir()}
    done = shell("bash", "install.sh", DRY_RUN="1", **only)
    assert done.returncode == 0 and done.stdout.count("\n") == 3 and {*bare.iterdir()} == before
    done = shell("bash", "install.sh", **only)
    assert done.returncode == 0 and done.stdout.endswith(f"{bare}/.venv/bin/python satisfies requirements.txt\n"), done
    assert (bare / "installed").read_text().endswith(f"-r {bare}/requirements.lock\n")
    assert {*bare.iterdir()} == before | {bare / ".venv", bare / "installed"}
    (bare / "installed").rename(bare / "once")
    assert shell("bash", "install.sh", **only).returncode == 0 and (bare / "installed").exists()


def test_a_broken_or_old_venv_is_made_anew(bare, tmp_path):
    # With a Python that only records what it is asked to do, so that nothing is installed.
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(tmp_path / "gone")
    recording = f'echo "$@" >> {tmp_path}/asked\ncase "$1" in *requirements.py|-m) exit 1;; esac\n'
    python = executable(tmp_path / "bin" / "python3", recording)
    script = f"cd {tmp_path}; source utils/shell/environment.sh; make_python"
    done = shell("bash", "-c", script, PATH=f"{python.parent}:/usr/bin:/bin", VIRTUAL_ENV="", CONDA_PREFIX="")
    assert done.returncode != 0 and "cannot create .venv" in done.stderr
    assert f"-m venv --clear {tmp_path}/.venv" in (tmp_path / "asked").read_text()
