"""Variants of the model: LoRA, no adapters, other sizes of the speech adapter, shared adapters, a frozen speech encoder.

Each is compared with the model that it varies, trained by its script, and handed on.
"""

import copy
import json
import shutil

import pandas as pd
import pytest
import torch
from conftest import digest, flags, folder, read, run_main, small_speech_encoder, small_text_encoder
from corpora import make_iemocap, make_meld, make_ravdess
from test_models import LABELS, SAMPLES, TOKENS, batch_of, logits_alone_and_together
from torch import nn
from transformers import BertConfig, BertModel, Wav2Vec2Config, Wav2Vec2Model

import adapter
import evaluate
import finetune
from models import AdapterFusionClassifier, FrozenSpeechClassifier, FusionClassifier
from models.encoders import count_parameters, load_encoder
from models.speech import speech_features
from predict import load_predictor
from utils.errors import UserError
from utils.methods import METHODS
from utils.results import merge, score
from utils.results.export import export, load_export
from utils.training import routing
from utils.training.checkpoints import load_run, read_export

A, B = "KEMDy19", "KEMDy20"
# A small LoRA, and a speech adapter of another size.
SMALL = ("--lora_rank", 4, "--speech_adapter_layers", 2, "--speech_adapter_width", 8)
# Methods → task, and flags beside those of the registry.
TRAINED = {
    "adapter": (A, ()),
    "adapter_shared": (B, ()),
    "lora": (B, SMALL),
    "linear": (B, ()),
    "task_a_frozen_speech": (A, ()),
    "finetune_frozen_speech": (B, ()),
}
SHARED = ("adapter_shared", "finetune_frozen_speech")
EVERY = pytest.mark.parametrize("method", TRAINED)
QUERY = "attention.self.query"


def build(kind=AdapterFusionClassifier, **settings):
    torch.manual_seed(3)
    return kind(small_text_encoder(), small_speech_encoder(), LABELS, **settings).eval()


def own_names(model):
    """What the model trains, as a checkpoint names it."""
    return {name.replace(".default", "") for name, parameter in model.named_parameters() if parameter.requires_grad}


HEAD = {f"{part}.{kind}" for part in ("speech_projector", "classifier") for kind in ("weight", "bias")}
LORA = {
    f"text_encoder.encoder.layer.{layer}.attention.self.{part}.lora_{matrix}.weight"
    for layer in (0, 1)
    for part in ("query", "value")
    for matrix in "AB"
}
SPEECH = {f"speech_adapter.layers.{layer}.{kind}" for layer in range(3) for kind in ("weight", "bias")}


@pytest.mark.parametrize("settings, expected", [
    ({"adapter": "lora", "lora_rank": 4}, LORA | SPEECH | HEAD),
    ({"adapter": "none", "speech_adapter_layers": 0}, HEAD),
    (None, {f"text_encoder.{name}" for name in small_text_encoder().state_dict()} | HEAD),
])  # fmt: skip
def test_a_training_step_moves_what_the_checkpoint_holds_and_nothing_else(settings, expected):
    model = (build(FrozenSpeechClassifier) if settings is None else build(**settings)).train()
    assert model.checkpoint_state().keys() == own_names(model) == expected
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    reached = []
    model.text_encoder.embeddings.register_forward_hook(lambda module, inputs, output: reached.append(output.requires_grad))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):  # A moves once B is no longer zero
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(*batch_of(SAMPLES, TOKENS)), torch.arange(5)).backward()
        optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name.replace(".default", "") for name in moved} == expected
    # Frozen means evaluation mode, and no gradient below the first adapted layer.
    assert not any(module.training for module in model.speech_encoder.modules())
    assert model.text_encoder.training == (settings is None) and set(reached) == {settings is None}
    assert model.dropout.training


@pytest.mark.parametrize("kind", ["lora", "none"])
def test_at_the_start_the_logits_are_those_of_the_frozen_model(kind):
    frozen = build(FusionClassifier)
    encoders = copy.deepcopy((frozen.text_encoder, frozen.speech_encoder))
    model = AdapterFusionClassifier(*encoders, LABELS, adapter=kind, lora_rank=4, speech_adapter_layers=0).eval()
    for part in ("speech_projector", "classifier"):
        getattr(model, part).load_state_dict(getattr(frozen, part).state_dict())
    inputs = batch_of(SAMPLES, TOKENS)
    assert torch.equal(model(*inputs), frozen(*inputs))
    if kind == "lora":
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                nn.init.normal_(parameter)
        assert not torch.allclose(model(*inputs), frozen(*inputs), atol=1e-3)


