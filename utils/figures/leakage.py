"""Figures of the leak report: ROC curves, forgetting against leakage, and the effect of samplers on both."""

from functools import partial
from itertools import cycle

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from utils.errors import UserError
from utils.figures import pages, style
from utils.figures.scores import short_number
from utils.figures.style import (
    BLACK,
    COLUMN,
    GREY,
    MARKERS,
    MOST_ROWS,
    PAGE,
    CannotDraw,
    averaged,
    counts,
    label,
    label_colours,
    legend_below,
    row_styles,
)
from utils.leakage.attacks import ATTACKS
from utils.leakage.families import (
    AFTER,
    ALL,
    BEFORE,
    EMOTION,
    SESSION,
    UTTERANCE,
    row_of,
    sequence_text,
    shown_attack,
)
from utils.leakage.measures import FEWEST_FALSE_POSITIVES, roc
from utils.methods import JOINT, METHODS, PAPER
from utils.results.measures import measures
from utils.results.runs import LABELS, Results, is_lambda_point, over_folds, run_differences

ASKED = {SESSION: "Was this session in training?", UTTERANCE: "Was this utterance in training?"}
# Macro F1: rare classes leak the most, and weighted F1 barely reflects them.
METRIC, METRIC_TITLE = "f1_macro", "macro F1"
# Hyperparameters along which rows are connected by a line: ``{symbol: function of a run → value, None if not on the line}``.
KNOBS = {
    "λ": lambda run: run.config["arguments"]["ewc_lambda"] if is_lambda_point(run) else None,
    "ε": lambda run: run.config["arguments"].get("epsilon"),
}


def draw_leakage(runs, table, models, folder):
    """Draw every figure of the leak report for which there are enough runs.

    Args:
        runs: FoundRuns.
        table, models: from ``utils.leakage.families.report_table``.
        folder: created if missing.

    Yields:
        One line per figure, as in ``style.write_figures``.
    """
    figures = {"roc": partial(draw_roc, table, models)}
    rows = set(table[table["question"] == SESSION]["experiment"])
    found = [run for run in runs if run.train_half is None and run.experiment in rows]
    found.sort(key=lambda run: [*METHODS].index(run.method))
    results = None
    try:
        results = found and Results(found, list(dict.fromkeys(run.experiment for run in found)), ())
    except UserError as reason:
        yield f"plane, samplers: not drawn, {reason}"
    if results:
        yield from (f"plane, samplers: {line}" for line in results.left_out)
        for which, orders in pages(results.orders).items():
            figures[f"plane{which}"] = partial(draw_plane, results, table, orders, SESSION)
            figures[f"plane_utterance{which}"] = partial(draw_plane, results, table, orders, UTTERANCE)
        figures["samplers"] = partial(draw_samplers, results, table)
    yield from style.write_figures(figures, folder, any(run.config["synthetic"] for run in runs))


def draw_roc(table, models):
    """ROC curves on logarithmic axes, with a panel for each question and corpus that was learned first.

    Scores of all models of a row are pooled. A curve starts at FEWEST_FALSE_POSITIVES false positives. With more than MOST_ROWS
    rows, only those of the study are drawn.
    """
    panels = {}
    for (_, tested), model in models.items():
        question = SESSION if model.run.train_half is None else UTTERANCE
        learned_first = METHODS[model.run.method].how == JOINT or model.run.sequence[0] == tested
        of_grid = is_lambda_point(model.run) and row_of(model.run) != model.run.method
        attack = shown_attack(table, question)
        if learned_first and not of_grid and attack in model.scores:
            name = row_of(model.run), model.run.sequence
            panels.setdefault((question, tested), {}).setdefault(name, []).append(model)
    if not panels:
        raise CannotDraw("no model could be attacked")
    columns = [question for question in ASKED if any(asked == question for asked, _ in panels)]
    tasks = sorted({tested for _, tested in panels})
    rows = sorted({row for of in panels.values() for row, _ in of}, key=_registered)
    text = "after all tasks; scores of all models pooled"
    if len(rows) > MOST_ROWS and (of_study := [row for row in rows if row in PAPER]):
        rows, text = of_study, f"{text}; other rows are in the report"
    styles = row_styles(rows)
    width = PAGE if len(columns) > 1 else COLUMN
    figure, axes = style.subplots(len(tasks), len(columns), width, 1.1 + 2.4 * len(tasks), squeeze=False)
    for axis_row, tested in zip(axes, tasks):
        for axis, question in zip(axis_row, columns):
            attack = shown_attack(table, question)
            if (question, tested) not in panels:
                axis.axis("off")
                continue
            for (row, sequence), models in panels[question, tested].items():
                if row not in rows or any(
                    row == other and len(longer) > len(sequence) for other, longer in panels[question, tested]
                ):
                    continue  # for a sequence, only the curve after the last task
                _curve(axis, models, attack, styles[row][0])
            axis.plot((1e-6, 1), (1e-6, 1), ":", color=GREY, linewidth=0.8)
            axis.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1), xlabel="false positive rate")
            axis.set_title(f"{ASKED[question]}\n{tested}, {ATTACKS[attack]}")
        axis_row[0].set_ylabel("true positive rate")
    handles = [Line2D([], [], color=styles[row][0], label=label(row)) for row in rows]
    handles.append(Line2D([], [], color=GREY, linestyle=":", label="guessing"))
    legend_below(figure, handles, 4 if width == PAGE else 2, text)
    return figure


