"""One measurement in a process of its own: ``python -m benchmarks.measure WHAT SIDE FOLDER`` prints seconds and memory as JSON.

SIDE is ``plain``, the published procedure, or ``ours``; what is measured of both is the same work on the same data.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertTokenizer

from benchmarks import published
from benchmarks.material import VOCABULARY, NumberTokenizer, corpus_paths, make_encoders
from ewc import ElasticWeightConsolidation
from models import AdapterFusionClassifier, FusionClassifier
from models.encoders import load_encoder
from predict import load_predictor
from utils.data.batches import BalancedBatchSampler, Loader, Sound, UtteranceDataset, make_task
from utils.data.corpus import read_corpus
from utils.data.kemdy import EMOTIONS
from utils.data.speech_cache import corpus_features
from utils.files import BEST_MODEL, CONFIG, METRICS, write_json
from utils.flags import named_path
from utils.identity import FORMAT
from utils.training.arguments import training_parser
from utils.training.checkpoints import assemble
from utils.training.engine import Training, evaluate, to_device, train_one_epoch
from utils.training.fisher import importance
from utils.training.run import Run
from utils.training.strategy import Strategy

TASK = "KEMDy20"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(folder):
    """Load the task, with this project's datasets."""
    corpus = read_corpus(folder, TASK, progress=False)
    args = Namespace(num_fold=0, k_fold=5, max_text_len=256)
    return make_task(corpus, args, corpus.labels, NumberTokenizer(), Sound(5))


def encoders(args):
    """(text encoder, speech encoder), with eager attention for the published procedure."""
    return make_encoders(args.small, "eager" if args.side == "plain" else "sdpa")


def make_run(args):
    """A Run on a GPU if available, else the CPU, that writes no files."""
    flags = ["--task", TASK, "--batch_size", str(args.batch_size), "--num_workers", "0", "--output_root", str(args.folder)]
    flags += ["--mixed_precision", args.precision]
    return Run(training_parser("", "task_a").parse_args(flags), "task_a", quiet=True)


