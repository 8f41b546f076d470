"""Small corpora, encoders and runs that the tests share; nothing here is pretrained, and nothing is real."""

import hashlib
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer, Wav2Vec2Config, Wav2Vec2Model

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from lookalike import SENTENCES, make_kemdy19, make_kemdy20  # noqa: E402

from utils.machine import LAUNCHER, MPI  # noqa: E402
from utils.methods import JOINT, KEMDY, METHODS, PAPER  # noqa: E402

# Small tensors are slower on several threads, and sums in another order differ in their last bits.
torch.set_num_threads(1)

# Every syllable of the invented sentences, at a word's beginning and inside it.
SYLLABLES = sorted({syllable for texts in SENTENCES.values() for text in texts for syllable in text if syllable != " "})
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SYLLABLES, *(f"##{syllable}" for syllable in SYLLABLES)]


def small_text_encoder(**changes):
    """A BertModel of two layers with random weights."""
    settings = dict(
        vocab_size=max(300, len(VOCABULARY)),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    return BertModel(BertConfig(**settings | changes))


def small_speech_encoder(**changes):
    """A Wav2Vec2Model of two layers with random weights, normalised over time in its first layer as wav2vec2-base is."""
    settings = dict(
        hidden_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(12, 12, 16),
        conv_kernel=(20, 8, 4),
        conv_stride=(10, 8, 4),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        mask_time_prob=0.05,
        mask_time_length=4,
    )
    return Wav2Vec2Model(Wav2Vec2Config(**settings | changes))


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    """Folder with text/ and speech/, two small encoders in Hugging Face's form."""
    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(1)
    small_text_encoder().save_pretrained(folder / "text")
    # Lower-casing strips accents, and to that end takes syllables apart: every word would be unknown.
    BertTokenizer(vocab={word: index for index, word in enumerate(VOCABULARY)}, do_lower_case=False).save_pretrained(
        folder / "text"
    )
    small_speech_encoder().save_pretrained(folder / "speech")
    for part in ("text", "speech"):
        (folder / part / "SYNTHETIC").write_text("Random weights, for tests.\n")
    return folder


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """Folder with KEMDy19/ and KEMDy20/, two small synthetic corpora."""
    folder = tmp_path_factory.mktemp("data")
    make_kemdy19(folder / "KEMDy19", sessions=6, utterances=7)
    make_kemdy20(folder / "KEMDy20", sessions=6, utterances=7)
    return folder


EXPERIMENTS = PAPER


def flags(data_root, encoders, output_root):
    """Flags that make any script small."""
    return [
        *("--data_root", str(data_root), "--output_root", str(output_root)),
        *("--text_model", str(encoders / "text"), "--speech_model", str(encoders / "speech")),
        *("--cpu", "--num_workers", "0", "--batch_size", "8", "--num_epochs", "2", "--lr", "1e-3"),
    ]


# What the scripts take from the environment must not come from the shell that the tests were started in.
OF_SCRIPTS = (
    *("FOLDS", "TASKS", "ORDER", "SEEDS", "LAMBDAS", "EXP_NAME", "LAUNCH", "DRY_RUN", "GPUS", "TEXT_MODEL", "SPEECH_MODEL"),
    *("METHODS", "TRIALS", "LRS", "CHOOSE_ON", "HALVES", "RUNS_PER_GPU"),
    *("RUN_INDEX", "CORPUS_FACTS", "FOUND_PYTHON", "SWEEP_RUN"),
)
OF_MACHINE = ("CUDA_VISIBLE_DEVICES", "MASTER_ADDR", "MASTER_PORT", *LAUNCHER, *MPI)


def clean_environment(**more):
    """The environment of a user who has set nothing, with one thread, and ``more``."""
    kept = {name: value for name, value in os.environ.items() if name not in (*OF_SCRIPTS, *OF_MACHINE)}
    kept = {name: value for name, value in kept.items() if not name.startswith("SLURM_")}
    return kept | {"OMP_NUM_THREADS": "1"} | more


def shell(*command, cwd=ROOT, **environment):
    """Run a command in the repository, or another directory, as a user would; returns the finished process."""
    environment = clean_environment(**environment)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=1800)


@pytest.fixture(scope="session")
def outputs(data_root, encoders, tmp_path_factory):
    """Output folder of the published methods and joint, both tasks, fold 0, and of one value of a grid of λ in one order."""
    folder = tmp_path_factory.mktemp("outputs")
    trained = [METHODS[name] for name in (*PAPER, JOINT)]
    runs = [(method, task) for method in trained for task in ((JOINT,) if method.how == JOINT else KEMDY)]
    for method, task in runs:
        run_main(method.script, "--task", task, *method.flags, *flags(data_root, encoders, folder))
    run_main(
        "ewc.py", "--task", "KEMDy20", "--exp_name", "ewc-lambda10", "--ewc_lambda", "10", *flags(data_root, encoders, folder)
    )
    return folder


def run_main(script, *arguments):
    """Call a script's main in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        import_module(script.removesuffix(".py")).main()


@pytest.fixture()
def call_main(monkeypatch, capsys):
    """Call a script's main in this process: call_main(module, *flags) → (exit code, stdout, stderr)."""

    def call_main(module, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
        code = 0
        try:
            module.main()
        except SystemExit as exit:
            code = exit.code
        return code, *capsys.readouterr()

    return call_main


@pytest.fixture()
def call(call_main, data_root, encoders, outputs):
    """Call a training script small: call(module, *flags, output_root=…) → (exit code, stdout, stderr)."""
    return lambda module, *arguments, output_root=outputs: call_main(
        module, *flags(data_root, encoders, output_root), *arguments
    )


def folder(outputs, experiment, task, fold=0):
    return outputs / experiment / f"fold_{fold}" / task


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
