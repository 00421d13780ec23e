"""Which rows are held out: decided by what a row shows, so that no later retraining ever trains on it."""

import hashlib
from collections.abc import Sequence


def is_held_out(media_digests: Sequence[str], first_question: str, fraction: float) -> bool:
    """Whether a row belongs to the held-out split: a picture's sha256 (without pictures the question's) is low.

    The digest is read as a number in [0, 1) and compared with `fraction`. Nothing else of the dataset matters: not the
    other rows, their order, the answer, nor how often a picture occurs; a larger fraction only adds rows.
    """
    digests = media_digests or [hashlib.sha256(first_question.strip().encode()).hexdigest()]
    return any(int(digest[:16], 16) / 2**64 < fraction for digest in digests)
