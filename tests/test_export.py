"""Checkpoints and exported files: the same model bit by bit, refused in one line where damaged, and never run."""

import json
import pickle
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from conftest import digest, folder, read, small_speech_encoder, small_text_encoder
from huggingface_hub import ModelCard, constants
from invented import change, invent
from safetensors.torch import save_file
from test_models import batch_of

import evaluate
import finetune
from models import FusionClassifier
from models.encoders import load_encoder
from models.tokenizer import load_tokenizer, tokenizer_digest
from utils.errors import UserError
from utils.files import BEST_MODEL, CONFIG, LEAKAGE, MEMBERSHIP, METRICS, write_json
from utils.identity import FORMAT
from utils.methods import KEMDY, METHODS
from utils.results import export as export_module
from utils.results.export import FACTS_OF_RUN, export, load_export, write_export
from utils.training.checkpoints import (
    CARD,
    DIGEST,
    FACTS,
    assemble,
    content_digest,
    describe_mismatch,
    load_run,
    read_export,
    read_state,
    read_weights,
    state_digest,
)
from utils.training.fisher import read_fisher
from utils.training.sources import load_model

EXPORTED = ("task_a", "finetune", "adapter", "adapter_wo_pretraining")
KINDS = ("text", "speech")
LABELS = ("calm", "cross", "glad")  # not KEMDy's
EVERY = pytest.mark.parametrize("method", EXPORTED)


def make_run(root, method, encoders):
    """A finished run of a model that is not trained."""
    drawn, sequence = method == "adapter_wo_pretraining", ["A", "B"] if method == "finetune" else ["A"]
    arguments = {"data_root": "/home/secret/data", "lr": 1e-3, "mixed_precision": "no", "max_text_len": 32, "max_seq_len": 5.0}
    arguments |= {f"{kind}_model": str(encoders / kind) for kind in KINDS}
    if METHODS[method].model == "adapter":
        arguments |= {"adapter_size": 8, "encoder_seed": 5, "without_pretraining": drawn}
    loaded = [load_encoder(kind, encoders / kind, not drawn, 5 if drawn else 12) for kind in KINDS]
    path = invent(
        root, "secret-name", sequence, dict.fromkeys(sequence, 0.5), counts=dict.fromkeys(LABELS, 2), method=method,
        corpus={"root": "/home/secret/data", "skipped_files": {"secret-file.wav": "it is empty"}}, arguments=arguments,
        encoders={kind: encoder.provenance for kind, encoder in zip(KINDS, loaded)}, synthetic=True,
        versions={"torch": "2.11.0"}, machine={"host": "secret-host"},
    )  # fmt: skip
    torch.manual_seed(len(method))
    state = assemble(read(path / CONFIG), *loaded).checkpoint_state()
    torch.save({name: tensor.clone() for name, tensor in state.items()}, path / BEST_MODEL)
    return path


@pytest.fixture(scope="module")
def made(encoders, tmp_path_factory):
    """Run folders and exported files, ``{method: (run, file)}``."""
    root = tmp_path_factory.mktemp("runs")
    made = {method: (make_run(root / method, method, encoders), root / f"{method}.safetensors") for method in EXPORTED}
    for run, path in made.values():
        export(run, path)
    return made


@pytest.fixture()
def copied(made, tmp_path):
    """copied(method) → a copy of its run folder."""
    return lambda method: shutil.copytree(made[method][0], tmp_path / method)


@torch.no_grad()
def logits(model):
    return model(*batch_of((4_000, 9_333), (5, 9)))


def refused(call, *arguments, **named):
    """The one line that a call is refused with."""
    with pytest.raises(UserError) as raised:
        call(*arguments, **named)
    line = str(raised.value)
    assert "\n" not in line
    return line


