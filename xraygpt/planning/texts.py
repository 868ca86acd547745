"""How long the rows of a run are: counted in its captions where they are there, else as given."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from xraygpt.common.config import Config
from xraygpt.common.files import ANNOTATIONS_NAME
from xraygpt.conversation.prompts import load_prompts, question_prompt, split_at_images
from xraygpt.datasets.builders import load_annotations
from xraygpt.datasets.dataloaders import evenly_spaced
from xraygpt.models.language_model import load_tokenizer
from xraygpt.models.sequence import IMAGE, answer_ids, prompt_ids
from xraygpt.models.sizes import LlmSize
from xraygpt.planning.run import Texts, assumed_texts, counted_texts

CAPTIONS_COUNTED = 1000


@dataclass(frozen=True, kw_only=True)
class AssumedTokens:
    """What is taken where there is no data; the prompt is that of prompts/alignment.txt with LLaMA's tokenizer."""

    caption: int = 110
    longest: int = 160
    prompt: int = 42
    beginning: int = 10


def training_captions(cfg: Config) -> list[str] | None:
    """The captions of all training splits; None if not all data folders are there."""
    captions = []
    for dataset in cfg.datasets_cfg.values():
        path = Path(dataset.storage).expanduser() / ANNOTATIONS_NAME
        if not path.is_file():
            return None
        captions += [ann["caption"] for ann in load_annotations(path) if ann.get("split", "train") in cfg.run_cfg.train_splits]
    return captions or None


def texts_of(cfg: Config, captions: Sequence[str] | None, assumed: AssumedTokens, *, given: int | None = None) -> Texts:
    """The tokens of a row.

    Args:
        captions: as `training_captions` returns them; evenly spaced ones are counted.
        assumed: taken where captions or tokenizer are not there.
        given: tokens of a caption, in place of counting.
    """
    folder = cfg.model_cfg.llama_model
    if given is not None or captions is None or LlmSize.read(folder) is None:
        answer = min(given or assumed.caption, cfg.model_cfg.max_txt_len)
        longest = max(answer, min(assumed.longest, cfg.model_cfg.max_txt_len))
        return assumed_texts(prompt=assumed.prompt, answer=answer, longest=longest, beginning=assumed.beginning)
    tokenizer, model = load_tokenizer(folder), cfg.model_cfg
    chosen = [captions[i] for i in evenly_spaced(len(captions), CAPTIONS_COUNTED)]
    answers = [len(answer_ids(tokenizer, caption, model.end_sym, model.max_txt_len)) for caption in chosen]
    path = model.prompt_path
    prompts = load_prompts(path, model.prompt_template) if path else [question_prompt("", model.prompt_template)]
    rows = [prompt_ids(tokenizer, split_at_images(prompt), 1) for prompt in prompts]
    before = [row[: row.index(IMAGE)] for row in rows]
    source = f"counted in {len(chosen)} of {len(captions)} training captions and {len(prompts)} prompts"
    beginning = sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(*before, strict=False)))
    return counted_texts([len(row) - 1 for row in rows], answers, beginning=beginning, source=source)
