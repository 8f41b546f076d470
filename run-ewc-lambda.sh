#!/usr/bin/env bash
# ewc over a grid of λ on one fold, into outputs/ewc-lambda<λ>/; 'python evaluate.py --figures' draws it. Needs run-init.sh.
# LAMBDAS="100 1000" FOLDS=1 bash run-ewc-lambda.sh   uses another grid or fold; further flags go to the script.
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/sweep.sh"
FOLDS=${FOLDS:-0}
for ewc_lambda in ${LAMBDAS:-5 50 500 5000 50000 500000}; do
  EXP_NAME=ewc-lambda$ewc_lambda
  sweep ewc.py ewc --batch_size 8 --num_epochs 40 --fisher_batch_size 10 "$@" --ewc_lambda "$ewc_lambda"
done
