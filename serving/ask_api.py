"""The chat page's side of the API: one streamed question over HTTP, and what state the model is in."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx

TIMEOUT = httpx.Timeout(connect=5, read=600, write=60, pool=60)


class ApiAway(Exception):
    """Nobody answers at the API's address, or it says that it is stopping: worth asking again."""


class ApiRefused(Exception):
    """The API answered, and the answer is no; the message is the API's own."""


class Api:
    """An OpenAI-compatible API at `url`, asked for the model `name`."""

    def __init__(self, url: str, name: str, key: str | None) -> None:
        self.name = name
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT, trust_env=False)

    async def ask(self, messages: list[dict[str, Any]]) -> AsyncGenerator[str, None]:
        """Yield the answer in pieces; ApiAway or ApiRefused when there is none."""
        body = {"model": self.name, "messages": messages, "stream": True}
        try:
            async with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _refusal(response)
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        yield _piece(json.loads(line.removeprefix("data: ")))
        except httpx.TransportError as error:
            raise ApiAway(str(error) or type(error).__name__) from error

    async def state(self) -> tuple[bool, str]:
        """Whether the model can answer now, and the reason if not."""
        try:
            response = await self._client.get("/health", timeout=5)
        except httpx.TimeoutException:
            return False, "忙 · busy"
        except httpx.TransportError:
            return False, "连接不上 · cannot be reached"
        return response.status_code == 200, "" if response.status_code == 200 else _message(response)


def _piece(event: dict[str, Any]) -> str:
    if "error" in event:
        raise ApiRefused(event["error"].get("message", "the answer broke off"))
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


def _refusal(response: httpx.Response) -> ApiAway | ApiRefused:
    return (ApiAway if response.status_code in (502, 503, 504) else ApiRefused)(_message(response))


def _message(response: httpx.Response) -> str:
    try:
        body = response.json()
        return str(body.get("reason") or body["error"]["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"HTTP {response.status_code}"