@EVERY
def test_an_exported_model_equals_its_run_bit_by_bit(made, encoders, method, monkeypatch):
    run, path = made[method]
    model, config = load_run(run)
    named = {f"{kind}_model": encoders / kind for kind in KINDS} if method == "adapter" else {}
    if not named:
        monkeypatch.setattr("utils.training.sources.load_encoder", None)  # no encoder's folder is needed
    again, facts = load_export(path, **named)
    assert not again.training and logits(model).shape == (2, len(LABELS)) and torch.equal(logits(again), logits(model))
    assert {name: facts[name] for name in FACTS_OF_RUN} == {name: config[name] for name in FACTS_OF_RUN}
    scores = {name: of["f1_macro"] for name, of in facts["scores"].items()}
    assert scores == {name: of["f1_macro"] for name, of in read(run / METRICS)["test"].items()}
    sources = load_model(run), load_model(path, **named)
    assert sources[0].digest == sources[1].digest and sources[0].facts["temperature"] == sources[1].facts["temperature"] == 1.5
    assert tokenizer_digest(sources[1].tokenizer) == tokenizer_digest(load_tokenizer(encoders / "text"))
    # It holds what was trained, and random encoders.
    state, trained = read_weights(path), read_weights(run / BEST_MODEL)
    assert all(torch.equal(state[name], tensor) for name, tensor in trained.items())
    same = method != "adapter_wo_pretraining"
    assert (state.keys() == trained.keys()) == (state_digest(state) == state_digest(trained)) == same


@EVERY
def test_the_file_and_its_card_name_no_utterance_and_no_path(made, encoders, method, call_main):
    path = made[method][1]
    card = path.with_suffix(".md")
    for secret in (b"secret", str(encoders).encode(), b"host"):
        assert secret not in path.read_bytes() + card.read_bytes()
    code, stdout, _ = call_main(export_module, path)
    assert code == 0 and stdout == card.read_text(encoding="utf-8")
    scores = [line for line in stdout.splitlines() if line.startswith("| SYNTHETIC ")]
    assert [line.split()[2] for line in scores] == (["A", "B"] if method == "finetune" else ["A"])
    for text in (METHODS[method].sentence, "membership inference", "load_predictor", "calm, cross, glad", "lr 0.001"):
        assert text in stdout
    assert "first 5 s" in stdout and "32 tokens" in stdout and "Temperature 1.5," in stdout and "centroids" not in stdout
    assert ("Nothing else is needed" in stdout) == (", text_model=" not in stdout) == (method != "adapter")
    assert ("--checkpoint FILE" in stdout) == (METHODS[method].model == "fusion")
    assert ("On A, then B;" in stdout) == (method == "finetune")


def test_the_card_of_a_real_run_and_of_hub_encoders(copied, tmp_path):
    run = copied("task_a")
    encoders = read(run / CONFIG)["encoders"]
    encoders["text"] |= {"name": "klue/bert-base@main", "hub_commit": "0" * 40, "synthetic": False}
    encoders["speech"] |= {"name": "/home/someone/models/wav2vec2/", "synthetic": False}
    change(run, encoders=encoders, synthetic=False)
    export(run, tmp_path / "file")
    facts = load_export(tmp_path / "file")[1]
    assert [of["name"] for of in facts["encoders"].values()] == ["klue/bert-base@main", "wav2vec2"]
    card = (tmp_path / "file.md").read_text(encoding="utf-8")
    assert "SYNTHETIC" not in card and "| CC BY-SA 4.0 |" in card and "ask its publisher" in card
    data = ModelCard(card).data
    assert data.base_model == ["klue/bert-base"] and "synthetic" not in data.tags and data.language is None


def test_the_hub_reads_the_scores_in_the_card(made):
    for method, (run, path) in made.items():
        card = ModelCard.load(path.with_suffix(".md"))
        assert str(card) == read_export(path).card and card.data.base_model is card.data.license is None
        assert card.data.pipeline_tag == "audio-classification" and {method, "synthetic"} <= set(card.data.tags)
        found = {(result.dataset_name, result.metric_args["average"]): result for result in card.data.eval_results}
        expected = {
            (f"SYNTHETIC {task}", average): scores[f"f1_{average}"]
            for task, scores in read(run / METRICS)["test"].items()
            for average in ("weighted", "macro", "micro")
        }
        assert {name: result.metric_value for name, result in found.items()} == expected
        assert {result.dataset_split for result in found.values()} == {"test"}


