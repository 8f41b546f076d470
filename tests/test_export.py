"""Files that come from elsewhere, and the one file that goes there: whole, refused in one line, and never obeyed."""

import io
import json
import pickle
import random
import shutil
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import digest, folder, read, small_speech_encoder, small_text_encoder
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from test_models import batch_of
from test_scripts import Malice

import evaluate
import finetune
from models import FusionClassifier
from models.encoders import load_encoder, make_padding_invariant
from utils.data import speech_cache
from utils.data.kemdy import CORPORA, read_corpus
from utils.data.speech_cache import FEATURES, INDEX
from utils.errors import UserError
from utils.files import BEST_MODEL, CONFIG, METRICS
from utils.results import export as export_module
from utils.results.export import export, load_export
from utils.training.checkpoints import CARD, DIGEST, FACTS, content_digest, load_run, read_export, read_state, read_weights
from utils.training.start import StartingPoint

FIRST, SECOND = CORPORA
EXPORTED = ("task_a", "finetune", "adapter", "adapter_wo_pretraining")
CASES = 40  # of each kind of file and damage
ODD = (
    None,
    True,
    -1,
    0,
    2**70,
    -(10**30),
    1e308,
    float("nan"),
    "",
    "a\nb",
    "\x1b[2J",
    "../..",
    "x" * 5000,
    [],
    [1],
    {},
    {"a": 1},
)


@pytest.fixture(scope="module")
def files(outputs, tmp_path_factory):
    """Exported files of FIRST's runs, ``{experiment: path}``."""
    root = tmp_path_factory.mktemp("exported")
    paths = {experiment: root / f"{experiment}.safetensors" for experiment in EXPORTED}
    for experiment, path in paths.items():
        export(folder(outputs, experiment, FIRST), path)
    return paths


@pytest.fixture()
def copied(outputs, tmp_path):
    """copied(experiment) → a copy of FIRST's run folder."""
    return lambda experiment: shutil.copytree(folder(outputs, experiment, FIRST), tmp_path / experiment)


def logits(model):
    with torch.no_grad():
        return model(*batch_of((4_000, 9_333), (5, 9)))


def refused(call, *arguments, **named):
    """The one line that a call is refused with."""
    with pytest.raises(UserError) as raised:
        call(*arguments, **named)
    line = str(raised.value)
    assert line.isprintable()
    return line


def described_anew(path, target, change=None, card=None):
    """Copy an exported file with changed facts."""
    state, facts, own_card = read_export(path)
    if change:
        change(facts)
    return written(state, facts, own_card if card is None else card, target)


def written(state, facts, card, target):
    """Write a file as the export does, with a checksum that is right, whatever it says."""
    told = json.dumps(facts)
    save_file(state, target, {FACTS: told, CARD: card, DIGEST: content_digest(state, told, card)})
    return target


@pytest.mark.parametrize("experiment", EXPORTED)
def test_an_exported_model_answers_as_its_run_does_bit_by_bit(outputs, encoders, files, experiment, monkeypatch):
    run, config = load_run(folder(outputs, experiment, FIRST))
    named = {}
    if experiment == "adapter":
        named = {f"{kind}_model": encoders / kind for kind in ("text", "speech")}
    else:
        monkeypatch.setattr(export_module, "load_encoder", None)  # no encoder's folder is needed
    model, facts = load_export(files[experiment], **named)
    assert not model.training and torch.equal(logits(model), logits(run))
    for name in ("method", "task", "fold", "k_fold", "seed", "labels", "synthetic", "versions"):
        assert facts[name] == config[name]
    tests = read(folder(outputs, experiment, FIRST) / METRICS)["test"]
    assert {name: scores["f1_macro"] for name, scores in facts["scores"].items()} == {
        name: scores["f1_macro"] for name, scores in tests.items()
    }


@pytest.mark.parametrize("experiment", EXPORTED)
def test_an_exported_file_holds_what_was_trained_and_random_encoders(outputs, files, experiment):
    state, trained = load_file(files[experiment]), read_state(folder(outputs, experiment, FIRST) / BEST_MODEL)
    assert all(torch.equal(state[name], tensor) for name, tensor in trained.items())
    more = state.keys() - trained.keys()
    assert bool(more) == (experiment == "adapter_wo_pretraining")
    assert all(name.startswith(("text_encoder.", "speech_encoder.")) for name in more)


