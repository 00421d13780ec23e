"""The chat request that is accepted: LLaMA-Factory's, with OpenAI's names understood and nothing silently ignored."""

from typing import Any, ClassVar, Literal

from llamafactory.api.protocol import ChatCompletionRequest, ChatMessage, MultimodalInputItem, Role
from llamafactory.extras.constants import AUDIO_PLACEHOLDER, IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
from pydantic import BaseModel, Field, model_validator

from generation import RequestError
from pictures import PictureError, normalize_picture

MAX_PICTURES = 32


class StreamOptions(BaseModel):
    include_usage: bool = False


class ResponseFormat(BaseModel):
    type: Literal["text"]


class ServedChatRequest(ChatCompletionRequest):
    """A request ready for LLaMA-Factory; ValueError or RequestError with a sentence for the client where it is not."""

    served_name: ClassVar[str]
    special_tokens: ClassVar[frozenset[str]]

    messages: list[ChatMessage] = Field(min_length=1)
    n: int = Field(default=1, ge=1, le=8)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    response_format: ResponseFormat | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _understand_developer(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("messages"), list):
            messages = [
                {**message, "role": "system"}
                if isinstance(message, dict) and message.get("role") == "developer"
                else message
                for message in data["messages"]
            ]
            return {**data, "messages": messages}
        return data

    @model_validator(mode="after")
    def _prepare(self) -> "ServedChatRequest":
        if self.model != self.served_name:
            raise RequestError(
                f"there is no model {self.model!r} here, but {self.served_name!r}", 404, "model_not_found"
            )
        self._refuse_what_would_be_ignored()
        self.max_tokens = self.max_completion_tokens or self.max_tokens
        # LLaMA-Factory hands presence_penalty on as repetition_penalty, a different thing for which 0 is an error.
        self.presence_penalty = self.repetition_penalty
        self._join_turns()
        for message in self.messages:
            self._prepare_message(message)
        pictures = sum(item.type == "image_url" for message in self.messages for item in _items(message))
        if pictures > MAX_PICTURES:
            raise ValueError(f"the conversation has {pictures} pictures, more than {MAX_PICTURES}")
        return self

    def _refuse_what_would_be_ignored(self) -> None:
        for name in ("presence_penalty", "frequency_penalty", "logprobs", "stop"):
            if getattr(self, name):
                raise ValueError(f"{name} is not supported by this server: leave it out")
        if self.stream and self.n > 1:
            raise ValueError("n must be 1 when streaming")
        if self.stream and self.tools:
            raise ValueError("tools cannot be used when streaming")

    def _join_turns(self) -> None:
        """Make one turn of several user messages in a row, as clients send that put each picture into its own."""
        joined: list[ChatMessage] = []
        for message in self.messages:
            if joined and message.role == joined[-1].role == Role.USER:
                between = [MultimodalInputItem(type="text", text="\n")] if _ends_in_text(joined[-1]) else []
                joined[-1] = ChatMessage(role=Role.USER, content=[*_items(joined[-1]), *between, *_items(message)])
            else:
                joined.append(message)
        turns = joined[1:] if joined[0].role == Role.SYSTEM else joined
        asking, answering = (Role.USER, Role.TOOL), (Role.ASSISTANT, Role.FUNCTION)
        if len(turns) % 2 == 0 or any(
            turn.role not in (answering if at % 2 else asking) for at, turn in enumerate(turns)
        ):
            raise ValueError(
                "after an optional system message, user and assistant must take turns, and the user be the last"
            )
        self.messages = joined

    def _prepare_message(self, message: ChatMessage) -> None:
        items = _items(message)
        if not items and not message.tool_calls:
            raise ValueError(f"a message of role {message.role.value} is empty")
        for item in items:
            given = getattr(item, item.type)
            if given is None:
                raise ValueError(f"an item of type {item.type} lacks its {item.type}")
            if item.type == "text":
                self._check_text(item.text or "")
            elif message.role != Role.USER:
                raise ValueError(f"a message of role {message.role.value} can hold text only")
            elif item.type == "image_url":
                item.image_url.url = _normalized(item.image_url.url)
            else:
                raise ValueError(f"{item.type} is not supported by this server: it answers about pictures and text")
        if message.role == Role.SYSTEM:
            message.content = "".join(item.text or "" for item in items)

    def _check_text(self, text: str) -> None:
        for token in (IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, AUDIO_PLACEHOLDER, *self.special_tokens):
            if token in text:
                raise ValueError(
                    f"the text holds {token!r}, which has a meaning of its own for this model: take it out"
                )


def _items(message: ChatMessage) -> list[MultimodalInputItem]:
    if isinstance(message.content, list):
        return message.content
    return [MultimodalInputItem(type="text", text=message.content)] if message.content else []


def _ends_in_text(message: ChatMessage) -> bool:
    items = _items(message)
    return bool(items) and items[-1].type == "text"


def _normalized(url: str) -> str:
    try:
        return normalize_picture(url)
    except PictureError as error:
        raise ValueError(str(error)) from None