def test_what_missing_transcripts_cost_is_in_the_card(copied, tmp_path):
    run = copied("task_a")
    metrics = read(run / METRICS)
    low = {"A": metrics["test"]["A"] | {"f1_weighted": 0.125}}
    write_json(run / METRICS, metrics | {"test_without_text": low})
    export(run, tmp_path / "file")
    exported = read_export(tmp_path / "file")
    assert exported.facts["scores_without_text"]["A"]["f1_weighted"] == 0.125
    assert "| SYNTHETIC A, without transcripts | 0.1250 | " in exported.card


def test_a_file_that_is_of_no_run(made, encoders, tmp_path, monkeypatch):
    """As of a mean of two models, which nobody has tested."""
    monkeypatch.setitem(METHODS, "merged", replace(METHODS["task_a"], name="merged", sentence="The mean of two models."))
    source = load_model(made["task_a"][1])
    facts = source.facts | {"method": "merged", "parents": ["12" * 32, "ab" * 32], "alpha": 0.25, "temperature": None}
    facts |= {"scores": {}, "scores_without_text": {}, "sequence": ["A", "B"]}
    write_export(tmp_path / "mean", source.model.checkpoint_state(), facts, source.tokenizer)
    again = load_model(tmp_path / "mean")
    assert again.digest == source.digest and again.facts == facts
    card = ModelCard.load(tmp_path / "mean.md")
    assert card.data.eval_results is None and "None were measured." in card.text and "Temperature" not in card.text
    assert "0.75 × those of model `121212121212` + 0.25 × those of `abababababab`. On A and B;" in card.text


def test_centroids_leave_only_where_that_is_asked_for(copied, encoders, tmp_path, call_main):
    run, path, named = copied("adapter"), tmp_path / "file", {f"{kind}_model": encoders / kind for kind in KINDS}
    code, _, stderr = call_main(export_module, run, path, "--with_centroids")
    assert code == 1 and "has no centroids.pt: 'python -m utils.training.routing " in stderr and not path.exists()
    centroids = torch.arange(10.0).reshape(5, 2)
    torch.save(centroids, run / "centroids.pt")
    export(run, path)
    assert load_model(path, **named).centroids is None and "centroids" not in read_export(path).card
    code, _, stderr = call_main(export_module, run, path, "--with_centroids", "--overwrite")
    assert code == 0, stderr
    source = load_model(path, **named)
    assert torch.equal(source.centroids, centroids) and source.digest == load_model(run).digest
    assert "means of the features of people's utterances" in read_export(path).card.split("## Privacy")[1]


def test_fisher_information_is_written_beside_the_file(copied, tmp_path, call_main):
    run, path = copied("task_a"), tmp_path / "file.safetensors"
    fisher = tmp_path / "file.fisher.safetensors"

    def keep(batch_size, model=None):
        facts = {"task": "A", "model": model or load_model(run).digest, "batch_size": batch_size, "utterances": "1"}
        torch.save(facts | {"fisher": {"classifier.bias": torch.ones(3)}}, run / f"fisher-b{batch_size}.pt")

    keep(20, "of another model")
    for batch_size in (1, 10):  # the only one, and of two the usual one
        keep(batch_size)
        code, stdout, stderr = call_main(export_module, run, path, "--with_fisher", "--overwrite")
        assert code == 0 and str(fisher) in stdout, stderr
        assert read_fisher(fisher)["batch_size"] == batch_size
    assert b"secret" not in fisher.read_bytes()
    path.unlink(), path.with_suffix(".md").unlink()
    code, _, stderr = call_main(export_module, run, path, "--with_fisher")
    assert code == 1 and f"{fisher} exists" in stderr and not path.exists()