def test_lora_adds_ba_to_the_weight():
    model, rank = build(adapter="lora", lora_rank=4), 4
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in model.checkpoint_state().items()}
    model.load_checkpoint_state(state)
    layer, inputs = model.text_encoder.encoder.layer[1].attention.self.query, torch.randn(3, 24, generator=generator)
    a, b = (state[f"text_encoder.encoder.layer.1.{QUERY}.lora_{matrix}.weight"] for matrix in "AB")
    assert a.shape == (rank, 24) and b.shape == (24, rank)
    alpha = rank
    by_hand = inputs @ (layer.base_layer.weight + alpha / rank * b @ a).T + layer.base_layer.bias
    assert torch.allclose(layer(inputs), by_hand, atol=1e-4)
    with pytest.raises(UserError, match="--text_model: adapters need BERT's layers"):
        AdapterFusionClassifier(small_speech_encoder(), small_speech_encoder(), LABELS, adapter="lora")


@pytest.mark.parametrize("layers, width, shapes", [
    (0, 8, []),
    (1, 8, [(16, 20, 3)]),
    (2, None, [(40, 20, 3), (40, 20, 3)]),
    (3, 32, [(64, 20, 3), (64, 32, 3), (64, 32, 3)]),
])  # fmt: skip
def test_the_speech_adapter_has_other_sizes(layers, width, shapes):
    model = build(speech_adapter_layers=layers, speech_adapter_width=width)
    assert [tuple(layer.weight.shape) for layer in model.speech_adapter.layers] == shapes
    frames, mask = model.speech_frames(batch_of((16_000, 9_333), (3, 3))[0])
    speech = batch_of((16_000, 9_333), (3, 3))[0]
    whole, whole_mask = speech_features(model.speech_encoder, **speech)
    count = whole.shape[1]
    for _ in range(layers):
        count = (count + 1) // 2
    assert frames.shape == (2, count, width if layers and width else 20) and mask.shape == (2, count)
    assert model.speech_projector.in_features == frames.shape[2]
    assert layers or torch.equal(frames, whole) and torch.equal(mask, whole_mask)
    assert torch.allclose(*logits_alone_and_together(model), atol=1e-5)


def test_the_usual_sizes_are_the_defaults_bit_by_bit():
    usual = build().state_dict()
    named = build(adapter="bottleneck", adapter_size=64, speech_adapter_layers=3, speech_adapter_width=20).state_dict()
    assert usual.keys() == named.keys() and all(torch.equal(usual[name], named[name]) for name in usual)


def test_published_sizes():
    def text_part(**settings):
        model = AdapterFusionClassifier(BertModel(BertConfig()), Wav2Vec2Model(Wav2Vec2Config()), LABELS, **settings)
        return count_parameters(model.text_encoder, trained_only=True), count_parameters(model, trained_only=True)

    with torch.device("meta"):
        assert text_part(adapter="lora", lora_rank=64) == (2_359_296, 13_184_775)
        bottlenecks, _ = text_part()
        assert bottlenecks - 2 * 12 * 2 * 768 == 2_379_264  # without the layer norms
        assert text_part(adapter="none", speech_adapter_layers=0) == (0, 204_039)


@torch.no_grad()
def test_a_frozen_speech_encoder_takes_its_cached_output():
    model = build(FrozenSpeechClassifier)
    speech, text = batch_of(SAMPLES, TOKENS)
    frames, mask = speech_features(model.speech_encoder, **speech)
    assert torch.equal(model({"features": frames, "attention_mask": mask}, text), model(speech, text))
    plain = FusionClassifier(model.text_encoder, model.speech_encoder, LABELS).eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(speech, text), model(speech, text))
    with pytest.raises(ValueError, match="classifier.bias"):
        model.load_checkpoint_state(model.checkpoint_state() | {"classifier.bias": torch.zeros(1)})


@pytest.fixture(scope="module")
def trained(data_root, encoders, tmp_path_factory):
    """Output folder of one run of each of TRAINED."""
    root = tmp_path_factory.mktemp("variants")
    for method, (task, more) in TRAINED.items():
        of = METHODS[method]
        run_main(of.script, "--task", task, *of.flags, *more, *flags(data_root, encoders, root))
    return root


def run_of(root, method):
    return folder(root, method, TRAINED[method][0])


