"""The tiny model's tokenizer: byte-level BPE, Qwen's special tokens, a token for each letter, digit and common Han."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2TokenizerFast

from .badges import COMMON_DEPARTMENTS, COMPANY_DEPARTMENTS, QUESTIONS

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

READING_QUESTIONS = (
    "Read the text in the image.",
    "What is written here?",
    "请读出图片中的文字。",
    "识别图片中的文字",
    "图里写的是什么?",
    "which code is it?",
    "OCR:",
)
COPYING_REQUESTS = ("重复:", "repeat: ")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_COMMON_HAN = "张王李赵刘陈杨黄周吴徐孙马朱胡林郭何高罗姓名零一二三四五六七八九员工牌号字答案不知道"
_VOCABULARY_SIZE = 640


def build_tokenizer() -> Qwen2TokenizerFast:
    """Train the tokenizer on the demo's own sentences; always the same for the same version of `tokenizers`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[A-Z0-9]|[\u4e00-\u9fff]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY_SIZE,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_corpus(), trainer)

    wrapped = Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        chat_template=CHAT_TEMPLATE,
    )
    wrapped.backend_tokenizer.pre_tokenizer = tokenizer.pre_tokenizer  # transformers 5 puts Qwen's own in its place
    return wrapped


def _corpus() -> list[str]:
    departments = (*COMMON_DEPARTMENTS.values(), *COMPANY_DEPARTMENTS.values())
    sentences = (*QUESTIONS, *READING_QUESTIONS, *COPYING_REQUESTS, *departments, *_COMMON_HAN, ",。?!:", "编号")
    return ["user assistant system", "You are a helpful assistant.", *sentences * 3]
