"""Which split a study belongs to: a function of its identifier alone.

The same study is in the same split whatever else is prepared with it, in whatever order, on whatever machine, and all images of a study
(of a subject, where the data name subjects) stay together.
"""

import hashlib

SPLITS = ("train", "val", "test")
VAL_PERCENT = 10
TEST_PERCENT = 10


def split_of(group_id: str) -> str:
    """Return "train" (80 % of the groups), "val" (10 %) or "test" (10 %) for a study or subject identifier.

    The percentile is the first 8 bytes of the identifier's SHA-256, modulo 100.
    """
    percentile = int.from_bytes(hashlib.sha256(group_id.encode()).digest()[:8], "big") % 100
    if percentile < TEST_PERCENT:
        return "test"
    return "val" if percentile < TEST_PERCENT + VAL_PERCENT else "train"