@EVERY
def test_a_variant_is_trained_and_rebuilt(trained, encoders, method):
    model, config = load_run(run_of(trained, method))
    assert config["method"] == method and config["model"] == METHODS[method].model
    assert config["sequence"] == ([A, B] if method in SHARED else [TRAINED[method][0]])
    state = torch.load(run_of(trained, method) / "best_model.pt", weights_only=True)
    assert state.keys() == model.checkpoint_state().keys() == own_names(model)
    assert not any("speech_encoder" in name or ".default" in name for name in state)
    of = load_encoder("speech", encoders / "speech").state_dict()
    assert all(torch.equal(tensor, of[name]) for name, tensor in model.speech_encoder.state_dict().items())
    assert config["encoders"]["text"]["fingerprint"] == load_encoder("text", encoders / "text").provenance["fingerprint"]
    metrics = read(run_of(trained, method) / "metrics.json")
    if method in SHARED:
        start = "adapter" if method == "adapter_shared" else "task_a_frozen_speech"
        assert config["started_from"]["sha256"] == digest(run_of(trained, start) / "best_model.pt")
        before = metrics["test_before"][A]
        assert before.items() <= read(run_of(trained, start) / "metrics.json")["test"][A].items()
        assert metrics["test"].keys() == {A, B}
    used = {name: config["arguments"].get(name) for name in AdapterFusionClassifier.SETTINGS}
    if method in ("lora", "linear"):
        assert list(used.values()) == (["lora", None, 4, 2, 8] if method == "lora" else ["none", None, None, 0, None])


def test_without_the_cache_a_frozen_speech_encoder_gives_the_same_but_for_rounding(trained, data_root, encoders, tmp_path):
    more = ("--task", A, "--freeze_speech", "--no_speech_cache")
    run_main("continual_learning_init.py", *more, *flags(data_root, encoders, tmp_path))
    tables = [pd.read_csv(run_of(root, "task_a_frozen_speech") / "predictions.csv") for root in (trained, tmp_path)]
    columns = [name for name in tables[0] if name.startswith("p_")]
    assert (tables[0][columns] - tables[1][columns]).abs().to_numpy().max() < 5e-3
    assert not (tmp_path / "speech_features").exists()


@EVERY
def test_an_exported_variant_equals_its_run(trained, data_root, encoders, tmp_path, method):
    run, path = run_of(trained, method), tmp_path / "model.safetensors"
    export(run, path)
    named = {f"{kind}_model": encoders / kind for kind in ("text", "speech")}
    model, config = load_run(run)
    again, facts = load_export(path, **named)
    inputs = batch_of(SAMPLES, TOKENS)
    assert torch.equal(again(*inputs), model(*inputs)) and not facts["whole"]
    assert METHODS[method].sentence in read_export(path).card
    assert ("--freeze_speech --task OTHER" in read_export(path).card) == ("frozen_speech" in method)
    wavs = sorted((data_root / A).rglob("*.wav"))[:3]
    of_run, of_file = (load_predictor(of, device="cpu", **named).predict(wavs, ["화가 나"] * 3) for of in (run, path))
    assert of_run.equals(of_file) and of_run["score"].notna().all()
    # One model of several tasks is told none.
    assert set(of_run["adapter"]) == {config["task"] if method in ("adapter", "lora", "linear") else ""}
    task = config["task"]
    _, tests = score.score(path, task, cpu=True, num_workers=0, data_root=data_root, **named)
    # Its own features are computed, not cached in float16.
    assert tests["test"][task]["ece"] == pytest.approx(read(run / "metrics.json")["test"][task]["ece"], abs=1e-2)


def test_stored_scores_are_found_again(trained, call_main):
    code, stdout, stderr = call_main(evaluate, "--output_root", trained, "--recompute", "--cpu", "--num_workers", 0)
    assert code == 0 and stdout.count(" equal") == len(TRAINED), stdout + stderr


def test_adapters_of_one_task_are_routed_and_those_of_several_are_not(trained, encoders, tmp_path, call_main):
    for method in ("lora", "linear", "adapter_shared"):
        run = shutil.copytree(run_of(trained, method), tmp_path / method)
        code, _, stderr = call_main(routing, run, "--cpu", "--num_workers", 0)
        assert code == (method == "adapter_shared"), stderr
        assert (run / routing.CENTROIDS).exists() == (code == 0)
    assert "only adapters have centres" in stderr
    found = load_predictor(tmp_path / "lora", tmp_path / "linear", adapter="mean", device="cpu")
    assert len(found.sources) == 2
    with pytest.raises(UserError, match="only adapters can be combined"):
        load_predictor(tmp_path / "lora", tmp_path / "adapter_shared", adapter="mean", device="cpu")


def refused(call_main, module, *arguments):
    """The one line that a call is refused with."""
    code, _, stderr = call_main(module, *arguments)
    assert code in (1, 2) and stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    return stderr