def _registered(row):
    """Sort key: rows of the registry first, in its order."""
    return [*METHODS].index(row) if row in METHODS else len(METHODS), row


def _curve(axis, models, attack, colour):
    scores = [np.concatenate([model.scores[attack][of] for model, of in pairs]) for pairs in (
        [(model, model.members) for model in models], [(model, model.others) for model in models]
    )]  # fmt: skip
    false, true = roc(*scores)
    at = np.geomspace(min(FEWEST_FALSE_POSITIVES / len(scores[1]), 1), 1, 200)
    axis.plot(at, true[np.searchsorted(false, at, side="right") - 1], color=colour, linewidth=1.0)


def draw_plane(results, table, orders, question):
    """BWT against the AUC on the first corpus after the last task, for all utterances and for the rarest emotion.

    A point for each row, a column for each order; rows that differ only in λ, α or ε are connected by a line.
    """
    of_question = table[(table["question"] == question) & (table["attack"] == shown_attack(table, question))]
    before, of_question = (of_question[of_question["when"] == when] for when in (BEFORE, AFTER))
    figure, axes = style.subplots(2, len(orders), PAGE if len(orders) > 1 else COLUMN, 6, squeeze=False)
    shown, styles, has_bounds, has_alpha = {}, row_styles(results.rows), False, False
    for column, order in zip(axes.T, orders):
        rarest = _rarest(results, order[0])
        for axis, (group, value) in zip(column, ((ALL, ""), (EMOTION, rarest))):
            points = {}
            for row in results.rows:
                if point := _point(results, of_question, row, order, group, value):
                    points[row] = point
            shown |= dict.fromkeys(points)
            has_bounds |= any(bounds for _, _, bounds in points.values())
            if not points:
                axis.axis("off")
                continue
            _draw_points(axis, results, points, styles)
            has_alpha |= _draw_alpha(axis, results, points, before, order, group, value)
            axis.axhline(0.5, color=GREY, linestyle=":", linewidth=0.8, zorder=0)
            axis.set_title(", then ".join(order) if group == ALL else f"{rarest}, the rarest emotion of {order[0]}")
            axis.set_ylabel(f"AUC on {order[0]}")
            axis.locator_params(axis="x", nbins=5)
        column[-1].set_xlabel(f"BWT, {METRIC_TITLE}")
    if not shown:
        raise CannotDraw(f"no row that learns one task after another was attacked ({ASKED[question]})")
    lines = _lines(results, shown)
    on_line = {row for rows in lines.values() for row in rows if row not in METHODS}
    handles = [
        Line2D([], [], color=styles[row][0], marker=styles[row][1], ls="", markersize=4.5, label=label(row))
        for row in results.rows
        if row in shown and row not in on_line
    ]
    for (method, symbol), rows in lines.items():
        ends = " to ".join(short_number(KNOBS[symbol](results.of_row(row)[0])) for row in (rows[0], rows[-1]))
        look = {"color": METHODS[method].colour, "marker": "o", "markersize": 3, "linewidth": 0.8}
        handles.append(Line2D([], [], label=f"{label(method)}, {symbol} {ends} (larger dots)", **look))
    if has_alpha:
        handles.append(Line2D([], [], color=METHODS["wise_ft"].colour, linewidth=0.8, label="means of weights, α 0 to 1"))
    text = f"{ASKED[question]} {ATTACKS[shown_attack(table, question)]}, after the last task\nmembership AUC"
    text += f"{', 95 % interval over sessions' if has_bounds else ''}\nBWT, {averaged(*counts(results.of_row(*shown)))}"
    text += "; points of equal BWT side by side"
    legend_below(figure, handles, 4 if len(orders) > 1 else 2, text)
    return figure