def test_only_finished_runs_are_exported_and_nothing_is_overwritten(call_main, copied, tmp_path):
    run, target = copied("task_a"), tmp_path / "file.safetensors"
    for arguments, answer in (
        ((run, tmp_path), "is a folder"),
        ((run, tmp_path / "card.md"), "ends as the model card"),
        ((run,), "is a folder: name the FILE"),
        ((run, tmp_path / "nowhere" / "file"), "cannot be written"),
    ):
        code, _, stderr = call_main(export_module, *arguments)
        assert code == 1 and stderr.startswith("error: ") and stderr.count("\n") == 1 and answer in stderr
    assert call_main(export_module, run, target)[0] == 0
    before = target.with_suffix(".md").read_bytes()
    for existing in (target, target.with_suffix(".md")):
        code, _, stderr = call_main(export_module, run, target)
        assert code == 1 and f"{existing} exists" in stderr and "--overwrite" in stderr
        existing.unlink()
    target.write_text("something else")
    assert call_main(export_module, run, target, "--overwrite")[0] == 0
    assert target.with_suffix(".md").read_bytes() == before
    change(run, method="of_a_colleague")
    assert "which utils/methods.py does not declare" in refused(export, run, tmp_path / "another")
    (run / METRICS).unlink()
    assert "is not a finished run" in refused(export, run, tmp_path / "another")


def test_what_is_no_exported_file_is_refused(made, tmp_path, call_main):
    state, facts, card, _ = read_export(made["task_a"][1])

    def write(name, state=state, **changes):
        text = json.dumps(facts | changes)
        save_file(state, tmp_path / name, {FACTS: text, CARD: card, DIGEST: content_digest(state, text, card)})

    write("former", format=2)
    write("newer", model="mixture")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain")
    (tmp_path / "half").write_bytes(made["task_a"][1].read_bytes()[:-1000])
    for name, answer in (
        ("former", "is of format 2, this version reads 4: export it again"),
        ("newer", "is of a model 'mixture', and models/__init__.py has fusion, fusion_frozen_speech, adapter"),
        *((name, "is not a whole file that 'python -m utils.results.export' wrote") for name in ("plain", "half", "none")),
    ):
        code, _, stderr = call_main(export_module, tmp_path / name)
        assert code == 1 and stderr.startswith("error: ") and stderr.count("\n") == 1 and answer in stderr
    # Settings that this version of transformers does not have or cannot build, and weights of another model.
    text = facts["encoders"]["text"]
    for settings, answer in (
        ({"auto_map": "code.Model"}, "has a setting 'auto_map'"),
        ({"model_type": "mine"}, "cannot be built from its settings"),
        ({"intermediate_size": 40}, "does not hold the model that it describes"),
    ):
        described = text | {"architecture": text["architecture"] | settings}
        write("settings", encoders=facts["encoders"] | {"text": described})
        assert answer in refused(load_export, tmp_path / "settings")


def test_adapters_need_their_own_encoders(made, encoders, tmp_path):
    path = made["adapter"][1]
    assert "the text encoder text is not on this machine" in refused(load_export, path)
    shutil.copytree(encoders / "text", tmp_path / "another")
    torch.manual_seed(2)
    small_text_encoder().save_pretrained(tmp_path / "another")
    for call, of in ((load_export, path), (load_run, made["adapter"][0])):
        line = refused(call, of, tmp_path / "another", encoders / "speech")
        assert "made with the text encoder" in line and f"--text_model {tmp_path / 'another'} is another" in line


def named_anew(run, **names):
    encoders = read(run / CONFIG)["encoders"]
    for name, value in names.items():
        encoders[name.removesuffix("_model")] |= {"name": value, "hub_commit": "0" * 40}
    change(run, arguments=names, encoders=encoders)


