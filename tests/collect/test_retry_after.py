"""retry_after: the pause that a busy server requires."""

from __future__ import annotations

import time
from email.utils import formatdate

from clipdistill.collect.retry_after import retry_after


def test_retry_after_as_seconds_and_as_a_date() -> None:
    assert retry_after("120") == 120
    assert retry_after(" 1.5 ") == 1.5
    in_a_minute = retry_after(formatdate(time.time() + 60, usegmt=True))
    assert in_a_minute is not None
    assert 55 < in_a_minute <= 60
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("") is None
    assert retry_after("soon") is None