def _rarest(results, task):
    """The class with the fewest training utterances in a corpus; None without runs on it."""
    utterances = {}
    for run in results.runs:
        if task in run.config["corpora"]:
            for name, n in run.config["corpora"][task]["splits"]["train"]["labels"].items():
                utterances[name] = utterances.get(name, 0) + n
    return min((name for name, n in utterances.items() if n), key=utterances.get, default=None)


def _point(results, table, row, order, group, value):
    """(Estimate of BWT, AUC, its bounds or None) of a row; None if BWT or AUC is missing."""
    transfer = over_folds(measures(results, row, order, METRIC)["BWT"])
    sequence = results.run_of(row, order, order[0])
    run = next((run for run in results.of_row(row) if run.sequence == sequence), None)
    if transfer is None or run is None:
        return None
    found = _found(table, run, order[0], group, value)
    if found is None:
        return None
    auc, low, high = found[["auc", "low", "high"]]
    return transfer, auc, None if np.isnan(low) else (low, high)


def _found(table, run, tested, group, value):
    """The record of a run's row in a table, or None."""
    found = table[
        (table["experiment"] == row_of(run)) & (table["sequence"] == sequence_text(run)) & (table["tested"] == tested)
    ]
    found = found[(found["group"] == group) & (found["value"] == value) & (found["models"] > 0)]
    return None if found.empty else found.iloc[0]


def _draw_alpha(axis, results, points, before, order, group, value):
    """Draw the line of weight averages, from the first model (no forgetting) to finetune; return whether there is one."""
    rows = [row for row in ("wise_ft", "finetune") if row in points]
    run = next((run for run in results.of_row("finetune") if run.sequence == tuple(order)), None)
    start = _found(before, run, order[0], group, value) if len(rows) == 2 and run else None
    if start is None:
        return False
    x, y = zip((0, start["auc"]), *((points[row][0].mean, points[row][1]) for row in rows))
    axis.plot(x, y, "-", color=METHODS["wise_ft"].colour, linewidth=0.8, zorder=1)
    return True


def _draw_points(axis, results, points, styles):
    lines = _lines(results, points)
    for (method, _), rows in lines.items():
        x, y = zip(*((points[row][0].mean, points[row][1]) for row in rows))
        axis.plot(x, y, "-", color=METHODS[method].colour, linewidth=0.8, zorder=1)
    # Size grows along the line, since labels would cover points.
    sizes = {row: size for rows in lines.values() for row, size in zip(rows, np.linspace(2, 4.5, len(rows)))}
    on_line = {row: method for (method, _), rows in lines.items() for row in rows if row not in METHODS}
    beside = {}
    for row, (transfer, _, _) in points.items():
        if row not in on_line:
            beside.setdefault(round(transfer.mean, 3), []).append(row)
    # Points of equal BWT, such as all rows without forgetting, are drawn side by side.
    shifts = {row: 4 * (index - (len(rows) - 1) / 2) for rows in beside.values() for index, row in enumerate(rows)}
    for row, (transfer, auc, bounds) in points.items():
        colour, marker = (METHODS[on_line[row]].colour, "o") if row in on_line else styles[row]
        shift = ScaledTranslation(shifts.get(row, 0) / 72, 0, axis.figure.dpi_scale_trans)
        reach = None if bounds is None else np.maximum([[auc - bounds[0]], [bounds[1] - auc]], 0)
        look = {
            "color": colour,
            "marker": marker,
            "markersize": sizes[row] if row in on_line else 4.5,
            "linewidth": 0,
            "elinewidth": 0.5,
        }
        axis.errorbar(transfer.mean, auc, reach, transfer.std, transform=axis.transData + shift, **look)
        # Shifted points do not extend the axes by themselves.
        axis.update_datalim(
            [(transfer.mean + sign * (transfer.std or 0), bound) for sign in (-1, 1) for bound in bounds or (auc,)]
        )
    axis.margins(0.12)
    axis.autoscale_view()