def test_hub_names_in_files_are_taken_from_the_cache_and_never_fetched(copied, encoders, tmp_path, monkeypatch):
    for kind in ("text", "speech"):
        model = tmp_path / "hub" / f"models--owner--{kind}"
        shutil.copytree(encoders / kind, model / "snapshots" / ("0" * 40))
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    run = copied("adapter")
    expected = logits(load_run(run)[0])
    named_anew(run, text_model="owner/text", speech_model="owner/speech@main")
    assert torch.equal(logits(load_run(run)[0]), expected)
    export(run, tmp_path / "file")
    assert torch.equal(logits(load_export(tmp_path / "file")[0]), expected)
    for name in ("owner/elsewhere", "owner/text@nothing"):
        named_anew(run, text_model=name)
        line = refused(load_run, run)
        assert f"{name} is not on this machine" in line and "--text_model" in line and "text_model=" in line
    assert torch.equal(logits(load_run(run, text_model=encoders / "text")[0]), expected)


def as_published(model):
    """The state dict that older transformers, in DataParallel, saved of a fusion model."""
    state = {name: tensor for name, tensor in model.state_dict().items() if ".parametrizations." not in name}
    # As torch's former weight norm itself splits the weight.
    trained = model.speech_encoder.encoder.pos_conv_embed.conv
    former = torch.nn.Conv1d(20, 20, 16, groups=2)
    former.weight = torch.nn.Parameter(trained.weight.detach().clone())
    with warnings.catch_warnings(action="ignore"):
        torch.nn.utils.weight_norm(former, dim=2)
    parts = trained.parametrizations.weight
    with torch.no_grad():
        parts.original0.copy_(former.weight_g), parts.original1.copy_(former.weight_v)
        former(torch.zeros(1, 20, 20))  # multiplies the two
        assert torch.allclose(trained.weight, former.weight, atol=1e-6)
    prefix, positions = "speech_encoder.encoder.pos_conv_embed.conv.", torch.arange(64)[None]
    state |= {prefix + name: getattr(former, name).detach() for name in ("weight_g", "weight_v")}
    buffers = {"position_ids": positions, "token_type_ids": torch.zeros_like(positions)}
    return state | {f"text_encoder.embeddings.{name}": tensor for name, tensor in buffers.items()}


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_a_checkpoint_of_the_published_code_gives_the_same_logits(tmp_path, prefix):
    torch.manual_seed(4)
    published, model = (FusionClassifier(small_text_encoder(), small_speech_encoder(), 7).eval() for _ in range(2))
    state = {prefix + name: tensor for name, tensor in as_published(published).items()}
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert not torch.allclose(logits(model), logits(published), atol=1e-3)
    model.load_checkpoint_state(read_weights(tmp_path / "old.pt"))
    assert torch.equal(logits(model), logits(published))
    # A file with both names of one weight is of neither.
    state |= {prefix + name: tensor for name, tensor in published.state_dict().items() if "original1" in name}
    torch.save(state, tmp_path / "both.pt")
    assert "it also holds" in describe_mismatch(read_weights(tmp_path / "both.pt"), model.state_dict())


@pytest.mark.parametrize("tensor, answer", [
    (torch.zeros(4), r"classifier.bias is (4,) there and (3,) in the model"),
    (torch.tensor([0, float("nan"), 0]), "classifier.bias holds numbers that are not finite"),
    (3, "not a plain state dict of tensors"),
])  # fmt: skip
def test_weights_that_do_not_fit_are_refused(copied, tensor, answer):
    run = copied("task_a")
    good = read_state(run / BEST_MODEL)
    torch.save(good | {"classifier.bias": tensor}, run / BEST_MODEL)
    assert answer in refused(load_run, run)
    torch.save(good | {"classifier.bias": torch.ones(3, dtype=torch.float16)}, run / BEST_MODEL)
    assert torch.equal(load_run(run)[0].classifier.bias, torch.ones(3))


