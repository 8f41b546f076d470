#!/usr/bin/env bash
# Two institutions, A and B, that exchange models but never recordings, on the demo's corpora, in minutes on two cores:
# bash run-handover.sh. docs/sharing.md explains the steps. Finished runs are skipped, so the same command resumes.
# outputs/handover/A and outputs/handover/B are the institutions' disks: data/ holds their one corpus, exchange/ the files that
# they send and receive.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/environment.sh"
source "$repository/utils/shell/interruptible.sh"
if asks_for_help "$@"; then
  show_help DRY_RUN
  exit 0
fi
[ $# = 0 ] || { echo "usage: bash run-handover.sh" >&2; exit 2; }
make_python
[ -z "$at" ] || [ -z "${DRY_RUN:-}" ] || run_or_print cd "$repository"
cd "$repository"

data=${DEMO_DATA:-data/demo} roots=${HANDOVER:-outputs/handover}  # the tests use other places and sizes
a=$roots/A b=$roots/B
export OMP_NUM_THREADS=1  # small models do not benefit from more
machine="--cpu --num_workers 0"
encoders="--text_model $data/encoders/text --speech_model $data/encoders/speech"
training="--batch_size 32 $encoders $machine"
fusion="--lr 5e-4 --num_epochs 6 $training"
adapter="--lr 4e-3 --num_epochs 12 --adapter_size 48 $training"

# heading LINE: prints it, but not in a dry run.
heading() {
  [ -n "${DRY_RUN:-}" ] || printf '\n%s\n' "$1"
}

# step COMMAND...: prints and runs it.
step() {
  local word line= code=
  for word in "$@"; do
    case $word in *[!A-Za-z0-9_./:=,+*-]*) line+=" '$word'" ;; *) line+=" $word" ;; esac
  done
  [ -z "${DRY_RUN:-}" ] || { echo "${line:1}"; return; }
  printf '\n$%s\n' "$line"
  [ "$1" != python ] || set -- "$PYTHON" "${@:2}"
  interruptible "$@" || {
    code=$?
    [ "$code" != "$RESUMABLE" ] || say_interrupted
    exit "$code"
  }
}

# on ROOT: flags for training or testing at an institution.
on() {
  echo "--data_root $1/data --output_root $1/outputs"
}

# score ROOT MODEL METHOD CORPUS: an institution tests a model on its corpus.
score() {
  step python -m utils.results.score $2 --task $4 --data_root $1/data --output $1/exchange/$3-$4.json $encoders $machine
}

# routed ROOT CORPUS ENCODING: predicts the first recording of a corpus with both adapters.
routed() {
  local wav=RECORDING text=TRANSCRIPT
  if [ -z "${DRY_RUN:-}" ]; then
    wav=$(find "$1/data/$2/" -name '*.wav' | sort | sed -n 1p)
    text=$(iconv -f "$3" -t UTF-8 "${wav%.wav}.txt")
  fi
  step python predict.py $1/exchange/adapter-KEMDy19.safetensors $1/exchange/adapter-KEMDy20.safetensors --adapter routed \
    --wav "$wav" --text "$text" $encoders --cpu
}

run_or_print "${PYTHON:-python}" -m utils.demo "$data" ${DEMO_SIZE:-}
run_or_print mkdir -p $a/data $a/exchange $b/data $b/exchange
[ "${data#/}" != "$data" ] || data=$PWD/$data  # for the links
run_or_print ln -sfn "$data/KEMDy19" $a/data/KEMDy19
run_or_print ln -sfn "$data/KEMDy20" $b/data/KEMDy20

heading '1. A trains a model and gives it to B, with its Fisher information.'
step python continual_learning_init.py --task KEMDy19 $(on $a) $fusion
step python -m utils.results.export $a/outputs/task_a/fold_0/KEMDy19 $a/exchange/task_a.safetensors --with_fisher --overwrite
step cp $a/exchange/task_a.safetensors $a/exchange/task_a.fisher.safetensors $b/exchange

heading '2. B trains it further on its own corpus. Both train an adapter over the same encoders.'
step python finetune.py --task KEMDy20 --checkpoint $b/exchange/task_a.safetensors $(on $b) $fusion
step python ewc.py --task KEMDy20 --checkpoint $b/exchange/task_a.safetensors --fisher $b/exchange/task_a.fisher.safetensors \
  --ewc_lambda 1000 $(on $b) $fusion
step python adapter.py --task KEMDy19 $(on $a) $adapter
step python adapter.py --task KEMDy20 $(on $b) $adapter
for method in finetune ewc; do
  step python -m utils.results.export $b/outputs/$method/fold_0/KEMDy20 $b/exchange/$method.safetensors --overwrite
done
for whose in "$a KEMDy19" "$b KEMDy20"; do
  set -- $whose
  step python -m utils.training.routing $1/outputs/adapter/fold_0/$2 $machine
  step python -m utils.results.export $1/outputs/adapter/fold_0/$2 $1/exchange/adapter-$2.safetensors --with_centroids --overwrite
done
step cp $b/exchange/finetune.safetensors $b/exchange/ewc.safetensors $b/exchange/adapter-KEMDy20.safetensors $a/exchange
step cp $a/exchange/adapter-KEMDy19.safetensors $b/exchange

heading '3. Each tests the models on its own corpus, and B gives its scores to A.'
score $a $a/outputs/task_a/fold_0/KEMDy19 task_a KEMDy19
score $a $a/outputs/adapter/fold_0/KEMDy19 adapter KEMDy19
score $a $a/exchange/finetune.safetensors finetune KEMDy19
score $a $a/exchange/ewc.safetensors ewc KEMDy19
score $b $b/exchange/task_a.safetensors task_a KEMDy20
for method in finetune ewc adapter; do score $b $b/outputs/$method/fold_0/KEMDy20 $method KEMDy20; done
step cp $b/exchange/*.json $a/exchange
step python evaluate.py --output_root $a/outputs --folds 0 --scores $a/exchange/*.json

heading '4. Both have both adapters, and can predict recordings of either corpus.'
routed $a KEMDy19 UTF-8
routed $b KEMDy20 CP949
