"""Reports → captions by a language model, as the paper did it, on any OpenAI-compatible server.

    rewriting          the drafts through server, cache and audit, with counts
    rewriting_server   the options, and one request
    rewriting_cache    the answers on disk
    rewriting_audit    which answers may stand for their report

The rule-based caption stays wherever the model's is not usable, so a rewrite can only replace a caption, never lose one. An interrupted run
is simply started again: the cache has the answers that came.
"""

import asyncio
import json
import logging
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from xraygpt.common.errors import DataError
from xraygpt.datasets.preparation.rewriting_audit import REJECTIONS, Draft, ReadStatuses, audit
from xraygpt.datasets.preparation.rewriting_cache import AnswerCache, answer_key
from xraygpt.datasets.preparation.rewriting_server import ChatServer, RequestFailed, RewriteOptions, Unreachable

__all__ = ["CACHED", "COUNTS", "Draft", "RewriteOptions", "rewrite"]

REWRITTEN = "rewritten"
CACHED = "of these from the cache"
FAILED = "request failed"
COUNTS = (REWRITTEN, CACHED, *REJECTIONS, FAILED)
"""What is counted, in order. All but the second add up to the number of drafts."""

MAX_FAILURES_IN_A_ROW = 20
"""After so many failed requests the run stops."""

logger = logging.getLogger(__name__)


def rewrite(drafts: Iterable[Draft], *, options: RewriteOptions, read_statuses: ReadStatuses) -> tuple[dict[str, str], dict[str, int]]:
    """Rewrite reports, several at once.

    Args:
        drafts: one for each study; taken as they are needed.
        options: the server and how to ask it.
        read_statuses: text → {finding: "present", "absent" or "uncertain"}; the audit's reader.

    Returns:
        study_id → the text to use, in the order of the drafts: the rewrite, or the draft's caption where the rewrite was rejected or none
        came; how many of each there are, by `COUNTS`.

    Raises:
        ConfigError: the client is not installed, or the key cannot be sent.
        DataError: the server cannot be used, or the cache. What was answered before is in the cache.
    """
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request
    if not options.is_local:
        unencrypted = " and is not encrypted" if options.base_url.casefold().startswith("http:") else ""
        logger.warning(
            "The text of the reports leaves this machine for %s%s. Data under a use agreement, such as MIMIC-CXR, must not go to others "
            "without the data owner's permission.",
            options.base_url,
            unencrypted,
        )
    with AnswerCache(options.cache) as cache:
        return asyncio.run(_rewrite_all(drafts, options, cache, read_statuses))


async def _rewrite_all(
    drafts: Iterable[Draft], options: RewriteOptions, cache: AnswerCache, read_statuses: ReadStatuses
) -> tuple[dict[str, str], dict[str, int]]:
    async with ChatServer(options) as server:
        rewriter = _Rewriter(server=server, cache=cache, options=options, read_statuses=read_statuses)
        remaining = iter(tqdm(drafts, desc="rewrites", unit="report", disable=None))
        workers = [asyncio.create_task(rewriter.work(remaining)) for _ in range(options.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    rewriter.check_end()
    return rewriter.texts, rewriter.counts


class _Rewriter:
    """What the workers share: the drafts still to do, the results, and how the server is doing."""

    def __init__(self, *, server: ChatServer, cache: AnswerCache, options: RewriteOptions, read_statuses: ReadStatuses) -> None:
        self.texts: dict[str, str] = {}
        self.counts = dict.fromkeys(COUNTS, 0)
        self._server = server
        self._cache = cache
        self._options = options
        self._read_statuses = read_statuses
        self._server_works = False
        self._model_works = False
        self._failures_in_a_row = 0
        self._last_failure: RequestFailed | None = None

    async def work(self, drafts: Iterator[Draft]) -> None:
        """Take drafts until none is left."""
        for draft in drafts:
            self.texts[draft.study_id] = draft.caption
            try:
                answer, is_cached = await self._answer(draft)
            except RequestFailed as failure:
                self._note(failure, draft)
                continue
            rejection = audit(answer, draft, read_statuses=self._read_statuses)
            self.counts[rejection or REWRITTEN] += 1
            if rejection:
                logger.debug("Study %s keeps its rule-based caption: %s", draft.study_id, rejection)
            else:
                self.counts[CACHED] += is_cached
                self.texts[draft.study_id] = answer

    async def _answer(self, draft: Draft) -> tuple[str, bool]:
        """The model's answer, and whether it was in the cache."""
        # JSON keeps the report apart from everything else, whatever it contains.
        text = json.dumps({"findings": draft.findings, "impression": draft.impression}, ensure_ascii=False)
        key = answer_key(model=self._options.model, prompt=self._options.prompt, text=text)
        answer = self._cache.get(key)
        is_cached = answer is not None
        if answer is None:
            answer = await self._server.ask(text)
            self._cache.put(key, answer)
            self._server_works = True
            self._failures_in_a_row = 0
        else:
            await asyncio.sleep(0)  # a run from the cache can be interrupted too
        self._model_works = True
        return answer, is_cached

    def _note(self, failure: RequestFailed, draft: Draft) -> None:
        """Count a failure; stop the run where the next request would fail as well."""
        self.counts[FAILED] += 1
        self._failures_in_a_row += 1
        self._last_failure = failure
        logger.warning("Study %s keeps its rule-based caption: %s", draft.study_id, failure)
        if isinstance(failure, Unreachable) and not self._server_works:
            raise DataError(
                f"The server {self._options.base_url} cannot be reached: {failure}. Check the address, and that the server runs. "
                f"The answers so far are kept in {self._options.cache}."
            )
        # Reports that fail each on its own account fail again in every run, and may be all that the cache lacks.
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW and (failure.of_server or not self._model_works):
            raise self._given_up(failure)

    def check_end(self) -> None:
        """Raise a DataError if every single request failed."""
        if self._last_failure and not self._model_works:
            raise self._given_up(self._last_failure)

    def _given_up(self, failure: RequestFailed) -> DataError:
        options = self._options
        return DataError(
            f"The server {options.base_url} failed {self._failures_in_a_row} requests in a row, the last with: {failure}. Check the "
            f"server's log, the model {options.model}, the longest answer ({options.max_tokens} tokens) and the timeout. "
            f"The answers so far are kept in {options.cache}."
        )
