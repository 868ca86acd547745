"""From questions to answers: what the worker does with a batch."""

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from xraygpt.models.generation import text_so_far
from xraygpt.serving.api_prompt import Question
from xraygpt.serving.batching import Finished, Job, Piece
from xraygpt.serving.pipeline import ReportPipeline
from xraygpt.serving.safety import dropped_turns_note, find_flags
from xraygpt.serving.sentences import AnswerSentence, as_rows, read_sentences
from xraygpt.serving.session import without_role

SYSTEM_NOTE = "The system message was left out: the model was trained without one."

_ROLE = "Doctor:"  # with which some models begin what the prompt has begun already


@dataclass(frozen=True, eq=False)
class Written:
    """An answer, in the terms of the API."""

    question: Question
    text: str
    num_tokens: int
    is_cut: bool
    """It ran out of tokens or of time, or repeated itself: the model had not ended it."""
    is_repeated: bool
    sentences: list[AnswerSentence]

    @property
    def num_prompt_tokens(self) -> int:
        """Of the question."""
        return self.question.num_prompt_tokens

    @property
    def finish_reason(self) -> str:
        """Why the text ends: "stop" by itself, "length" before its end."""
        return "length" if self.is_cut else "stop"

    def usage(self) -> dict[str, int]:
        """OpenAI's count of tokens."""
        total = self.num_prompt_tokens + self.num_tokens
        return {"prompt_tokens": self.num_prompt_tokens, "completion_tokens": self.num_tokens, "total_tokens": total}

    def details(self) -> dict[str, Any]:
        """What OpenAI's format has no place for: why the text deserves doubt."""
        question = self.question
        notes = [SYSTEM_NOTE if question.has_system_text else "", dropped_turns_note(question.dropped_turns)]
        return {
            "flags": find_flags(self.text, truncated=self.is_cut, repeated=self.is_repeated),
            "notes": list(filter(None, notes)),
            "sentences": as_rows(self.sentences),
            "concerns": [asdict(concern) for concern in question.concerns],
            "decoding": question.decoding,
        }


class BatchWriter:
    """Answers the questions of a batch, all rows together; each answer is passed on as it grows, and ends early if nobody wants it.

    Args:
        pipeline: the model.
        lock: held while the model works; whatever else uses the model in this process takes turns by it.
    """

    def __init__(self, pipeline: ReportPipeline, lock: threading.Lock) -> None:
        self.pipeline = pipeline
        self.lock = lock

    def write(self, jobs: Sequence[Job]) -> None:
        """Answer the questions of jobs with equal `batch_key`. With beams there are no pieces, and no early end."""
        model, questions = self.pipeline.model, [job.question for job in jobs]
        shown = [""] * len(jobs)

        def show(row: int, text: str) -> None:
            if questions[row].is_streamed and text != shown[row]:
                jobs[row].deliver(Piece(text[len(shown[row]) :]))
                shown[row] = text

        def watch(row: int, token_ids: Sequence[int]) -> bool:
            if questions[row].is_streamed:
                text = text_so_far(model.llama_tokenizer, token_ids, model.end_sym)
                if not _ROLE.startswith(text):  # what begins like the role may become the role
                    show(row, without_role(_ROLE, text))
            return jobs[row].is_unwanted

        with self.lock:
            image_embeds = model.encode_once(torch.cat([question.images for question in questions]))
            answers = model.generate(
                [question.parts for question in questions],
                image_embeds,
                watch=watch,
                seed=[question.seed for question in questions],
                **questions[0].settings,
            )
        for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            text = without_role(_ROLE, answer.text)
            show(row, text)
            is_cut = answer.truncated or answer.stopped
            sentences = read_sentences(model.llama_tokenizer, text, answer.token_ids, answer.log_probs)
            jobs[row].end(Finished(Written(question, text, len(answer.token_ids), is_cut, answer.repeated, sentences)))