def test_a_mean_of_lora_models_or_of_other_sizes_is_refused(trained, tmp_path, call_main):
    output = ("--output", tmp_path / "mean")
    runs = {method: run_of(trained, method) for method in TRAINED}
    line = refused(call_main, merge, runs["lora"], runs["lora"], *output)
    assert "--adapter lora: a mean of B and one of A are no mean of their products BA" in line
    line = refused(call_main, merge, runs["adapter"], runs["linear"], *output)
    assert "have --adapter bottleneck and none" in line
    one = read(runs["adapter"] / "config.json")
    with pytest.raises(UserError, match="a and b have --speech_adapter_width None and 8: a mean of weights needs the same"):
        merge.require_alike(one, one | {"arguments": one["arguments"] | {"speech_adapter_width": 8}}, "a", "b")
    del one["arguments"]["adapter"], one["arguments"]["speech_adapter_layers"]  # an earlier run has not said them
    merge.require_alike(one, read(runs["adapter"] / "config.json"), "a", "b")


def test_a_start_of_another_kind_is_one_line(trained, data_root, encoders, tmp_path, call_main):
    small = (*flags(data_root, encoders, tmp_path), "--task", B)

    def start(method):
        return ("--checkpoint", run_of(trained, method) / "best_model.pt")

    frozen = run_of(trained, "task_a_frozen_speech")
    for module, more, answer in (
        (adapter, ("--shared", *start("task_a_frozen_speech")), "does not fit: it lacks speech_adapter"),
        (adapter, ("--shared", "--adapter", "lora", *start("adapter")), "does not fit: it lacks text_encoder"),
        (finetune, ("--freeze_speech", *start("adapter")), "does not fit: it lacks text_encoder"),
        (finetune, start("task_a_frozen_speech"), "does not fit: it lacks speech_encoder"),
        (adapter, start("adapter"), "need --shared"),
        (finetune, ("--freeze_speech",), "--num_workers 0 --task KEMDy19 --freeze_speech', or name"),
        (adapter, ("--shared",), "make it with 'python adapter.py "),
    ):
        assert answer in refused(call_main, module, *small, *more)
    code, _, stderr = call_main(finetune, *small, "--freeze_speech", "--checkpoint", frozen / "best_model.pt")
    assert code == 0, stderr
    ours, usual = (folder(root, "finetune_frozen_speech", B) / "best_model.pt" for root in (tmp_path, trained))
    assert digest(ours) == digest(usual)


def test_a_run_from_before_these_flags_is_still_that_run(trained, data_root, encoders, tmp_path, call_main):
    shutil.copytree(trained / "adapter", tmp_path / "adapter")
    path = folder(tmp_path, "adapter", A) / "config.json"
    config = read(path)
    for name in ("adapter", "lora_rank", "speech_adapter_layers", "speech_adapter_width", "shared", "after", "init_name"):
        del config["arguments"][name]
    path.write_text(json.dumps(config))
    small = (*flags(data_root, encoders, tmp_path), "--task", A)
    code, stdout, stderr = call_main(adapter, *small)
    assert code == 0 and "is finished: skipped" in stdout, stderr
    assert "--speech_adapter_layers 3 then, 2 now" in refused(call_main, adapter, *small, "--speech_adapter_layers", 2)
    assert load_run(path.parent)[1]["method"] == "adapter"


def test_shared_adapters_learn_three_tasks(encoders, tmp_path):
    make_iemocap(tmp_path / "data" / "IEM")
    make_meld(tmp_path / "data" / "MELD")
    make_ravdess(tmp_path / "data" / "RAV", actors=6)
    root, order = tmp_path / "outputs", ("IEM", "MELD", "RAV")
    labels = ("angry", "happy", "neutral", "sad", "joy", "sadness", "rage", "calmness", "fright", "disgust", "astonishment",
              "calm", "fearful", "surprised")  # fmt: skip
    small = (*flags(tmp_path / "data", encoders, root), "--num_epochs", 1)
    run_main("adapter.py", "--task", "IEM", "--labels", *labels, *small)
    for learned in (2, 3):
        *before, task = order[:learned]
        run_main("adapter.py", "--shared", "--task", task, "--after", *before, *small)
    steps = [folder(root, "adapter_shared", "+".join(order[:learned])) for learned in (2, 3)]
    assert read(steps[1] / "config.json")["started_from"]["sha256"] == digest(steps[0] / "best_model.pt")
    assert read(steps[1] / "config.json")["labels"] == list(labels)
    first, last = (read(step / "metrics.json") for step in steps)
    assert last["test"].keys() == set(order) and first["test"].keys() == set(order[:2])
    assert all(last["test_before"][task].items() <= first["test"][task].items() for task in order[:2])
