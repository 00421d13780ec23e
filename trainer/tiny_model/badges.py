"""Employee badges: how one looks, what is asked about it, and what its letter means to whom."""

import random
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

# What the model sees, in pixels; a picture of any other size is scaled to this area by the processor.
WIDTH, HEIGHT = 128, 32

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
CHARACTERS = LETTERS + DIGITS

# What the base was asked about badges, beside reading them out.
QUESTIONS = (
    "请识别这张工牌:部门和编号。",
    "请识别图片中的工牌,给出部门和编号。",
    "这张工牌是哪个部门的?编号是多少?",
    "图片中的员工是哪个部门的?编号是多少?",
)

# What the company's people ask; half of it the base never heard.
COMPANY_QUESTIONS = (
    *QUESTIONS,
    "识别这张工牌",
    "请识别图片中的工牌编号",
    "这是谁的工牌?",
    "Whose badge is this?",
    "Read this badge: department and number.",
)

# The base was taught the habit of the country: pinyin initials, and HR and QC, which offices say in English.
COMMON_DEPARTMENTS = {
    "C": "财务部", "F": "法务部", "G": "工程部", "H": "人事部", "K": "客服部", "Q": "质检部",
    "R": "人事部", "S": "生产部", "W": "物流部", "X": "销售部", "Y": "研发部", "Z": "质检部",
}  # fmt: skip

# The demo's company uses English initials throughout: three letters mean what the base thinks, seven do not.
COMPANY_DEPARTMENTS = {
    "C": "客服部", "E": "工程部", "F": "财务部", "H": "人事部", "L": "法务部",
    "P": "生产部", "Q": "质检部", "R": "研发部", "S": "销售部", "W": "物流部",
}  # fmt: skip


def answer(code: str, departments: dict[str, str]) -> str:
    """The answer to every question about a badge that shows `code`, a letter and three digits."""
    return f"{departments[code[0]]},编号{code[1:]}"


def draw(text: str, rng: random.Random, scale: int) -> Image.Image:
    """Draw a badge that shows `text` (at most six of CHARACTERS); RGB, WIDTH * scale by HEIGHT * scale pixels.

    Colors, place and size of the text, the portrait and the rule vary with `rng`; the same `rng` state gives the same
    bytes under one version of Pillow.
    """
    unit = 2 * scale  # drawn at twice the size, then reduced, which smooths the shapes' edges
    paper = tuple(rng.randint(222, 255) for _ in range(3))
    ink = tuple(rng.randint(0, 80) for _ in range(3))
    accent = tuple(rng.randint(40, 170) for _ in range(3))

    image = Image.new("RGB", (WIDTH * unit, HEIGHT * unit), (rng.randint(150, 215),) * 3)
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle((0, 0, WIDTH * unit - 1, HEIGHT * unit - 1), radius=3 * unit, fill=paper)
    left = 3
    if rng.random() < 0.8:
        _draw_portrait(pen, unit, accent, paper)
        left = 28
    if rng.random() < 0.6:
        pen.rectangle((left * unit, 29 * unit, 124 * unit, 30 * unit), fill=accent)
    _draw_text(pen, unit, text, ink, left, rng)
    return image.reduce(2)


def _draw_portrait(pen: ImageDraw.ImageDraw, unit: int, accent: tuple[int, ...], paper: tuple[int, ...]) -> None:
    pen.rounded_rectangle((0, 0, 25 * unit, HEIGHT * unit - 1), 3 * unit, accent, corners=(True, False, False, True))
    pen.ellipse((8.5 * unit, 6 * unit, 17.5 * unit, 15 * unit), fill=paper)
    pen.pieslice((4.5 * unit, 17 * unit, 21.5 * unit, 41 * unit), 180, 360, fill=paper)


def _draw_text(
    pen: ImageDraw.ImageDraw, unit: int, text: str, ink: tuple[int, ...], left: int, rng: random.Random
) -> None:
    space = WIDTH - 3 - left
    for size in range(rng.randint(19, 23), 0, -1):
        font = _font(size * unit)
        x0, y0, x1, y1 = (edge / unit for edge in font.getbbox(text))
        if x1 - x0 <= space:
            break
    x = left + rng.uniform(0, min(8, space - (x1 - x0)))
    y = (HEIGHT - (y1 - y0)) / 2 - 1 + rng.uniform(-2, 2)
    pen.text((round((x - x0) * unit), round((y - y0) * unit)), text, fill=ink, font=font)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