def test_a_config_of_another_run_or_code_is_one_line(copied):
    run = copied("adapter")
    config = (run / CONFIG).read_text()
    for changes, answer in (
        ({"format": FORMAT - 1}, f"has format {FORMAT - 1}"),
        ({"model": "mixture"}, "is of a model 'mixture'"),
        ({"labels": ["one", "two"]}, "is not of the run in config.json: classifier.weight is (3"),
        ({"arguments": {"adapter_size": 16}}, "is not of the run in config.json: text_encoder"),
    ):
        change(run, **changes)
        assert answer in refused(load_run, run)
        (run / CONFIG).write_text(config)
    (run / CONFIG).write_text(config[:-100])
    assert "cannot be read" in refused(load_run, run)


@pytest.mark.parametrize("error", [AttributeError, TypeError, RuntimeError])
def test_a_bug_in_a_model_is_no_damaged_checkpoint(made, monkeypatch, error):
    def bug(*arguments, **named):
        raise error("a planted bug")

    for call, of in zip((load_run, load_export), made["task_a"]):
        for place in ("__init__", "state_dict"):
            with monkeypatch.context() as patch, pytest.raises(error, match="a planted bug"):
                patch.setattr(FusionClassifier, place, bug)
                call(of)


def test_a_damaged_file_is_refused_in_one_line(made, tmp_path):
    run, exported = made["adapter_wo_pretraining"]
    own, path = read_weights(run / BEST_MODEL), tmp_path / "file"
    for good in (run / BEST_MODEL, exported):
        content, refusals = good.read_bytes(), 0
        # At the beginning and the end a format says what it holds.
        places = [*range(0, 100, 5), *range(100, len(content), len(content) // 20), *range(len(content) - 100, len(content), 5)]
        for place in places:
            flipped = content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :]
            for changed in (content[:place], flipped):
                path.write_bytes(changed)
                try:
                    state = read_weights(path)
                except UserError as error:
                    refusals += 1
                    assert "\n" not in str(error)
                else:
                    # Damage to what says nothing, such as padding in front of a tensor, is no damage.
                    assert good != exported and all(torch.equal(tensor, own[name]) for name, tensor in state.items())
        assert refusals > len(places)


class Malice:
    """Unpickled, it would make a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_nothing_in_a_checkpoint_can_run(tmp_path):
    harm, path = Malice(tmp_path / "harm"), tmp_path / BEST_MODEL
    path.write_bytes(pickle.dumps(harm))
    assert "is refused: not a plain state dict of tensors" in refused(read_weights, path)
    torch.save({"classifier.weight": harm}, path)
    assert "more than tensors could run code" in refused(read_weights, path)
    assert not (tmp_path / "harm").exists()


def test_recompute_fetches_nothing_and_takes_the_encoders_that_are_named(call_main, outputs, encoders, tmp_path):
    run = shutil.copytree(folder(outputs, "adapter", KEMDY[0]), folder(tmp_path, "adapter", KEMDY[0]))
    named_anew(run, text_model="owner/elsewhere")
    arguments = ("--output_root", tmp_path, "--recompute", "--cpu", "--num_workers", 0)
    code, stdout, _ = call_main(evaluate, *arguments)
    assert code == 1 and "owner/elsewhere is not on this machine" in stdout
    code, stdout, stderr = call_main(evaluate, *arguments, "--text_model", encoders / "text")
    assert code == 0 and " equal" in stdout, stderr


def test_training_starts_from_an_exported_file_as_from_its_run(call, outputs, tmp_path):
    first, second = KEMDY
    for experiment in ("task_a", "adapter"):
        export(folder(outputs, experiment, first), tmp_path / experiment)
    code, stdout, stderr = call(finetune, "--task", second, "--checkpoint", tmp_path / "task_a", output_root=tmp_path)
    assert code == 0, stderr
    assert "cannot be checked" not in stdout
    run = folder(tmp_path, "finetune", second)
    assert digest(run / BEST_MODEL) == digest(folder(outputs, "finetune", second) / BEST_MODEL)
    assert read(run / CONFIG)["started_from"]["method"] == "task_a"
    arguments = ("--task", second, "--checkpoint", tmp_path / "adapter", "--exp_name", "another")
    code, _, stderr = call(finetune, *arguments, output_root=tmp_path)
    assert code == 1 and stderr.startswith("error: ") and stderr.count("\n") == 1 and str(tmp_path / "adapter") in stderr


MEASURED = {
    "tested": "A", "question": "session", "attack": "threshold", "models": 1, "members": 6738, "non_members": 1900,
    "auc": 0.64, "low": 0.6, "high": 0.69, "tpr_1": 0.021, "tpr_01": None, "epsilon_bound": None,
}  # fmt: skip
PRIVATE = {
    "unit": "utterance", "epsilon": 3.0, "delta": 1e-5, "clip": 1.0, "noise_multiplier": 2.01, "sample_rate": 0.038,
    "steps": 1040, "accountant": "rdp", "opacus": "1.6.0", "class_weights": None,
}  # fmt: skip


def measured(run, *rows):
    """Write what leakage.py writes beside a run."""
    write_json(run / LEAKAGE, {"model": state_digest(read_state(run / BEST_MODEL)), "measured": list(rows)})
    (run / MEMBERSHIP).write_text("task,segment_id,session,split,label,phi\nA,secret-id,secret-session,train,calm,1\n")


def privacy_of(path):
    """The section Privacy of a file's card."""
    return read_export(path).card.partition("## Privacy\n")[2]


def test_what_was_measured_of_a_leak_is_on_the_card_and_names_nobody(copied, made, tmp_path):
    assert "was not measured" in privacy_of(made["adapter"][1])
    run, path = copied("adapter"), tmp_path / "a.safetensors"
    halves = MEASURED | {"question": "utterance", "attack": "lira_online", "models": 16, "epsilon_bound": 1.25}
    measured(run, MEASURED, halves)
    export(run, path)
    text = privacy_of(path)
    row = "| SYNTHETIC A | session | how sure the model is of the true emotion | 1 | 6,738 / 1,900 | 0.640 (0.600 to 0.690) | "
    assert f"{row}2.10 % | – |" in text
    assert "an ε below 1.25" in text and "Not tried" in text and "was not measured" not in text
    assert read_export(path).facts["leakage"] == [MEASURED, halves]
    assert b"secret" not in path.read_bytes()


def test_a_measurement_of_another_model_is_refused(copied, made, tmp_path):
    run = copied("adapter")
    measured(run, MEASURED)
    write_json(run / LEAKAGE, read(run / LEAKAGE) | {"model": "0" * 64})
    assert "is of another model" in refused(export, run, tmp_path / "a.safetensors")


def test_a_private_model_says_its_epsilon_and_hands_on_nothing_that_is_outside_of_it(copied, tmp_path):
    run, path = copied("adapter"), tmp_path / "a.safetensors"
    change(run, privacy=PRIVATE)
    metrics = read(run / METRICS)
    write_json(run / METRICS, metrics | {"temperature": 1.7})
    export(run, path)
    facts, text = read_export(path).facts, privacy_of(path)
    assert facts["privacy"] == PRIVATE and facts["temperature"] is None
    assert "ε = 3 and δ = 1e-05" in text and "noise multiplier 2.01" in text and "outside ε" in text
    torch.save(torch.zeros(5, 44), run / "centroids.pt")
    assert "does not cover centroids" in refused(export, run, path, overwrite=True, with_centroids=True)


def test_an_epsilon_that_was_measured_to_be_wrong_is_not_exported(copied, tmp_path):
    run = copied("adapter")
    change(run, privacy=PRIVATE)
    # That a session is told well contradicts no ε of single utterances.
    halves = MEASURED | {"question": "utterance"}
    # Nor does what is told of another task's utterances.
    other = halves | {"tested": "B", "epsilon_bound": 4.0}
    measured(run, MEASURED | {"auc": 0.99}, halves | {"epsilon_bound": 2.9}, other)
    export(run, tmp_path / "a.safetensors")
    measured(run, halves | {"epsilon_bound": 3.1})
    line = refused(export, run, tmp_path / "b.safetensors")
    assert "ε = 3" in line and "3.1" in line and not (tmp_path / "b.safetensors").exists()
