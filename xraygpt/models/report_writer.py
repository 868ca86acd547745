"""The half of the model that writes: texts for prompts, reports for images, the answers of a chat.

`B` samples, `S` image size, `Q` query tokens (32), `D_q` Q-Former width (768), `D_l` language model width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from xraygpt.conversation.prompts import question_prompt
from xraygpt.models.blip2 import Blip2Base
from xraygpt.models.caches import ImageCache, PrefixCache
from xraygpt.models.decoding import DecodingSettings
from xraygpt.models.generation import GeneratedText, PromptRows, beam_search, text_so_far, write_rows, written_texts


class ReportWriter(Blip2Base):
    """What can be done with a trained model, whose parts the subclass brings."""

    llama_tokenizer: Any
    llama_model: Any
    llama_proj: nn.Module
    prompt_list: list[str]
    prompt_template: str
    end_sym: str

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.seen_images = ImageCache()

    def encode_img(self, image: Tensor) -> Tensor:
        """float32 [B, 3, S, S] → image embeddings [B, Q, D_l]."""
        raise NotImplementedError

    def prompt_wrap(self, prompts: Sequence[str | Sequence[str]]) -> list[list[int]]:
        """Token ids of each prompt, with `IMAGE` slots."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "ReportWriter":
        """Switch the parts that are not frozen. The embeddings of the images that were seen are forgotten: training changes them."""
        self.seen_images.clear()
        super().train(mode)
        return self

    @property
    def context_length(self) -> int:
        """Positions that the language model was made for: prompt, image slots and answer together."""
        return self.llama_model.config.max_position_embeddings

    @torch.no_grad()
    def encode_once(self, image: Tensor) -> Tensor:
        """`encode_img` without gradients; images that were seen lately are not encoded again."""
        with self.maybe_autocast():
            return self.llama_proj(self.read_once(image))

    def read_once(self, image: Tensor) -> Tensor:
        """`read_images`; images that were seen lately are not read again."""
        # One by one: what an image gives does not depend on those that come with it.
        return torch.stack([self.seen_images.get(each, lambda unseen: self.read_images(unseen[None])[0]) for each in image])

    def new_cache(self) -> PrefixCache:
        """An empty cache for the turns of one conversation, see `stream`."""
        return PrefixCache()

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str | Sequence[str]],
        image_embeds: Tensor,
        *,
        cache: PrefixCache | None = None,
        watch: Callable[[int, Sequence[int]], bool] | None = None,
        **settings: Any,
    ) -> list[GeneratedText]:
        """Write one text for each prompt.

        Args:
            prompts: text with `<ImageHere>`, or parts; as many placeholders altogether as `image_embeds` has rows, in order.
            image_embeds: [number of images, Q, D_l] from `encode_img`.
            cache: of the conversation, for one prompt; beams make no use of it.
            watch: called after each token with the number of its row and the row's tokens so far; True ends the row there. Not called
                with beams, which are only compared when all are complete.
            settings: of `xraygpt.models.decoding.DecodingSettings`; `end_sym` is the model's unless given.
        """
        chosen = DecodingSettings(**{"end_sym": self.end_sym, **settings})
        rows = self._prompt_rows(prompts, image_embeds)
        if chosen.num_beams > 1:
            return beam_search(self.llama_model, self.llama_tokenizer, rows, chosen)
        for decoding in write_rows(self.llama_model, self.llama_tokenizer, rows, chosen, cache):
            for row in decoding.rows:
                if watch and watch(row, decoding.token_ids[row]):
                    decoding.stop(row)
        return written_texts(decoding)

    def stream(
        self, prompt: str | Sequence[str], image_embeds: Tensor, *, cache: PrefixCache | None = None, **settings: Any
    ) -> Iterator[GeneratedText]:
        """`generate` for one prompt, token by token. Close the iterator to stop; `cache` then has what was written so far.

        Yields:
            After each token what stands there, of which `text` will not change any more. The last one is complete. With beams: that alone.
        """
        if settings.get("num_beams", 1) > 1:
            yield from self.generate([prompt], image_embeds, **settings)
            return
        chosen = DecodingSettings(**{"end_sym": self.end_sym, **settings})
        rows = self._prompt_rows([prompt], image_embeds)
        with closing(write_rows(self.llama_model, self.llama_tokenizer, rows, chosen, cache)) as steps:
            for decoding in steps:
                (written,) = written_texts(decoding)
                yield (
                    written
                    if decoding.is_done
                    else replace(written, text=text_so_far(self.llama_tokenizer, written.token_ids, chosen.end_sym))
                )

    def _prompt_rows(self, prompts: Sequence[str | Sequence[str]], image_embeds: Tensor) -> PromptRows:
        look_up = self.llama_model.get_input_embeddings()
        with torch.no_grad():
            return PromptRows.of(self.prompt_wrap(prompts), image_embeds, embed_tokens=look_up, pad_id=self.llama_tokenizer.pad_token_id)

    def report_prompt(self, question: str = "") -> str:
        """The prompt that asks for a report: the question in the template; "" takes the first training prompt."""
        return question_prompt(question, self.prompt_template) if question else self.prompt_list[0]

    def write_reports(self, image: Tensor, prompt: str = "", **settings: Any) -> list[str]:
        """float32 [B, 3, S, S] → B reports; `prompt` is a question as for `report_prompt`, `settings` are those of `generate`."""
        return [written.text for written in self.generate_reports(image, prompt, **settings)[0]]

    @torch.no_grad()
    def generate_reports(self, image: Tensor, prompt: str = "", **settings: Any) -> tuple[list[GeneratedText], Tensor]:
        """`write_reports` with all that is known of each row; the images are encoded once.

        Returns:
            The B reports, and the `image_features` of the B images.
        """
        queries = self.read_images(image)
        return self.write_reports_from(queries, prompt, **settings), _mean_of_queries(queries)

    @torch.no_grad()
    def write_reports_from(self, queries: Tensor, prompt: str = "", **settings: Any) -> list[GeneratedText]:
        """`generate_reports` for images of which the query tokens [B, Q, D_q] are known, from `read_images`."""
        with self.maybe_autocast():
            image_embeds = self.llama_proj(queries)
        return self.generate([self.report_prompt(prompt)] * len(queries), image_embeds, **settings)

    @torch.no_grad()
    def read_images(self, image: Tensor) -> Tensor:
        """float32 [B, 3, S, S] → what the query tokens read, [B, Q, D_q]."""
        with self.maybe_autocast():
            return self.encode_queries(image.to(self.device))

    @torch.no_grad()
    def image_features(self, image: Tensor) -> Tensor:
        """float32 [B, 3, S, S] → float32 [B, D_q], by which images are compared: the mean over what the query tokens read."""
        return _mean_of_queries(self.read_images(image))


def _mean_of_queries(queries: Tensor) -> Tensor:
    return queries.float().mean(dim=1)
