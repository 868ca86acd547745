"""Scores with intervals of 3,000 reports: python benchmarks/scoring.py [--reports 3000] [--resamples 1000] [--repeats 3]

Measured: the lexical and the finding metrics of all reports, family by family, each text read for the first time; then their bootstrap
intervals over studies. Baseline of the intervals: the naive bootstrap, which draws the studies and computes every metric again from the
texts. It is this project's own metric code, with each text's findings remembered from before, so that it is no slow strawman; a few
resamples of it are measured, in turn with ours in the same run, and extrapolated to all. The first METEOR includes the import of nltk.

The reports are those of Open-i, found through XRAYGPT_TEST_DATA; without it made ones, which are shorter. The prediction for a study is
the report of another study. Times are CPU seconds of the process, which is what one thread takes (OMP_NUM_THREADS=1) on an idle machine.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xraygpt.datasets.preparation.account import Account
from xraygpt.datasets.preparation.openi_reports import read_xml_folder
from xraygpt.evaluation import Corpus, Metric, compute_metrics
from xraygpt.evaluation.resampling import Bootstrap

FAMILIES = ("bleu", "rouge", "rouge_l_coco", "meteor", "cider", "sacrebleu", "finding_f1", "normal_abnormal", "laterality", "faithfulness")
NAIVE_RESAMPLES = 2  # of each repeat

MADE_SENTENCES = """The heart size is normal. The heart is mildly enlarged. The lungs are clear. There is a small {side} pleural effusion.
No pleural effusion. No pneumothorax. Patchy opacity in the {side} lower lobe. The mediastinal contours are normal. Mild pulmonary edema.
{side} basilar atelectasis. The {side} hemidiaphragm is elevated. A {size} mm nodule is seen in the {side} upper lobe. No acute fracture."""


def read_texts(number: int) -> tuple[list[str], str]:
    """`number` reports, and what they are."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("XRAYGPT_TEST_DATA", default)) / "openi" / "ecgen-radiology"
    draws = random.Random(0)
    if folder.is_dir():
        reports = [f"{report.findings} {report.impression}".strip() for report in read_xml_folder(folder, Account())]
        texts = [text for text in reports if text]
        return draws.sample(texts, min(number, len(texts))), "Open-i reports"
    sentences = MADE_SENTENCES.removesuffix(".").replace("\n", " ").split(". ")
    made = [". ".join(draws.sample(sentences, 6)) + "." for _ in range(number)]
    return [text.format(side=draws.choice(["left", "right"]), size=draws.randint(3, 30)) for text in made], "made reports"


def make_corpus(texts: Sequence[str]) -> Corpus:
    """Each text is the reference of one study, and the prediction for the study before."""
    ids = tuple(str(number) for number in range(len(texts)))
    return Corpus(ids, (*texts[1:], texts[0]), tuple((text,) for text in texts), ids)


def score(corpus: Corpus) -> list[Metric]:
    """Every metric, with the time that each family takes."""
    metrics = []
    for family in FAMILIES:
        start = time.process_time()
        found = compute_metrics(corpus, [family])
        print(f"{family:<16} {time.process_time() - start:6.2f} s  {len(found)} metrics")
        metrics += found
    return metrics


def vectorised_seconds(corpus: Corpus, metrics: Sequence[Metric], num_resamples: int) -> float:
    """CPU time of the intervals of all metrics."""
    start = time.process_time()
    bootstrap = Bootstrap(corpus.studies, num_resamples=num_resamples, seed=0)
    for metric in metrics:
        bootstrap.interval(bootstrap.values(metric))
    return time.process_time() - start


def naive_seconds(corpus: Corpus, num_resamples: int, draws: np.random.Generator) -> float:
    """CPU time of computing the metrics anew for each resample. Every study has one image here, so drawing samples draws studies."""
    start = time.process_time()
    for _ in range(num_resamples):
        chosen = draws.integers(len(corpus.ids), size=len(corpus.ids))
        predictions, references = tuple(corpus.predictions[i] for i in chosen), tuple(corpus.references[i] for i in chosen)
        compute_metrics(Corpus(corpus.ids, predictions, references, corpus.ids), FAMILIES)
    return time.process_time() - start


def main() -> None:
    """Measure, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reports", type=int, default=3000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    texts, what = read_texts(args.reports)
    print(f"{len(texts)} {what}, {sum(len(text.split()) for text in texts) / len(texts):.0f} words on average")
    corpus = make_corpus(texts)
    start = time.process_time()
    metrics = score(corpus)
    scoring = time.process_time() - start
    draws = np.random.default_rng(0)
    ours, ratios = [], []
    for repeat in range(args.repeats):
        ours.append(vectorised_seconds(corpus, metrics, args.resamples))
        naive = naive_seconds(corpus, NAIVE_RESAMPLES, draws) * args.resamples / NAIVE_RESAMPLES
        ratios.append(naive / ours[-1])
        print(f"repeat {repeat}: {args.resamples} resamples in {ours[-1]:.2f} s; naive {naive:.0f} s, extrapolated from {NAIVE_RESAMPLES}")
    spread = max(ratios) - min(ratios)
    print(f"ratio (median of {args.repeats}): {statistics.median(ratios):.0f} x, spread {spread:.0f}")
    print(f"scores and intervals together: {scoring + statistics.median(ours):.2f} s for {len(metrics)} metrics")


if __name__ == "__main__":
    main()
