"""`POST /v1/chat/completions`: one request from its arrival to the end of its answer, whichever way it ends."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import ExitStack

from anyio import to_thread
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from xraygpt.serving.api_exchange import CLIENT_LEFT, Exchange
from xraygpt.serving.api_limits import ApiError, require_token
from xraygpt.serving.api_prompt import Question
from xraygpt.serving.api_schema import ChatRequest, read_request
from xraygpt.serving.api_service import ApiService
from xraygpt.serving.batching import Event, Failed, Finished, Job, Piece
from xraygpt.serving.body_memory import BodyMemory

logger = logging.getLogger(__name__)

_LATE_SECONDS = 5.0  # after its time an answer ends by itself; then it takes this long at most to be sent


def _failure(reason: str) -> ApiError:
    """The error for a `Failed` job."""
    if reason == "time":
        return ApiError(503, "The answer could not be written in time. Try again later.", code="timeout", retry_after=10)
    if reason == "stopped":
        return ApiError(503, "The server is stopping. Try again later.", code="stopping", retry_after=10)
    return ApiError(500, "The server failed to write the answer.", code="server_error")


class ChatEndpoint:
    """The route, as an ASGI application.

    A request holds a place in the queue from the end of its body until the last byte is sent or
    the client is gone. While the body comes, a slow sender would hold it for nothing.
    """

    def __init__(self, service: ApiService) -> None:
        self.service = service
        self.memory = BodyMemory(num_bodies=service.limits.max_receiving, max_body_bytes=service.limits.max_bytes)
        self.decoding = asyncio.Semaphore(service.limits.max_decoding)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; count and log it, without a word of its content."""
        exchange = Exchange(scope, receive, send)
        try:
            require_token(exchange.request.headers.get("authorization", ""), self.service.tokens)
            self.service.require_free_place()  # so that nobody sends a large body for nothing
            await asyncio.wait_for(self._answer(exchange), self.service.limits.max_seconds + _LATE_SECONDS)
        except asyncio.TimeoutError:  # the batch before takes longer than a request may, or the client does not read
            if not exchange.is_streaming:  # a stream ends as it is: its client may not read on
                await exchange.send_error(_failure("time"))
        except ClientDisconnect:
            exchange.status = CLIENT_LEFT
        except ApiError as error:
            await exchange.send_error(error)
        except Exception as error:  # the traceback that the server would log might quote the request
            places = "".join(traceback.format_tb(error.__traceback__))
            logger.error("%s failed with %s at:\n%s", exchange.id, type(error).__name__, places)
            await exchange.send_error(_failure("error"))
        finally:
            self._account(exchange)

    async def _answer(self, exchange: Exchange) -> None:
        with ExitStack() as place:
            request, question = await self._read(exchange, place)
            await self._write(exchange, request, question)

    async def _write(self, exchange: Exchange, request: ChatRequest, question: Question) -> None:
        events = asyncio.Queue[Event | None]()
        loop = asyncio.get_running_loop()

        def deliver(event: Event) -> None:
            """Called by the worker's thread."""
            loop.call_soon_threadsafe(events.put_nowait, event)

        job = Job(
            question=question,
            batch_key=question.batch_key,
            deadline=exchange.started + self.service.limits.max_seconds,
            deliver=deliver,
        )
        watching = asyncio.create_task(exchange.wait_for_leave())
        watching.add_done_callback(lambda _: events.put_nowait(None))  # which wakes `_events`
        self.service.worker.submit(job)
        try:
            await self._pass_on(exchange, request, self._events(events, watching))
        finally:
            job.cancel()
            watching.cancel()

    async def _read(self, exchange: Exchange, place: ExitStack) -> tuple[ChatRequest, Question]:
        """What is asked; images of few requests at a time are decoded. Once the body has come, `place` holds one in the queue."""
        with self.memory.share() as share:
            body = await exchange.receive_body(share)
            place.enter_context(self.service.place())
            async with self.decoding:
                return await to_thread.run_sync(self._read_body, body)

    def _read_body(self, body: bytes) -> tuple[ChatRequest, Question]:
        request = read_request(body, self.service.limits)
        self.service.require_model(request.model)
        return request, self.service.reader.read(request)

    async def _events(self, events: asyncio.Queue[Event | None], watching: asyncio.Task[None]) -> AsyncIterator[Piece | Finished]:
        """What the worker delivers, up to the end of the answer."""
        while True:
            event = await events.get()
            if event is None or watching.done():
                raise ClientDisconnect
            if isinstance(event, Failed):
                raise _failure(event.reason)
            yield event
            if isinstance(event, Finished):
                return

    async def _pass_on(self, exchange: Exchange, request: ChatRequest, events: AsyncIterator[Piece | Finished]) -> None:
        is_first = True
        async for event in events:
            if is_first:
                self.service.metrics.first_piece.observe(exchange.seconds)
                is_first = False
            if isinstance(event, Piece):
                if request.stream:
                    await exchange.send_piece(event.text, request.model)
            elif request.stream:
                with_usage = request.stream_options is not None and request.stream_options.include_usage
                await exchange.send_end(event.answer, request.model, with_usage=with_usage)
            else:
                await exchange.send_whole(event.answer, request.model)

    def _account(self, exchange: Exchange) -> None:
        metrics, written = self.service.metrics, exchange.written
        num_read, num_written = (written.num_prompt_tokens, written.num_tokens) if written else (0, 0)
        metrics.requests.labels(exchange.status).inc()
        metrics.seconds.observe(exchange.seconds)
        metrics.tokens.labels("prompt").inc(num_read)
        metrics.tokens.labels("answer").inc(num_written)
        logger.info("%s %d: %d + %d tokens, %.2f s", exchange.id, exchange.status, num_read, num_written, exchange.seconds)
