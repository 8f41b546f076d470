"""Learning without forgetting and memory aware synapses, against what they are defined as."""

import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from conftest import ROOT, flags, folder, read, run_main, shell, small_speech_encoder, small_text_encoder

import ewc
import lwf
from lwf import LearningWithoutForgetting
from models import FusionClassifier, load_tokenizer
from utils.data.batches import Sound, UtteranceDataset
from utils.data.corpus import read_corpus
from utils.data.kemdy import EMOTIONS
from utils.training import fisher
from utils.training.fisher import read_fisher

START = "task_a", "KEMDy19"


def test_distillation_is_what_its_definition_says(data_root, encoders):
    torch.manual_seed(4)
    model = FusionClassifier(small_text_encoder(), small_speech_encoder(), len(EMOTIONS))
    utterances = read_corpus(data_root, "KEMDy19", progress=False).utterances.head(9)
    dataset = UtteranceDataset(utterances, EMOTIONS, load_tokenizer(str(encoders / "text")), 16, Sound(0.5))
    run = SimpleNamespace(
        accelerator=Accelerator(cpu=True), args=SimpleNamespace(num_workers=0, batch_size=4), quiet=True
    )  # fmt: skip
    strategy = LearningWithoutForgetting(run, weight=3.0, temperature=2.0)
    model.train()
    strategy.prepare(model, None, dataset)
    model.eval()
    batch = dataset.collate([dataset[index] for index in (7, 2, 2, 5)])
    with torch.no_grad():
        old = model(batch["speech_inputs"], batch["text_inputs"]).double().numpy()
    new = torch.randn(4, len(EMOTIONS))
    distilled = 0.0
    for z_old, z in zip(old, new.double().numpy()):
        p_old, p = (np.exp(values / 2) / np.exp(values / 2).sum() for values in (z_old, z))
        distilled -= (p_old * np.log(p)).sum() / 4
    assert strategy.loss(model, batch, new, 0.5).item() == pytest.approx(0.5 * 3 * distilled, rel=1e-5)


@pytest.mark.parametrize(
    ("script", "arguments"), [(lwf, ("--lwf_weight", 0)), (ewc, ("--importance", "mas", "--ewc_lambda", 0))]
)
def test_without_weight_it_is_finetune(script, arguments, outputs, call, tmp_path):
    shutil.copytree(folder(outputs, *START), folder(tmp_path, *START))  # where an importance may be written
    code, _, stderr = call(script, "--task", "KEMDy20", *arguments, output_root=tmp_path)
    assert code == 0, stderr
    (path,) = tmp_path.glob("*/fold_0/KEMDy20/best_model.pt")
    assert path.read_bytes() == (folder(outputs, "finetune", "KEMDy20") / "best_model.pt").read_bytes()


def test_importances_of_both_kinds_lie_side_by_side(outputs, call, call_main, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(folder(outputs, *START), start, ignore=shutil.ignore_patterns("mas*"))
    code, _, stderr = call_main(fisher, start, "--importance", "mas", "--cpu", "--num_workers", 0)
    assert code == 0, stderr
    kinds = {kind: read_fisher(start / f"{kind}-b10.pt") for kind in ("fisher", "mas")}
    assert all(kept["kind"] == kind for kind, kept in kinds.items())
    assert kinds["fisher"]["fisher"]["classifier.bias"].sum() < 0.5 * kinds["mas"]["fisher"]["classifier.bias"].sum()
    kinds["fisher"].pop("kind")  # as earlier versions wrote it
    torch.save(kinds["fisher"], start / "fisher-b10.pt")
    command = ("--task", "KEMDy20", "--checkpoint", start / "best_model.pt", "--num_epochs", 1)
    code, stdout, stderr = call(ewc, *command, "--fisher", start / "mas-b10.pt", output_root=tmp_path)
    assert code == 0 and f"{start / 'mas-b10.pt'} is not used" in stdout, stderr
    assert f"Fisher information of KEMDy19: {start / 'fisher-b10.pt'}" in stdout
    code, stdout, stderr = call(ewc, *command, "--importance", "mas", "--ewc_lambda", 2, output_root=tmp_path)
    assert code == 0 and f"MAS importance of KEMDy19: {start / 'mas-b10.pt'}" in stdout, stderr
    assert read(folder(tmp_path, "mas", "KEMDy20") / "config.json")["method"] == "mas"


def test_a_run_from_before_mas_is_still_finished(outputs, call, tmp_path):
    for experiment, task in (START, ("ewc", "KEMDy20")):
        shutil.copytree(folder(outputs, experiment, task), folder(tmp_path, experiment, task))
    path = folder(tmp_path, "ewc", "KEMDy20") / "config.json"
    path.write_text(path.read_text().replace('  "importance": "fisher",\n', ""))
    assert "importance" not in read(path)["arguments"]
    code, stdout, _ = call(ewc, "--task", "KEMDy20", output_root=tmp_path)
    assert code == 0 and "is finished: skipped" in stdout
    code, _, stderr = call(ewc, "--task", "KEMDy20", "--importance", "mas", "--exp_name", "ewc", output_root=tmp_path)
    assert code == 1 and "--importance fisher then, mas now" in stderr


def test_processes_and_micro_batches_add_the_terms_of_the_whole_batch(data_root, encoders, monkeypatch, tmp_path):
    # To rounding, once nothing is dropped or masked at random. A buffer of one utterance leaves nothing to draw.
    torch.manual_seed(4)
    still = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    small_text_encoder(**still).save_pretrained(tmp_path / "text")
    for file in (encoders / "text").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "text")
    names = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop")
    small_speech_encoder(**dict.fromkeys(names, 0.0), mask_time_prob=0.0).save_pretrained(tmp_path / "speech")
    # 14 utterances in batches of 6: in the last both processes have one.
    small = [*flags(data_root, tmp_path, tmp_path), "--batch_size", "6", "--num_epochs", "1"]
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, values: values)
    run_main("continual_learning_init.py", "--task", "KEMDy19", *small)
    kept = ("--buffer_size", "1")
    commands = {"lwf": ("lwf.py",), "er": ("replay.py", *kept), "derpp": ("replay.py", "--dark", *kept)}
    for command in commands.values():
        run_main(*command, "--task", "KEMDy20", *small)
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
        "from importlib import import_module\n"
        "from torch import nn\n"
        "nn.Dropout.forward = lambda self, values: values\n"
        f"for name, command in {commands!r}.items():\n"
        f"    sys.argv = [*command, '--exp_name', 'two_' + name, '--task', 'KEMDy20', '--micro_batch_size', '2', *{small!r}]\n"
        "    import_module(command[0][:-3]).main()\n"
    )
    done = shell(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script))
    assert done.returncode == 0, done.stderr
    for name in commands:
        one, two = (pd.read_csv(folder(tmp_path, of, "KEMDy20") / "history.csv").loc[1] for of in (name, f"two_{name}"))
        numbers = ["train_loss", "penalty", "KEMDy19_valid_loss", "KEMDy20_valid_loss"]
        assert np.allclose(one[numbers].astype(float), two[numbers].astype(float), atol=1e-4), (name, one, two)
        assert one["penalty"] > 0.1