def _lines(results, rows):
    """Rows that differ in one hyperparameter only, ``{(method, symbol): rows sorted by its value}``."""
    found = {}
    for row in rows:
        run = results.of_row(row)[0]
        for symbol, value_of in KNOBS.items():
            if value_of(run) is not None:
                found.setdefault((run.method, symbol), []).append((value_of(run), row))
    return {name: [row for _, row in sorted(of)] for name, of in found.items() if len(of) > 1}


def draw_samplers(results, table):
    """F1 of each emotion against its membership AUC, with a marker per sampler and a panel per method and corpus.

    Black is macro F1 against the AUC of all utterances. The rows compared differ only in --sampler and --cap.
    """
    table = table[(table["question"] == SESSION) & (table["when"] == AFTER) & (table["attack"] == "threshold")]
    panels = {name: rows for name, rows in _by_sampler(results).items() if len(rows) > 1}
    if not panels:
        raise CannotDraw("no rows that differ in --sampler alone")
    samplers = dict.fromkeys(sampler for rows in panels.values() for sampler in rows)
    markers = dict(zip(samplers, cycle(MARKERS)))
    names = dict.fromkeys(name for _, sequence in panels for name in results.labels(sequence[-1]))
    colours = label_colours(names)
    figure, axes = style.subplots(1, len(panels), PAGE if len(panels) > 1 else COLUMN, 3.6, sharey=True, squeeze=False)
    for axis, ((method, sequence), rows) in zip(axes[0], panels.items()):
        tested = sequence[-1]
        for name in (*results.labels(tested), ""):
            points = []
            for sampler, row in rows.items():
                score = over_folds(results.scores(row, sequence, tested, name or METRIC))
                at = table[(table["experiment"] == row) & (table["tested"] == tested) & (table["value"] == name)]
                at = at[at["group"] == (EMOTION if name else ALL)]
                if score and len(at):
                    points.append((at["auc"].iat[0], score.mean, markers[sampler]))
            if not points:
                continue
            colour = colours[name] if name else BLACK
            axis.plot(*zip(*((x, y) for x, y, _ in points)), "-", color=colour, linewidth=0.6 if name else 1.2)
            for x, y, marker in points:
                axis.plot(x, y, marker, color=colour, markersize=4 if name else 6, fillstyle="full" if name else "none")
        axis.axvline(0.5, color=GREY, linestyle=":", linewidth=0.8, zorder=0)
        axis.set_title(f"{label(method)}, {' → '.join(sequence)}")
        axis.set_xlabel(f"membership AUC on {tested}")
    axes[0, 0].set_ylabel("F1")
    handles = [Line2D([], [], color=GREY, marker=marker, ls="", label=name) for name, marker in markers.items()]
    handles += [Line2D([], [], color=colours[name], label=name) for name in names]
    handles.append(Line2D([], [], color=BLACK, marker="s", fillstyle="none", label=f"{METRIC_TITLE}, all"))
    legend_below(figure, handles, 5 if len(panels) > 1 else 3, f"{ASKED[SESSION]} {ATTACKS['threshold']}")
    return figure


def _by_sampler(results):
    """``{(method, sequence): {sampler: row}}`` for rows that differ only in the sampler from the first of their method."""
    panels, first_of = {}, {}
    for run in results.runs:
        if run.experiment not in results.rows:
            continue
        first = first_of.setdefault((run.method, run.sequence), run)
        if not run_differences(first, run, {"--sampler", "--cap"} | LABELS):
            arguments = run.config["arguments"]
            sampler = arguments.get("sampler") or "balanced"
            if arguments.get("cap"):
                sampler += f", at most {arguments['cap']}"
            panels.setdefault((run.method, run.sequence), {}).setdefault(sampler, run.experiment)
    return panels
