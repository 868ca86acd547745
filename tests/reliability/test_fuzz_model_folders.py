"""Damaged folders of language models and encoders end in a model or a tokenizer, or in one line that says what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.model_score_weights import corpus, write_chexbert, write_encoder
from tests.reliability.fuzzing import attempt, changed, damaged, fuzz, json_values
from xraygpt.common.errors import CheckpointError
from xraygpt.evaluation.model_scores import compute_model_scores
from xraygpt.models.language_model import load_language_model, load_tokenizer

NAMES = (
    "model_type", "architectures", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "head_dim", "intermediate_size", "max_position_embeddings", "rope_scaling", "rope_parameters", "dtype", "torch_dtype",
    "quantization_config", "attn_implementation", "_attn_implementation", "layer_types", "per_layer_config", "tie_word_embeddings",
    "hidden_act", "id2label", "num_labels", "pad_token_id", "text_config", "auto_map", "tokenizer_class", "use_cache", "name_or_path",
    "added_tokens_decoder", "extra_special_tokens", "model_max_length", "chat_template", "bos_token", "init_inputs", "vocab_file",
)  # fmt: skip
"""Keys that transformers knows; a random one is put into a configuration."""
ODD = st.sampled_from(
    ["llama", "gpt2", "bert", "t5", "org/kernel", "paged|eager", "float17", "float16", "gelu", "linear", "yarn", "LlamaTokenizer",
     "BertTokenizer", "PreTrainedTokenizerFast", "../x", 0, -1, 1, 2, 7, 64, 65_536, 2**31 - 1, 2**63, 0.5, 1e300, float("inf")]
)  # fmt: skip
VALUES = json_values(ODD)


@st.composite
def odd_json(draw: st.DrawFn, original: Any) -> bytes:
    """A JSON file in which values were changed, and keys put in that the library knows."""
    content = draw(changed(original, VALUES))
    if isinstance(content, dict):
        content = content | draw(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=2))
    return json.dumps(content).encode(errors="surrogatepass")


def odd_folder(data: st.DataObject, original: Path, folder: Path) -> None:
    """A copy of the folder with one or two damaged files."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(paths))
        content = path.read_bytes()
        try:
            original_json = json.loads(content) if path.suffix == ".json" else None
        except ValueError:  # the second damage of a file
            original_json = None
        if original_json is not None and data.draw(st.integers(0, 3)):
            path.write_bytes(data.draw(odd_json(original_json)))
        else:
            path.write_bytes(data.draw(damaged([content])))


@pytest.fixture(scope="session")
def saved(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights in two files, as transformers saves it."""
    folder = tmp_path_factory.mktemp("fuzzed") / "saved"
    load_language_model(tiny_llm, from_scratch=True).save_pretrained(folder, max_shard_size="60KB")
    load_tokenizer(tiny_llm).save_pretrained(folder)
    return folder


def one_line(load: Callable[[], Any]) -> Any:
    """What is loaded; None for an error, which must be a line."""
    try:
        return load()
    except CheckpointError as error:
        assert len(str(error).splitlines()) == 1
        raise


@fuzz()
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_language_models(data: st.DataObject, saved: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "odd_llm"
    odd_folder(data, saved, folder)
    attempt(lambda: one_line(lambda: load_tokenizer(folder)))
    attempt(lambda: one_line(lambda: load_language_model(folder)))
    attempt(lambda: one_line(lambda: load_language_model(folder, from_scratch=True)))


@fuzz(0.5)
@given(data=st.data())
@pytest.mark.parametrize(("score", "write"), [("bertscore", write_encoder), ("chexbert", write_chexbert)])
@pytest.mark.filterwarnings("ignore")
def test_scores(data: st.DataObject, score: str, write: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.getbasetemp()
    original = base / f"fuzzed_{score}"
    if not original.exists():
        write(original)
    odd_folder(data, original, base / f"odd_{score}")
    metrics, skipped = attempt(lambda: compute_model_scores(corpus(["no effusion"], ["effusion"]), {score: base / f"odd_{score}"}))
    assert bool(metrics) != bool(skipped)