def test_an_exported_file_names_no_utterance_and_no_path(outputs, data_root, encoders, files):
    secrets = {str(path) for path in (data_root, outputs, encoders, encoders.parent, data_root / FIRST)}
    for name in CORPORA:
        for path in (data_root / name).rglob("*"):
            secrets |= {path.name, path.stem} if path.is_file() else {path.name}
        utterances = read_corpus(data_root / name, progress=False).utterances
        secrets |= {
            str(value) for column in ("segment_id", "text", "speaker") if column in utterances for value in utterances[column]
        }
    secrets |= {part for secret in secrets if "_" in secret for part in (secret.rsplit("_", 1)[0],)}
    secrets = {secret.encode() for secret in secrets if len(secret) > 3}
    secrets -= {b"SYNTHETIC"}
    assert len(secrets) > 100
    for path in files.values():
        content = path.read_bytes() + path.with_suffix(".md").read_bytes()
        assert [secret for secret in secrets if secret in content] == []
        assert b"/" not in read_export(path)[1]["encoders"]["text"]["name"].encode()


def test_the_card_is_printed_and_says_what_is_synthetic(call_main, files):
    for experiment, path in files.items():
        code, stdout, _ = call_main(export_module, path)
        assert code == 0 and stdout == path.with_suffix(".md").read_text(encoding="utf-8")
        scores = [line for line in stdout.splitlines() if line.startswith(("| KEMDy", "| SYNTHETIC"))]
        assert len(scores) == (2 if experiment == "finetune" else 1) and all("SYNTHETIC KEMDy" in line for line in scores)
        assert "membership inference" in stdout and "load_export" in stdout
        assert ("--checkpoint" in stdout) == (not experiment.startswith("adapter"))
    facts = read_export(files["task_a"])[1]
    facts["synthetic"] = False
    facts["encoders"]["text"] |= {"name": "klue/bert-base@main", "synthetic": False}
    facts["encoders"]["speech"] |= {"name": "wav2vec2", "synthetic": False}
    card = export_module.model_card(facts)
    assert "SYNTHETIC" not in card and "| CC BY-SA 4.0 |" in card and "ask whoever published it" in card


def test_hub_names_stay_and_paths_do_not(copied, encoders, tmp_path):
    run = copied("task_a")
    config = read(run / CONFIG)
    config["encoders"]["text"] |= {"name": "klue/bert-base@main", "hub_commit": "0" * 40}
    config["encoders"]["speech"]["name"] = "/home/someone/models/wav2vec2/"
    (run / CONFIG).write_text(json.dumps(config))
    export(run, tmp_path / "file")
    facts = load_export(tmp_path / "file")[1]
    assert [facts["encoders"][kind]["name"] for kind in ("text", "speech")] == ["klue/bert-base@main", "wav2vec2"]


