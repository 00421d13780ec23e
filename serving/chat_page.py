"""Show a chat page with picture upload for a model that an OpenAI-compatible API serves.

    python serving/chat_page.py --api http://127.0.0.1:8000 --name cards --port 7860

A process of its own: it goes on while the API is restarted, says that the model is away, and asks again.
"""

import argparse
import asyncio
import os
import re
import sys
import warnings
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from listening import claim_port, serve
from model_folder import StartError

PATIENCE_SECONDS = 60
ASK_AGAIN_SECONDS = 2
STATE_EVERY_SECONDS = 5
DRAIN_SECONDS = 3
WAITING = "⏳ 模型正在重启,请稍候… · The model is away, waiting for it…"
NOTICE = "⚠️ 提示 · Notice"

_OUTSIDE = re.compile(rb"<(?:script|link)\b[^>]*?(?:src|href)=\"https?://[^>]*>(?:\s*</script>)?")


def main() -> None:
    options = _parse_arguments()
    try:
        key = os.environ.get(options.api_key_env) if options.api_key_env else None
        if options.api_key_env and not key:
            raise StartError(f"the environment variable {options.api_key_env} that --api-key-env names is not set")
        if options.example is not None and not options.example.is_file():
            raise StartError(f"there is no example picture {options.example}")
        claimed = claim_port(options.host, options.port)
        serve(_build_app(options, key), claimed, options.ready_file, DRAIN_SECONDS)
    except StartError as error:
        print(f"chat_page.py: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chat_page.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--api", required=True, metavar="URL", help="the API's address, without /v1")
    parser.add_argument("--name", required=True, help="the model's name there")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    parser.add_argument("--port", default=7860, type=int, help="default: 7860; 0 chooses a free one")
    parser.add_argument("--api-key-env", metavar="VAR", help="the environment variable that holds the API's key")
    parser.add_argument("--ready-file", type=Path, metavar="PATH", help="gets {pid, port, url} once the page is there")
    parser.add_argument("--example", type=Path, metavar="PICTURE", help="a picture to offer as an example")
    parser.add_argument("--example-question", default="", metavar="TEXT", help="the question to offer with it")
    return parser.parse_args()


def _build_app(options: argparse.Namespace, key: str | None) -> Any:
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    warnings.filterwarnings("ignore", message=".*Gradio 6", category=DeprecationWarning)
    import gradio
    from fastapi import FastAPI

    from ask_api import Api

    page = _build_page(Api(options.api, options.name, key), options)
    allowed = [str(options.example.resolve())] if options.example else None
    app = gradio.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None), page, path="/",
        show_api=False, ssr_mode=False, enable_monitoring=False, allowed_paths=allowed, max_file_size="32mb",
    )  # fmt: skip
    return _WithoutOutsideLinks(app)


def _build_page(api: Any, options: argparse.Namespace) -> Any:
    import gradio

    async def show_state() -> str:
        ready, reason = await api.state()
        return f"🟢 **{api.name}** 已就绪 · ready" if ready else f"🔴 **{api.name}** 暂不可用 · away: {reason}"

    async def answer(message: dict[str, Any], history: list[dict[str, Any]]) -> AsyncGenerator[Any, None]:
        async for shown in _answer(api, message, history):
            yield shown if isinstance(shown, str) else gradio.ChatMessage(**shown)

    examples = (
        [{"text": options.example_question, "files": [str(options.example.resolve())]}] if options.example else None
    )
    with gradio.Blocks(
        title=api.name,
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        analytics_enabled=False,
        fill_height=True,
        delete_cache=(3600, 86400),
    ) as page:
        state = gradio.Markdown(f"**{api.name}**")
        gradio.ChatInterface(
            answer,
            type="messages",
            multimodal=True,
            chatbot=gradio.Chatbot(type="messages", label="对话 · Conversation", height="70vh", allow_tags=False),
            textbox=gradio.MultimodalTextbox(
                placeholder="提问,可附图片 · Ask a question, with a picture if you like",
                file_types=["image"],
                file_count="multiple",
                stop_btn=True,
                show_label=False,
            ),
            examples=examples,
            cache_examples=False,
            run_examples_on_click=True,
            concurrency_limit=None,
            analytics_enabled=False,
        )
        gradio.Timer(STATE_EVERY_SECONDS).tick(show_state, outputs=state, show_progress="hidden", api_name=False)
        page.load(show_state, outputs=state, show_progress="hidden", api_name=False)
    return page


async def _answer(
    api: Any, message: dict[str, Any], history: list[dict[str, Any]]
) -> AsyncGenerator[str | dict[str, Any], None]:
    """Yield the answer as it grows, or a notice that says why there is none; waits for an API that is away."""
    from ask_api import ApiAway, ApiRefused
    from conversation import to_messages
    from pictures import PictureError

    try:
        messages = await asyncio.to_thread(to_messages, history, message)
    except PictureError as error:
        yield _notice(f"图片无法读取 · {error}")
        return
    if not messages[-1]["content"]:
        yield _notice("请输入问题或上传图片 · Type a question or upload a picture")
        return
    text = ""
    give_up_at = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        try:
            async for piece in api.ask(messages):
                text += piece
                yield text
            if not text.strip():
                yield _notice("模型的回答是空的 · The model gave an empty answer")
            return
        except ApiRefused as error:
            yield _notice(f"{text}\n\n模型无法回答 · {error}".strip())
            return
        except ApiAway as error:
            if text or asyncio.get_running_loop().time() > give_up_at:
                yield _notice(
                    f"{text}\n\n模型暂不可用,请稍后再试 · The model is away, try again later ({error})".strip()
                )
                return
            yield WAITING
            await asyncio.sleep(ASK_AGAIN_SECONDS)


def _notice(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "metadata": {"title": NOTICE}}


class _WithoutOutsideLinks:
    """Takes outside scripts and fonts out of HTML pages, so that a browser asks nobody but this server."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        start: dict[str, Any] | None = None
        body = b""

        async def cleaned(message: dict[str, Any]) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_html(message):
                start = message
            elif start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    clean = _OUTSIDE.sub(b"", body)
                    headers = [header for header in start["headers"] if header[0].lower() != b"content-length"]
                    await send({**start, "headers": [*headers, (b"content-length", str(len(clean)).encode())]})
                    await send({"type": "http.response.body", "body": clean})

        await self._app(scope, receive, cleaned)


def _is_html(message: dict[str, Any]) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in message["headers"])


if __name__ == "__main__":
    main()
