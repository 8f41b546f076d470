"""Everything the scripts share: corpus → folds → batches → training loop → run folder → tables and figures."""
