"""Weights of the real architectures at toy size, made on the fly: what the model-based scores read from a folder.

The imports stand inside the functions: the tests of the file formats need neither torch nor transformers.
"""

from pathlib import Path
from typing import Any

from xraygpt.evaluation.metric import Corpus

WORDS = [
    "the", "heart", "is", "enlarged", "normal", "no", "there", "small", "large", "left", "right", "pleural", "effusion", "lungs",
    "are", "clear", "pneumothorax", "with", "and", "consolidation", "possible", "edema", "a", "b", ".", ",",
]  # fmt: skip


def corpus(predictions: list[str], references: list[Any]) -> Corpus:
    """A corpus of one sample a study; a reference may be one text or several."""
    ids = tuple(f"case/{index}" for index in range(len(predictions)))
    return Corpus(ids, tuple(predictions), tuple((text,) if isinstance(text, str) else tuple(text) for text in references), ids)


def write_tokenizer(folder: Path) -> int:
    """A WordPiece vocabulary without a length limit; returns its size."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return len(vocabulary)


def bert_config(vocab_size: int) -> Any:
    """Width 32, 3 layers, 64 positions; weights far from zero, so that texts differ."""
    from transformers import BertConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    return BertConfig(vocab_size=vocab_size, max_position_embeddings=64, initializer_range=0.5, **sizes)


def write_encoder(folder: Path) -> Path:
    """An encoder folder as Hugging Face lays it out."""
    import torch
    from transformers import BertModel

    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(bert_config(write_tokenizer(folder))).save_pretrained(folder)
    return folder


def write_chexbert(folder: Path) -> Path:
    """A folder with a chexbert.pth laid out as the published one: a prefix of parallel training, and the optimizer's state."""
    import torch
    from transformers import BertModel

    folder.mkdir(parents=True)
    config = bert_config(write_tokenizer(folder))
    config.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = {f"module.bert.{key}": value for key, value in BertModel(config).state_dict().items()}
        for head in range(14):
            classes = 2 if head == 13 else 4
            state[f"module.linear_heads.{head}.weight"] = torch.randn(classes, config.hidden_size)
            state[f"module.linear_heads.{head}.bias"] = torch.zeros(classes)
    checkpoint = {"model_state_dict": state, "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 2e-5}]}, "epoch": 1}
    torch.save(checkpoint, folder / "chexbert.pth")
    return folder
