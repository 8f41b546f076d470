"""The LaTeX of evaluate.py: what a paper can take as it is."""

import re
import shutil
import subprocess

import pytest
from invented import A, B, all_methods, invent

import evaluate

ODD = "a_b%c&$#{}~^\\"
DOCUMENT = r"\documentclass{article}\usepackage{booktabs,graphicx}\extrafloats{100}\begin{document}%s\end{document}"


@pytest.fixture()
def latex(call_main):
    def latex(root, *arguments):
        code, stdout, stderr = call_main(evaluate, "--output_root", root, "--format", "latex", *arguments)
        assert code == 0, stderr
        return stdout

    return latex


def odd_names(root):
    """Three folds of corpora whose names hold whatever LaTeX takes for its own."""
    for fold in range(3):
        score = 0.4 + 0.02 * fold
        invent(root, "task_a", [ODD], {ODD: 0.7}, fold=fold)
        invent(root, "finetune", [ODD, "MELD"], {ODD: score, "MELD": 0.8}, {ODD: 0.7, "MELD": 0.2}, fold)
        invent(root, "adapter", [ODD], {ODD: 0.6 + 0.01 * fold}, fold=fold)


def test_labels_are_unique_and_captions_short(latex, tmp_path):
    all_methods(tmp_path)
    text = latex(tmp_path, "--all")
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(set(labels)) == len(labels) == text.count(r"\begin{tabular}") > 20
    assert {"tab:scores-weighted", f"tab:continual-macro-{A}-{B}", "tab:parameters"} <= set(labels)
    captions = re.findall(r"\\caption\{(.*)\}", text)
    assert len(captions) == len(labels) and max(map(len, captions)) < 140
    # What a column means stands below its table.
    table = next(part for part in text.split(r"\begin{table}") if "tab:scores-weighted" in part)
    assert table.index(r"\end{tabular}") < table.index("majority always predicts")


def test_numbers_have_a_minus_and_the_best_are_bold(latex, tmp_path):
    for fold in range(3):
        invent(tmp_path, "task_a", [A], {A: 0.7}, fold=fold)
        # The means are .5, .51 and .2, and the first two do not differ by their interval.
        for row, score in (("finetune", 0.5), ("ewc", (0.46, 0.55, 0.52)[fold]), ("lwf", 0.2)):
            invent(tmp_path, row, [A, B], {A: score, B: 0.5}, {A: 0.7, B: 0.2}, fold)
        invent(tmp_path, "joint", [A, B], {A: 0.9, B: 0.9}, fold=fold)
    text = latex(tmp_path, "--metric", "weighted")
    rows = {line.split(" & ")[0]: line.split(" & ")[1:] for line in re.findall(r"(?m)^\\texttt.*", text)}
    bold = {name for name, cells in rows.items() if cells[0].startswith(r"\textbf{")}
    assert bold == {r"\texttt{finetune}", r"\texttt{ewc}"} and "Bold: the best" in text
    lwf = rows[r"\texttt{lwf}"]
    assert (lwf[0], lwf[-1]) == (r"0.200 {\scriptsize$\pm$0.000}", r"$-$0.500 {\scriptsize$\pm$0.000} \\")


def test_names_of_corpora_may_be_anything(latex, tmp_path):
    odd_names(tmp_path / "odd")
    text = latex(tmp_path / "odd")
    assert r"a\_b\%c\&\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in text and "xelatex" not in text
    invent(tmp_path / "korean", "adapter", ["감정"], {"감정": 0.5})
    assert "xelatex" in latex(tmp_path / "korean") and "감정" in latex(tmp_path / "korean")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
@pytest.mark.parametrize("runs", [all_methods, odd_names])
def test_it_compiles(latex, tmp_path, runs):
    runs(tmp_path / "outputs")
    text = latex(tmp_path / "outputs", "--all")
    (tmp_path / "tables.tex").write_text(DOCUMENT % f"\n{text}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=300)
    assert done.returncode == 0 and "Overfull" not in done.stdout, done.stdout[-2000:]