def test_only_finished_runs_are_exported_and_nothing_is_overwritten(call_main, copied, tmp_path):
    run, target = copied("task_a"), tmp_path / "file.safetensors"
    for arguments, answer in (
        ((run, run / "file"), "among the run's own files"),
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
    metrics = read(run / METRICS)
    for test in ({}, {"KEMDy19": {"f1_macro": 1.0}}, {"KEMDy19": dict.fromkeys(metrics["test"]["KEMDy19"], "a path")}, 3):
        (run / METRICS).write_text(json.dumps(metrics | {"test": test}))
        assert "has no scores under 'test'" in refused(export, run, tmp_path / "another")
    (run / METRICS).unlink()
    code, _, stderr = call_main(export_module, run, target)
    assert code == 1 and "is not a finished run" in stderr


def test_what_is_not_read_back_as_written_is_removed(copied, tmp_path, monkeypatch):
    # A disk that loses a bit of the last tensor.
    save = export_module.safetensors.torch.save

    def losing(state, metadata):
        content = save(state, metadata)
        return content[:-1] + bytes([content[-1] ^ 1])

    monkeypatch.setattr(export_module.safetensors.torch, "save", losing)
    assert "was read back otherwise" in refused(export, copied("task_a"), tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_adapters_want_their_own_base(files, encoders, tmp_path):
    assert "the text encoder text is not on this machine" in refused(load_export, files["adapter"])
    torch.manual_seed(2)
    shutil.copytree(encoders / "text", tmp_path / "another")
    small_text_encoder().save_pretrained(tmp_path / "another")
    line = refused(load_export, files["adapter"], tmp_path / "another", encoders / "speech")
    assert "text encoder text (" in line and f"--text_model {tmp_path / 'another'} is another" in line


@pytest.fixture()
def cache(encoders, tmp_path, monkeypatch):
    """A hub cache that holds the two encoders as owner/text and owner/speech."""
    for kind in ("text", "speech"):
        model = tmp_path / "hub" / f"models--owner--{kind}"
        shutil.copytree(encoders / kind, model / "snapshots" / ("0" * 40))
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def named_anew(run, **names):
    config = read(run / CONFIG)
    config["arguments"] |= names
    for name, value in names.items():
        config["encoders"][name.removesuffix("_model")] |= {"name": value, "hub_commit": "0" * 40}
    (run / CONFIG).write_text(json.dumps(config))


def test_hub_names_in_files_are_taken_from_the_cache_and_never_fetched(copied, cache, encoders, tmp_path):
    run = copied("adapter")
    expected = logits(load_run(run)[0])
    named_anew(run, text_model="owner/text", speech_model="owner/speech@main")
    assert torch.equal(logits(load_run(run)[0]), expected)
    export(run, tmp_path / "file")
    assert torch.equal(logits(load_export(tmp_path / "file")[0]), expected)
    named_anew(run, text_model="owner/elsewhere")
    line = refused(load_run, run)
    assert "owner/elsewhere is not on this machine" in line and "--text_model" in line and "text_model=" in line
    assert torch.equal(logits(load_run(run, text_model=encoders / "text")[0]), expected)
    for name in ("../../nowhere", "/etc/hosts", "owner/text@../../../text", "a" * 3000, "owner/text@nothing"):
        named_anew(run, text_model=name)
        assert "is not on this machine" in refused(load_run, run)


def test_recompute_fetches_nothing_and_takes_the_encoders_that_are_named(call_main, outputs, encoders, tmp_path):
    run = shutil.copytree(folder(outputs, "adapter", FIRST), folder(tmp_path, "adapter", FIRST))
    named_anew(run, text_model="owner/elsewhere")
    arguments = ("--output_root", tmp_path, "--recompute", "--cpu", "--num_workers", 0)
    code, stdout, _ = call_main(evaluate, *arguments)
    assert code == 1 and "owner/elsewhere is not on this machine" in stdout
    code, stdout, stderr = call_main(evaluate, *arguments, "--text_model", encoders / "text")
    assert code == 0 and " equal" in stdout, stderr


def test_no_code_of_a_model_is_run(encoders, tmp_path):
    for kind, settings in (
        ("text", {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}),
        ("speech", read(encoders / "speech" / CONFIG) | {"auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}),
    ):
        path = shutil.copytree(encoders / kind, tmp_path / kind)
        (path / CONFIG).write_text(json.dumps(settings))
        (path / "code.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')\n")
        if kind == "text":
            refused(load_encoder, kind, path)
        else:
            assert load_encoder(kind, path).provenance == load_encoder(kind, encoders / kind).provenance | {"name": str(path)}
    assert not (tmp_path / "harm").exists()


def test_training_goes_on_from_an_exported_file_as_from_its_run(call, outputs, files, tmp_path):
    code, stdout, stderr = call(finetune, "--task", SECOND, "--checkpoint", files["task_a"], output_root=tmp_path)
    assert code == 0, stderr
    assert "cannot be checked" not in stdout
    assert digest(folder(tmp_path, "finetune", SECOND) / BEST_MODEL) == digest(folder(outputs, "finetune", SECOND) / BEST_MODEL)
    assert read(folder(tmp_path, "finetune", SECOND) / CONFIG)["started_from"]["method"] == "task_a"


@pytest.mark.parametrize(
    "experiment, change, answer",
    [
        ("task_a", {"task": SECOND}, f"is of task {SECOND}"),
        ("task_a", {"fold": 3}, "is of fold 3"),
        ("task_a", {"k_fold": 4}, "is of k_fold 4"),
        ("task_a", {"labels": ["angry"]}, "its labels are"),
        ("task_a", {"corpora": list(CORPORA)}, f"already been trained on {SECOND}"),
        ("finetune", {}, f"already been trained on {SECOND}"),
        ("adapter", {}, "does not fit: it lacks"),
        ("adapter_wo_pretraining", {}, "(000000000000)"),
    ],
)
def test_an_exported_file_that_is_no_start_is_one_line(call, files, tmp_path, experiment, change, answer):
    def changed(facts):
        facts |= change
        if experiment == "adapter_wo_pretraining":
            facts["encoders"]["text"]["fingerprint"] = "0" * 64

    path = described_anew(files[experiment], tmp_path / "file", changed)
    code, _, stderr = call(finetune, "--task", SECOND, "--checkpoint", path, output_root=tmp_path / "outputs")
    assert code == 1 and stderr.startswith("error: ") and stderr.count("\n") == 1
    assert answer in stderr and str(path) in stderr


def set_in(of, *names, value):
    """Change one place in nested dictionaries."""
    for name in names[:-1]:
        of = of[name]
    of[names[-1]] = value


@pytest.mark.parametrize(
    "place, value, answer",
    [
        (("format",), 1, "is of format 1, and this version reads format 2"),
        (("adapter_size",), 2**60, "has no 'adapter_size'"),
        (("adapter_size",), 2**30, "does not hold the model that it describes"),
        (("without_pretraining",), None, "has no 'adapter_size' or 'without_pretraining'"),
        (("method",), "task_a\nerror", "has no 'method'"),
        (("labels",), ["happy", "angry"], "its labels are"),
        (("encoders", "text"), {}, "has no 'encoders'"),
        (("encoders", "text", "architecture"), None, "has no 'architecture'"),
        (
            ("encoders", "text", "architecture", "model_type"),
            "detr",
            "'detr', which transformers does not know as a text encoder",
        ),
        (("encoders", "text", "architecture", "model_type"), [], "'[]', which transformers does not know"),
        (("encoders", "text", "architecture", "auto_map"), "code.Model", "has a setting 'auto_map'"),
        (("encoders", "text", "architecture", "attn_implementation"), "owner/code", "has a setting 'attn_implementation'"),
        (("encoders", "text", "architecture", "num_hidden_layers"), 10**9, "has a setting 'num_hidden_layers'"),
        (("encoders", "text", "architecture", "hidden_size"), 2**31, "has a setting 'hidden_size'"),
        (("encoders", "text", "architecture", "intermediate_size"), 2**20, "does not hold the model that it describes"),
        (("encoders", "text", "architecture", "hidden_act"), "os.system", "cannot be built"),
        (("encoders", "speech", "architecture", "conv_dim"), [8] * 5000, "has a setting 'conv_dim'"),
        (("encoders", "speech", "architecture", "conv_stride"), [2**20] * 3, "cannot be built"),
        (("encoders", "speech", "architecture", "mask_time_length"), 2**20, "cannot be built"),
        (("encoders", "speech", "architecture", "conv_kernel"), [[1]], "has a setting 'conv_kernel'"),
        (("encoders", "speech", "architecture", "layer_norm_eps"), float("nan"), "has a setting 'layer_norm_eps'"),
    ],
)
def test_facts_that_cannot_be_are_one_line(files, tmp_path, place, value, answer):
    path = described_anew(files["adapter_wo_pretraining"], tmp_path / "file", lambda facts: set_in(facts, *place, value=value))
    line = refused(load_export, path)
    assert answer in line and str(path) in line


def test_what_is_no_exported_file_is_refused(files, tmp_path, call_main):
    described_anew(files["task_a"], tmp_path / "escapes", card="\x1b[2J")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain")
    (tmp_path / "text").write_text("not a model")
    for name, answer in (
        ("escapes", "metadata"),
        ("plain", "metadata"),
        ("text", "not in safetensors format"),
        ("none", "there is no such file"),
    ):
        code, _, stderr = call_main(export_module, tmp_path / name)
        assert code == 1 and stderr.startswith("error: ") and stderr.count("\n") == 1 and answer in stderr


def as_published(model):
    """The state dict that older transformers, in DataParallel, saved of a fusion model."""
    state = {}
    for name, tensor in model.state_dict().items():
        if ".parametrizations." not in name:
            state[f"module.{name}"] = tensor
    # As torch's former weight norm itself splits the weight.
    trained = model.speech_encoder.encoder.pos_conv_embed.conv
    former = torch.nn.Conv1d(20, 20, 16, groups=2)
    former.weight = torch.nn.Parameter(trained.weight.detach().clone())
    with pytest.warns(FutureWarning):
        torch.nn.utils.weight_norm(former, dim=2)
    prefix, parts = "module.speech_encoder.encoder.pos_conv_embed.conv.", trained.parametrizations.weight
    assert torch.allclose(trained.weight, former.weight, atol=1e-6)
    with torch.no_grad():
        parts.original0.copy_(former.weight_g), parts.original1.copy_(former.weight_v)
        former(torch.zeros(1, 20, 20))  # multiplies the two
        assert torch.allclose(trained.weight, former.weight, atol=1e-6)
    state |= {prefix + name: getattr(former, name).detach() for name in ("weight_g", "weight_v")}
    positions = torch.arange(64)[None]
    buffers = {"position_ids": positions, "token_type_ids": torch.zeros_like(positions)}
    return state | {f"module.text_encoder.embeddings.{name}": tensor for name, tensor in buffers.items()}


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_a_checkpoint_of_the_published_code_gives_the_same_logits(tmp_path, prefix):
    torch.manual_seed(4)
    published = FusionClassifier(small_text_encoder(), small_speech_encoder()).eval()
    model = FusionClassifier(small_text_encoder(), small_speech_encoder()).eval()
    state = {prefix + name.removeprefix("module."): tensor for name, tensor in as_published(published).items()}
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert not torch.allclose(logits(model), logits(published), atol=1e-3)
    facts = StartingPoint(tmp_path / "old.pt", {}).load_into(model)
    assert facts["sha256"] == digest(tmp_path / "old.pt")
    assert torch.equal(logits(model), logits(published))
    norm = model.speech_encoder.encoder.pos_conv_embed.conv.parametrizations.weight
    assert norm.original0.numel() == norm.original1.shape[2]
    # A file with both names of one weight is of neither.
    state |= {prefix + name: tensor for name, tensor in published.state_dict().items() if "original1" in name}
    torch.save(state, tmp_path / "both.pt")
    assert "it also holds" in refused(StartingPoint(tmp_path / "both.pt", {}).load_into, model)


def test_weights_of_another_kind_are_refused(copied):
    run = copied("task_a")
    good = read_state(run / BEST_MODEL)
    for tensor, answer in (
        (torch.zeros(7, dtype=torch.long), "classifier.bias is torch.int64"),
        (torch.zeros(7, dtype=torch.complex64), "classifier.bias is torch.complex64"),
        (torch.zeros(7).to(torch.float8_e4m3fn), "classifier.bias is torch.float8_e4m3fn"),
        (torch.zeros(7, dtype=torch.bool), "classifier.bias is torch.bool"),
        (torch.zeros(()).expand(10**9), "classifier.bias is (1000000000,)"),
        (torch.zeros(7).to_sparse(), "not a plain state dict"),
        (torch.zeros(7, device="meta"), "not a plain state dict"),
    ):
        torch.save(good | {"classifier.bias": tensor}, run / BEST_MODEL)
        assert answer in refused(load_run, run)
    torch.save(good | {"two\nlines": torch.zeros(1)}, run / BEST_MODEL)
    refused(load_run, run)
    torch.save(good | {3: torch.zeros(1)}, run / BEST_MODEL)
    refused(load_run, run)


@pytest.mark.parametrize(
    "place, value, answer",
    [
        (("labels",), ["angry"], "its labels are"),
        (("labels",), "angry", "has no 'labels'"),
        (("encoders",), {}, "has no 'encoders'"),
        (("fold",), -1, "has no 'fold'"),
        (("seed",), 2**80, "has no 'seed'"),
        (("corpora",), {"a\nb": {}}, "has no 'corpora'"),
        (("arguments",), [], "has no 'arguments'"),
        (("arguments", "speech_model"), 3, "has no 'speech_model'"),
        (("arguments", "adapter_size"), -64, "has no 'adapter_size'"),
        (("arguments", "adapter_size"), 10**12, "its adapters are not of size 1000000000000"),
        (("arguments", "encoder_seed"), 2**70, "has no 'encoder_seed'"),
        (("arguments", "without_pretraining"), "no", "has no 'without_pretraining'"),
    ],
)
def test_a_malformed_config_is_one_line(copied, place, value, answer):
    run = copied("adapter")
    config = read(run / CONFIG)
    set_in(config, *place, value=value)
    (run / CONFIG).write_text(json.dumps(config))
    line = refused(load_run, run)
    assert answer in line and str(run) in line
    if place[0] != "arguments":
        assert answer in refused(find, run / BEST_MODEL)
    (run / CONFIG).write_text("[" * 100_000)
    assert "cannot be read" in refused(load_run, run) and "cannot be read" in refused(find, run / BEST_MODEL)


def find(path):
    """StartingPoint.find for a run on SECOND."""
    args = SimpleNamespace(checkpoint=path, task=SECOND, num_fold=0, k_fold=5)
    return StartingPoint.find(SimpleNamespace(args=args, say=lambda line: None), FIRST)


def damaged(content, rng):
    """Bytes that are cut off, flipped, or replaced in part; as often near an end, where a format says what it holds."""
    content = bytearray(content)
    near = min(len(content), rng.choice((200, 4_000, len(content))))
    place = rng.randrange(near) if rng.random() < 0.5 else len(content) - 1 - rng.randrange(near)
    kind = rng.randrange(3)
    if kind == 0:
        return bytes(content[:place])
    if kind == 1:
        for _ in range(rng.randrange(1, 9)):
            content[min(len(content) - 1, place + rng.randrange(40))] ^= 1 << rng.randrange(8)
        return bytes(content)
    length = rng.randrange(1, 400)
    other = rng.randrange(len(content))
    content[place : place + length] = rng.choice((rng.randbytes(length), bytes(length), content[other : other + length], b""))
    return bytes(content)


def altered(tree, rng):
    """A JSON value with something in it replaced by something odd, or left out."""
    tree = json.loads(json.dumps(tree))
    of = tree
    while True:
        name = rng.choice(list(of) if isinstance(of, dict) else range(len(of)))
        if not isinstance(of[name], dict | list) or not of[name] or rng.random() < 0.2:
            break
        of = of[name]
    if rng.random() < 0.3:
        del of[name]
    else:
        of[name] = rng.choice(ODD)
    return tree


def outcome(call, *arguments):
    """What a call returns, None if it is refused in one line; whatever else it raises fails the test."""
    try:
        return call(*arguments)
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 7_000
        return None


def assert_some_of_each(results):
    assert any(result is None for result in results) and any(result is not None for result in results)


@pytest.mark.parametrize("experiment", ["task_a", "adapter"])
def test_a_damaged_checkpoint_is_read_or_refused(outputs, tmp_path, experiment):
    rng, path = random.Random(1), tmp_path / BEST_MODEL
    good = (folder(outputs, experiment, FIRST) / BEST_MODEL).read_bytes()
    own = read_state(folder(outputs, experiment, FIRST) / BEST_MODEL)
    results = []
    for _ in range(2 * CASES):
        path.write_bytes(damaged(good, rng))
        state = outcome(read_weights, path)
        # Damage to what says nothing, such as padding in front of a tensor, is no damage.
        assert state is None or all(torch.equal(tensor, own[name]) for name, tensor in state.items())
        results.append(state)
    assert results.count(None) > len(results) / 2


def test_a_checkpoint_with_parts_of_another_runs_nothing(outputs, tmp_path):
    # Each part of the zip file in turn is replaced by a pickle that would make a file.
    good = (folder(outputs, "adapter", FIRST) / BEST_MODEL).read_bytes()
    parts = zipfile.ZipFile(io.BytesIO(good)).namelist()
    for replaced in [name for name in parts if "/data/" not in name] + parts[-3:]:
        with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(tmp_path / BEST_MODEL, "w") as new:
            for name in parts:
                new.writestr(name, pickle.dumps(Malice(tmp_path / "harm")) if name == replaced else old.read(name))
        outcome(read_weights, tmp_path / BEST_MODEL)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("experiment", ["task_a", "adapter", "adapter_wo_pretraining"])
def test_a_damaged_exported_file_is_read_or_refused(files, encoders, tmp_path, experiment):
    rng, path = random.Random(2), tmp_path / "file"
    good, (state, facts, card) = files[experiment].read_bytes(), read_export(files[experiment])
    named = (encoders / "text", encoders / "speech") if experiment == "adapter" else ()
    results = []
    for case in range(2 * CASES):
        if case % 2:
            path.write_bytes(damaged(good, rng))
            assert outcome(load_export, path, *named) is None
        else:
            written(state, altered(facts, rng), card, path)
        loaded = outcome(load_export, path, *named)
        outcome(find, path)
        if loaded is not None:
            assert logits(loaded[0]).shape == (2, 7)
        results.append(loaded)
    assert_some_of_each(results)


@pytest.mark.parametrize("experiment", ["task_a", "adapter", "adapter_wo_pretraining"])
def test_a_damaged_config_is_read_or_refused(copied, experiment):
    rng, run = random.Random(3), copied(experiment)
    text = (run / CONFIG).read_bytes()
    config = json.loads(text)
    results = []
    for case in range(CASES):
        (run / CONFIG).write_bytes(damaged(text, rng) if case % 2 else json.dumps(altered(config, rng)).encode())
        results.append(outcome(load_run, run))
        outcome(find, run / BEST_MODEL)
    assert_some_of_each(results)


def test_a_damaged_index_of_speech_features_is_no_cache(data_root, encoders, tmp_path):
    corpus = read_corpus(data_root / SECOND, progress=False)
    encoder = make_padding_invariant(load_encoder("speech", encoders / "speech"))
    made = speech_cache.corpus_features(corpus, encoder, 5, "float16", tmp_path, torch.device("cpu"), lambda line: None)
    index, wanted = made.path.with_name(INDEX), (corpus.utterances["segment_id"], encoder.config.hidden_size, "float16")
    text = index.read_bytes()
    good, rng, results = json.loads(text), random.Random(4), []
    first, second = list(good["frames"])[:2]
    changes = [{"dtype": name} for name in ("float32", "int16", "object", "O", "V2", ["float16"], None)]
    changes += [{"width": width} for width in (good["width"] // 2, good["width"] * 2, 0, -20, 20.0, "20", True, None)]
    frames = good["frames"]
    # Of the right sum, but with less than nothing or nothing in one of them, or of one that is not named.
    changes += [{"frames": frames | {first: -1, second: frames[first] + frames[second] + 1}}]
    changes += [{"frames": frames | {first: 0, second: frames[first] + frames[second]}}]
    changes += [{"frames": {"x" if name == first else name: count for name, count in frames.items()}}, {"frames": []}]
    for change in changes:
        index.write_text(json.dumps(good | change))
        assert speech_cache._find(made.path.parent, *wanted) is None, change
    for case in range(4 * CASES):
        index.write_bytes(damaged(text, rng) if case % 2 else json.dumps(altered(good, rng)).encode())
        found = outcome(speech_cache._find, made.path.parent, *wanted)
        assert found is None or all(len(found[name]) > 0 for name in corpus.utterances["segment_id"])
        results.append(found)
    index.write_bytes(text)
    (made.path.parent / FEATURES).write_bytes(b"")
    assert speech_cache._find(made.path.parent, *wanted) is None
    assert all(found is None or np.isfinite(found[first].numpy()).all() for found in results)
