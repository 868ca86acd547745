"""A server that speaks OpenAI's chat protocol, asked for one rewrite at a time through the official client.

What the server or the client says about a failure is not passed on: it may quote the report or the key.
"""

import ipaddress
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from xraygpt.common.errors import ConfigError, DataError

PROMPT = Path(__file__).with_name("rewrite_prompt.txt").read_text(encoding="utf-8").strip()
"""What the model is told to do."""


@dataclass(frozen=True, kw_only=True)
class RewriteOptions:
    """How a language model rewrites reports.

    Raises:
        ConfigError: an option cannot be used; all of them are named.
    """

    base_url: str
    """Of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1."""
    model: str
    """The model's name, as the server knows it."""
    cache: Path
    """The file of answers (see `rewriting_cache`); it is as confidential as the reports."""
    prompt: str = PROMPT
    """The system message. The user's message is the report, as a JSON object with "findings" and "impression"."""
    concurrency: int = 8
    """Requests under way at once, at most."""
    timeout_seconds: float = 60
    """How long to wait for an answer, each time that it is asked for."""
    max_retries: int = 5
    """How often to ask again after a timeout, a lost connection, or status 408, 409, 429 or 5xx, with growing pauses."""
    max_tokens: int = 400
    """Longest answer; an answer that was cut there is not used."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; a local server needs none."""

    def __post_init__(self) -> None:
        address = urlsplit(self.base_url)
        problems = {
            f"base_url is {self.base_url!r}, expected http(s)://HOST[:PORT]/PATH": address.scheme not in ("http", "https")
            or not address.hostname,
            f"base_url holds a name, a password or a query: a key belongs in the environment variable {self.api_key_env}": bool(
                "@" in address.netloc or address.query
            ),
            "model is empty": not self.model,
            "prompt is empty": not self.prompt.strip(),
            f"concurrency is {self.concurrency}, expected 1 or more": self.concurrency < 1,
            f"timeout_seconds is {self.timeout_seconds}, expected more than 0": self.timeout_seconds <= 0,
            f"max_retries is {self.max_retries}, expected 0 or more": self.max_retries < 0,
            f"max_tokens is {self.max_tokens}, expected 1 or more": self.max_tokens < 1,
        }
        found = [problem for problem, applies in problems.items() if applies]
        if found:
            raise ConfigError(f"The options of the rewriter cannot be used: {'; '.join(found)}.")

    @property
    def is_local(self) -> bool:
        """True if the server is on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:  # a name
            return host == "localhost"


class RequestFailed(Exception):
    """No usable answer to one request came, after all retries.

    Args:
        reason: without a word of the report.
        of_server: the server is in trouble, so that other requests may fail too.
    """

    def __init__(self, reason: str, *, of_server: bool) -> None:
        super().__init__(reason)
        self.of_server = of_server


class Unreachable(RequestFailed):
    """Nobody answers at the address."""


class ChatServer:
    """Asks the server of the options.

    Raises:
        ConfigError: the client is not installed, or the key cannot be sent.
    """

    def __init__(self, options: RewriteOptions) -> None:
        self._options = options
        self._openai = _import_openai()
        self._client = self._openai.AsyncOpenAI(
            base_url=options.base_url,
            api_key=_read_key(options.api_key_env),
            timeout=options.timeout_seconds,
            max_retries=options.max_retries,
            # Reports go to that address and nowhere else: no redirects, and no proxy between this machine and itself.
            http_client=self._openai.DefaultAsyncHttpxClient(follow_redirects=False, trust_env=not options.is_local),
        )

    async def __aenter__(self) -> "ChatServer":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def ask(self, text: str) -> str:
        """Return the model's answer to one report, on one line; it may be empty.

        Raises:
            RequestFailed: for this report there is no usable answer.
            DataError: the server refuses the key or does not know the model, so that there is none for any report.
        """
        openai = self._openai
        try:
            completion = await self._client.chat.completions.create(
                model=self._options.model,
                messages=[{"role": "system", "content": self._options.prompt}, {"role": "user", "content": text}],
                temperature=0,
                seed=0,
                max_tokens=self._options.max_tokens,
            )
        except openai.APIStatusError as error:
            raise self._failure(error.status_code, error.code) from None
        except openai.APITimeoutError:
            raise RequestFailed(f"no answer within {self._options.timeout_seconds:g} s", of_server=True) from None
        except openai.APIConnectionError as error:
            raise Unreachable(f"no connection ({type(error.__cause__).__name__})", of_server=True) from None
        except (openai.OpenAIError, json.JSONDecodeError) as error:
            raise RequestFailed(f"the answer cannot be read ({type(error).__name__})", of_server=False) from None
        return self._read(completion)

    def _read(self, completion: Any) -> str:
        try:
            choice = completion.choices[0]
            answer, end = choice.message.content, choice.finish_reason
        except (AttributeError, TypeError, IndexError):  # the client does not check what it hands on
            raise RequestFailed("the answer is no chat completion", of_server=False) from None
        if end == "length":
            raise RequestFailed(f"the answer was cut at {self._options.max_tokens} tokens", of_server=False)
        if end == "content_filter" or not isinstance(answer, str):
            raise RequestFailed("the model gave no text", of_server=False)
        return " ".join(answer.encode(errors="replace").decode().split())

    def _failure(self, status: int, code: object) -> Exception:
        options = self._options
        if status in (401, 403):
            advice = f"Check the key in the environment variable {options.api_key_env}, and that it may use {options.model}."
            return DataError(f"{options.base_url} refuses the key (HTTP {status}). {advice}")
        if status == 404:
            advice = "Check the model's name, and that the address has its path, most often /v1."
            return DataError(f"{options.base_url} does not know the model {options.model}, or has no chat (HTTP 404). {advice}")
        named = f", {code}" if isinstance(code, str) and re.fullmatch(r"[\w.-]{1,60}", code) else ""
        return RequestFailed(f"HTTP {status}{named}", of_server=status in (408, 409, 429) or status >= 500)


def _import_openai() -> Any:
    try:
        import openai
    except ModuleNotFoundError as error:
        raise ConfigError("A rewriter needs the openai client, which is not installed: make install-extras EXTRAS=rewrite.") from error
    return openai


def _read_key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise ConfigError(f"The key in the environment variable {variable} has a character that no key has. Set it again.")
    return key or "none"  # the client insists on one
