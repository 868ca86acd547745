"""The files beside a scorecard, and the hash of a test set."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.example import TRAINING, example
from xraygpt.common.files import sha256_file
from xraygpt.evaluation.baselines import text_baselines
from xraygpt.evaluation.metric import Corpus
from xraygpt.evaluation.result_folder import describe_data, read_inputs, split_hash, write_inputs


def reordered(corpus: Corpus) -> Corpus:
    """The same samples, the last one first."""
    return Corpus(corpus.ids[::-1], corpus.predictions[::-1], corpus.references[::-1], corpus.studies[::-1])


@pytest.mark.parametrize("truncated", [None, (True, False, False, False, False, True)])
def test_what_is_written_is_read(tmp_path: Path, truncated: tuple[bool, ...] | None) -> None:
    corpus = replace(example(), truncated=truncated, references=(("One.", "Two."), *example().references[1:]), studies=tuple("xxyyzz"))
    baselines = text_baselines(corpus, TRAINING, 1)
    hashes = write_inputs(tmp_path, corpus, baselines)
    assert read_inputs(tmp_path, {name: item.description for name, item in baselines.items()}) == (corpus, baselines)
    assert hashes == {path.name: sha256_file(path) for path in tmp_path.iterdir()}


def test_the_hash_of_a_split_is_of_its_references_alone() -> None:
    corpus = example()
    assert split_hash(corpus) == split_hash(reordered(corpus)) == split_hash(replace(corpus, predictions=("",) * 6))
    assert split_hash(corpus) != split_hash(replace(corpus, references=(("Other.",), *corpus.references[1:])))
    assert split_hash(corpus) != split_hash(replace(corpus, studies=("s",) * 6))


def test_the_data_are_counted() -> None:
    corpus = replace(example(), studies=tuple("xxyyzz"), references=(("One.", "Two."), *example().references[1:]))
    data = describe_data(corpus, split="val", files={})
    assert (data["num_samples"], data["num_studies"], data["num_references"], data["split"]) == (6, 3, 7, "val")
