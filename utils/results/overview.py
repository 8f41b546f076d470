"""The default output of evaluate.py: scores and forgetting of each row, side by side."""

from utils.methods import JOINT, SEQUENCE
from utils.results import METRIC_TITLES
from utils.results.measures import over_orders
from utils.results.report import best_rows, listed, majority_estimate, then, views, what_columns_are
from utils.results.runs import Estimate
from utils.results.tables import Change, Table
from utils.results.tuning import shared_choices

MEASURES = {"ACC": Estimate, "BWT": Change}


def overview_tables(results, metrics):
    """Test scores, ACC and BWT of all rows in some metrics: a table for each of ``views``."""
    return [_overview(results, metrics, *view) for view in views(results)]


def _overview(results, metrics, which, columns):
    tasks = [task for task, _ in columns]
    orders = _orders_run(results, [order for _, order in columns])
    measured = results.rows_that(lambda method: method.how == JOINT) + results.learners
    rows, best = {row: {} for row in ("majority", *results.rows)}, {}

    def named(what, metric):
        return f"{what}, {METRIC_TITLES[metric]}" if len(metrics) > 1 else what

    def add(column, values, tasks, kind=Estimate):
        best[column] = best_rows(results, {row: values[row] for row in results.learners}, tasks)
        for row, cells in rows.items():
            cells[column] = results.estimate(values.get(row, {}), tasks, kind)

    for task, order in columns:
        for metric in metrics:
            values = {row: results.final_scores(row, order, task, metric) for row in results.rows}
            add(named(task, metric), values, [task])
            rows["majority"][named(task, metric)] = majority_estimate(results, task, metric)
    found = {metric: {row: over_orders(results, row, orders, metric) for row in measured if orders} for metric in metrics}
    for name, kind in MEASURES.items():
        for metric, of_rows in found.items():
            values = {row: of[name] for row, of in of_rows.items()}
            if any(values.values()):
                add(named(name, metric), values, tasks, kind)
    has_measures = len(best) > len(tasks) * len(metrics)
    title = f"{which}test" if which else "Test"
    title += f" {METRIC_TITLES[metrics[0]] if len(metrics) == 1 else 'scores'}"
    title += " and continual learning" if has_measures else ""
    notes = _how_it_is_read(results, columns, orders if has_measures else ())
    about = {"metric": metrics[0]} if len(metrics) == 1 else {}
    return Table("overview", title, "setting", rows, about, notes, best=best)


def _orders_run(results, orders):
    """Those orders of tasks that any row was trained in, or all if there are none."""
    orders = [order for order in dict.fromkeys(orders) if order in results.orders]
    ran = {run.sequence for run in results.of_row(*results.rows_that(lambda method: method.how == SEQUENCE))}
    return [order for order in orders if order in ran] or orders


def _how_it_is_read(results, columns, orders):
    notes = what_columns_are(results, columns)
    if orders:
        over = "mean over both orders" if len(orders) > 1 else f"in the order {then(orders[0])}"
        notes.append(
            "ACC: mean score on all tasks after the last; BWT: how the scores on earlier ones changed since they were learned, "
            f"below 0 is forgetting; {over}."
        )
    told = results.rows_that(lambda method: method.told_task)
    if told and told != results.rows:
        notes.append(f"Told which task an utterance is of: {listed(told)}.")
    return (*notes, *shared_choices(results))