def shortened(dataset, count):
    """The first ``count`` utterances of a dataset, repeated if it is smaller."""
    part = UtteranceDataset.pooled([dataset] * -(-count // len(dataset)))
    part.utterances = part.utterances.iloc[:count]
    for name in ("labels", "rows", "input_ids"):
        setattr(part, name, getattr(part, name)[:count])
    return part


def plain_batches(task, split, size, count):
    """``count`` batches of a split as in the published loader; the measurement includes decoding."""
    dataset = published.PublishedDataset(task.splits[split].utterances, NumberTokenizer())
    for number in range(count):
        items = [dataset[index % len(dataset)] for index in range(number * size, (number + 1) * size)]
        speech_inputs, text_inputs, labels = dataset.collate(items)
        inputs = ({name: values.to(DEVICE) for name, values in part.items()} for part in (speech_inputs, text_inputs))
        yield *inputs, labels.to(DEVICE)


def wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work, warm_up=None):
    """Seconds that ``work`` takes, with the device synchronized."""
    if warm_up is not None:
        warm_up()
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def start_up(args):
    roots = list(corpus_paths(args.folder).values())
    if args.side == "plain":
        return timed(lambda: published.start_up(roots, NumberTokenizer(), range(3, 11)))

    def ours():
        task = load(args.folder)
        BalancedBatchSampler(task.splits["train"].labels, args.batch_size, 12)

    read_corpus(args.folder, TASK, progress=False)  # writes the index, as an earlier run would
    return timed(ours)


def fusion(args, penalty=False):
    task = load(args.folder)
    text, speech = encoders(args)
    if args.side == "plain":
        model = published.PublishedFusion(text, speech).train().to(DEVICE)
        terms = {name: (torch.rand_like(p), p.detach().clone()) for name, p in model.named_parameters()} if penalty else None
        return _plain_steps(args, model, model.parameters(), task, (5000.0, terms) if penalty else None)
    return _our_epoch(args, FusionClassifier(text, speech, len(EMOTIONS)), task, penalty)


def _plain_steps(args, model, trained, task, penalty=None):
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    batches = plain_batches(task, "train", args.batch_size, args.steps + 1)

    def steps(count):
        for _ in range(count):
            published.training_step(model, optimizer, next(batches), penalty)

    return timed(lambda: steps(args.steps), lambda: steps(1))


def _our_epoch(args, model, task, penalty=False):
    run = make_run(args)
    model.to(run.accelerator.device)
    dataset = task.splits["train"]
    strategy = Strategy()
    if penalty:
        anchors = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        strategy = ElasticWeightConsolidation([(anchors, {name: torch.rand_like(of) for name, of in anchors.items()})], 5000.0)
    first, epoch = (Training.of(run, model, shortened(dataset, args.batch_size * steps), strategy) for steps in (1, args.steps))
    epoch.model, epoch.optimizer = first.model, first.optimizer
    return timed(lambda: train_one_epoch(run, epoch, 2), lambda: train_one_epoch(run, first, 1))


def adapter(args):
    task = load(args.folder)
    text, speech = encoders(args)
    if args.side == "plain":
        model = published.PublishedAdapter(text, speech).train().to(DEVICE)
        return _plain_steps(args, model, model.owned, task)
    model = AdapterFusionClassifier(text, speech, len(EMOTIONS))
    _use_features(args, task, model)
    return _our_epoch(args, model, task)


def _use_features(args, task, model):
    """Cache features of as many utterances as are trained on; their time is measured separately, as ``features``."""
    cache = args.folder / "speech_features"
    task.corpus.utterances = task.splits["train"].utterances.head(args.batch_size * args.steps)
    features = corpus_features(task.corpus, model.speech_encoder, 5, "float16", cache, DEVICE, lambda line: None)
    task.splits["train"] = shortened(task.splits["train"], len(task.corpus.utterances))
    task.splits["train"].rows = [(features, row) for _, row in task.splits["train"].rows]
    task.splits["train"].speech_name = features.name


def features(args):
    """Seconds to compute features of one batch of utterances per step, of similar length, as in a corpus sorted by length."""
    task = load(args.folder)
    model = AdapterFusionClassifier(*encoders(args), len(EMOTIONS))
    by_length = task.corpus.utterances.sort_values("duration")
    middle = (len(by_length) - args.batch_size * args.steps) // 2
    task.corpus.utterances = by_length.iloc[middle : middle + args.batch_size * args.steps]
    with tempfile.TemporaryDirectory(dir=args.folder) as cache:
        return timed(lambda: corpus_features(task.corpus, model.speech_encoder, 5, "float16", cache, DEVICE, lambda line: None))


def validation(args):
    task = load(args.folder)
    text, speech = encoders(args)
    count = args.batch_size * args.steps
    if args.side == "plain":
        model = published.PublishedFusion(text, speech).eval().to(DEVICE)

        def work():
            with torch.no_grad():
                for speech_inputs, text_inputs, _ in plain_batches(task, "valid", args.batch_size, args.steps):
                    model(speech_inputs, text_inputs)

        return timed(work)
    run = make_run(args)
    model = FusionClassifier(text, speech, len(EMOTIONS)).to(run.accelerator.device)
    return timed(lambda: evaluate(run, model, shortened(task.splits["valid"], count), "valid"))


def fisher(args):
    task = load(args.folder)
    text, speech = encoders(args)
    if args.side == "plain":
        model = published.PublishedFusion(text, speech).to(DEVICE)
        return timed(lambda: published.fisher_information(model, list(plain_batches(task, "train", 10, args.steps))))
    run = make_run(args)
    model = FusionClassifier(text, speech, len(EMOTIONS)).to(run.accelerator.device)
    return timed(lambda: importance(run, model, shortened(task.splits["train"], 10 * args.steps), 10))


def written(args):
    """Bytes, not seconds, written by an adapter run: three copies of the model, or only task-specific parameters."""
    text, speech = encoders(args)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "model.pt"
        model = AdapterFusionClassifier(text, speech, len(EMOTIONS))
        torch.save(model.state_dict() if args.side == "plain" else model.checkpoint_state(), path)
        return os.path.getsize(path) * (3 if args.side == "plain" else 1)


def loading(args):
    """Seconds to read, truncate, normalize and pad a batch of wavs with ``--num_workers``, averaged over many batches."""
    task, batches = load(args.folder), 100
    dataset = shortened(task.splits["train"], args.batch_size * batches)
    sampler = BalancedBatchSampler(dataset.labels, args.batch_size, 12)
    loader = Loader(dataset, sampler, args.num_workers)
    return timed(lambda: [None for _ in loader]) / batches


def predict(args):
    """Seconds per utterance of predict.py with an adapter, against the bare model on prepared tensors, and for start-up."""
    run, utterances = make_adapter_run(args), load(args.folder).corpus.utterances.head(args.batch_size * args.steps)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import utils.training.predictor"], check=True)
    imported = time.perf_counter()
    predictor = load_predictor(run, batch_size=args.batch_size)
    found = {"import": imported - started, "loading": time.perf_counter() - imported}
    model, device = predictor.sources[0].model, predictor.device
    by_length = utterances.iloc[np.argsort(-utterances["duration"].to_numpy(), kind="stable")]
    dataset = UtteranceDataset(by_length, EMOTIONS, predictor.sources[0].tokenizer, 256, Sound(5))

    @torch.inference_mode()
    def bare(size):
        for batch in ready[size]:
            model(batch["speech_inputs"], batch["text_inputs"]).softmax(dim=-1).cpu()

    def many():
        predictor.predict(utterances["wav_path"], utterances["text"])

    def one():
        for file, text in zip(few["wav_path"], few["text"]):
            predictor.predict(file, text)

    starts = range(0, len(dataset), args.batch_size)
    few, ready = by_length.iloc[starts], {}
    for size in (args.batch_size, 1):
        loader = Loader(dataset, [list(range(at, at + size)) for at in starts], 0)
        ready[size] = [to_device(batch, device) for batch in loader]
    work = {
        "bare": (lambda: bare(args.batch_size), len(utterances)),
        "many": (many, len(utterances)),
        "bare, one": (lambda: bare(1), len(few)),
        "one": (one, len(few)),
    }
    seconds = {name: [] for name in work}
    for _ in range(4):
        for name, (what, count) in work.items():
            seconds[name].append(timed(what) / count)
    return found | {name: statistics.median(times[1:]) for name, times in seconds.items()}  # the first round is warm-up


def make_adapter_run(args):
    """Write a run folder of an adapter over random encoders, and these, to the benchmark's folder; returns its path."""
    run = args.folder / "adapter"
    if run.exists():
        return run
    places = {f"{kind}_model": str(args.folder / "encoders" / kind) for kind in ("text", "speech")}
    for encoder, place in zip(encoders(args), places.values()):
        encoder.save_pretrained(place)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(VOCABULARY - 5))]
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(places["text_model"])
    loaded = [load_encoder(name.removesuffix("_model"), place) for name, place in places.items()]
    config = {"format": FORMAT, "method": "adapter", "model": "adapter", "task": TASK, "sequence": [TASK], "labels": EMOTIONS}
    config["arguments"] = {"adapter_size": 64, "max_seq_len": 5.0, "max_text_len": 256, **places}
    config["encoders"] = {kind: encoder.provenance for kind, encoder in zip(("text", "speech"), loaded)}
    run.mkdir()
    torch.save(assemble(config, *loaded).checkpoint_state(), run / BEST_MODEL)
    write_json(run / CONFIG, config)
    write_json(run / METRICS, {})
    return run


def flops(args):
    """Floating-point operations, not seconds, of a training step of our fusion model: forward and backward."""
    task = load(args.folder)
    run = make_run(args)
    model = FusionClassifier(*encoders(args), len(EMOTIONS)).to(run.accelerator.device)
    training = Training.of(run, model, shortened(task.splits["train"], args.batch_size), Strategy())
    with FlopCounterMode(display=False) as counter:
        train_one_epoch(run, training, 1)
    return counter.get_total_flops()


def profile(args):
    """Profile training steps of our fusion model, and print the result."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with torch_profile(activities=activities) as result:
        seconds = fusion(args)
    print(result.key_averages().table(sort_by=f"self_{DEVICE.type}_time_total", row_limit=15))
    return seconds


def ewc(args):
    return fusion(args, penalty=True)


MEASUREMENTS = {
    work.__name__: work
    for work in (start_up, fusion, ewc, adapter, features, validation, fisher, written, loading, predict, flops, profile)
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("side", choices=("plain", "ours"))
    parser.add_argument("folder", type=named_path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--precision", default="no", choices=("no", "bf16"))
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(12)
    value = MEASUREMENTS[args.what](args)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"value": value, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
