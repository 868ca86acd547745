"""Requests and responses of `/v1/chat/completions`, in the format of OpenAI's API.

What cannot be done is refused, not ignored: a client that asks for two answers and gets one would not notice. Parameters without any
effect on the answer are let through, and so is every parameter with the value that asks for nothing.
"""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xraygpt.serving.api_limits import ApiError, ApiLimits, invalid

IGNORED = {
    *("metadata", "moderation", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
    *("safety_identifier", "service_tier", "store", "tool_choice", "function_call", "user"),
}
"""Parameters that change no answer."""

UNSUPPORTED: dict[str, Any] = {
    "audio": None,
    "frequency_penalty": 0,
    "functions": [],
    "logit_bias": {},
    "logprobs": False,
    "modalities": ["text"],
    "n": 1,
    "prediction": None,
    "presence_penalty": 0,
    "reasoning_effort": None,
    "response_format": {"type": "text"},
    "stop": [],
    "tools": [],
    "top_logprobs": 0,
    "verbosity": None,
    "web_search_options": None,
}
"""Parameters that are accepted with this value, or null, only."""

_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")  # the escape of a surrogate, which may lack its other half


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageUrl(_Strict):
    """`detail` has no effect: every image is read at the model's size."""

    url: str
    detail: str | None = None


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class ImagePart(_Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Strict):
    """`system` and `developer` messages are left out of the prompt, which the response says: the model was trained without."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None
    name: str | None = None
    # of an answer that a client sends back as it got it
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    def texts(self) -> list[str]:
        """Its text parts."""
        if isinstance(self.content, str):
            return [self.content]
        return [part.text for part in self.content or [] if isinstance(part, TextPart)]

    def image_urls(self) -> list[str]:
        """The addresses of its image parts."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.image_url.url for part in parts if isinstance(part, ImagePart)]


class StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(_Strict):
    """The body of a request. The last group is this project's own."""

    model: str
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)

    num_beams: int | None = Field(default=None, ge=1, le=8)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    length_penalty: float | None = Field(default=None, ge=-10, le=10)

    def settings(self, defaults: dict[str, Any], limits: ApiLimits) -> dict[str, Any]:
        """How to write the answer: the keys of `run.generation` but the prompt.

        Without a temperature the answer is written as the configuration says, by default greedily; a temperature above 0 draws at random,
        and 0 does not.

        Raises:
            ApiError: more tokens are asked for than the server allows.
        """
        settings = dict(defaults)
        own = {"num_beams": self.num_beams, "repetition_penalty": self.repetition_penalty, "length_penalty": self.length_penalty}
        asked = {"temperature": self.temperature or None, "top_p": self.top_p, **own}
        settings |= {key: value for key, value in asked.items() if value is not None}
        if self.temperature is not None:
            settings["do_sample"] = self.temperature > 0
        max_tokens = self.max_completion_tokens or self.max_tokens
        if max_tokens is not None and max_tokens > limits.max_tokens:
            message = f"{max_tokens} tokens are asked for, and at most {limits.max_tokens} are written. Ask for fewer."
            raise invalid(message, param="max_tokens")
        settings["max_new_tokens"] = max_tokens or min(settings["max_new_tokens"], limits.max_tokens)
        settings["min_new_tokens"] = min(settings["min_new_tokens"], settings["max_new_tokens"])
        return settings


def read_request(body: bytes, limits: ApiLimits) -> ChatRequest:
    """The request in a body of JSON.

    Raises:
        ApiError: it is no JSON, not well-formed, asks for what is not supported, or is over a limit.
    """
    values = _read_object(body)
    for name, neutral in UNSUPPORTED.items():
        if values.get(name) not in (None, neutral):
            raise invalid(f"{name} is not supported. Leave it out.", param=name, code="unsupported_parameter")
    supported = {key: value for key, value in values.items() if key not in IGNORED and key not in UNSUPPORTED}
    try:
        request = ChatRequest.model_validate(supported)
    except ValidationError as error:
        raise _not_well_formed(error) from None
    if len(request.messages) > limits.max_messages:
        raise invalid(f"{len(request.messages)} messages; at most {limits.max_messages} are read.", param="messages")
    length = sum(len(text) for message in request.messages for text in message.texts())
    if length > limits.max_characters:
        message = f"The messages have {length} characters; at most {limits.max_characters} are read. Shorten them."
        raise invalid(message, param="messages", code="context_length_exceeded")
    return request


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body.decode())
        if _HALF_CHARACTER.search(body):  # which no tokenizer can read, and no answer can quote
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise invalid("The body of the request is not JSON in UTF-8.", code="invalid_json") from None
    if not isinstance(values, dict):
        raise invalid("The body of the request must be a JSON object.", code="invalid_json")
    return values


def _not_well_formed(error: ValidationError) -> ApiError:
    """The fault that lies deepest: where, and what is wrong there. One value of two possible types has a fault for each."""
    fault = max(error.errors(include_url=False, include_context=False, include_input=False), key=lambda fault: len(fault["loc"]))
    where = ".".join(str(step) for step in fault["loc"] if not str(step).startswith(("list[", "str")))
    unknown = fault["type"] == "extra_forbidden"
    message = "this parameter is not supported; leave it out" if unknown else fault["msg"]
    return invalid(f"{where}: {message}.", param=where, code="unsupported_parameter" if unknown else "invalid_value")
