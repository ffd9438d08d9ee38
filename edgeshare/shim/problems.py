"""Why a request gets no page and no file, as a value that each way of answering puts into its own words."""

from __future__ import annotations

import enum

from edgeshare.view import LessonView


class Trouble(enum.Enum):
    """What stands between a reader and an answer; the value is for programs."""

    NO_PAGE = "no such page"
    NO_LESSON = "no such lesson"
    NO_FILE = "no such file in the lesson"
    WITHDRAWN = "the lesson was withdrawn"
    ON_ITS_WAY = "the lesson is on its way"
    NO_ROOM = "there is no room for the lesson on this node"
    UNAVAILABLE = "the lesson cannot be fetched now"
    WITHHELD = "only this machine gets figures, or all where `metrics_on_lan` says so"
    BROKEN = "the node made a mistake"

    @property
    def status(self) -> int:
        """Its HTTP status."""
        return _STATUS[self]


_STATUS = {
    Trouble.NO_PAGE: 404,
    Trouble.NO_LESSON: 404,
    Trouble.NO_FILE: 404,
    Trouble.WITHDRAWN: 410,
    Trouble.ON_ITS_WAY: 503,
    Trouble.NO_ROOM: 507,  # RFC 4918 §11.5
    Trouble.UNAVAILABLE: 503,
    Trouble.WITHHELD: 403,
    Trouble.BROKEN: 500,
}


class Problem(Exception):
    """Ends the answering of one request; never leaves the shim."""

    def __init__(self, trouble: Trouble, lesson: LessonView | None = None, *, retry_after_s: int | None = None) -> None:
        super().__init__(trouble.value)
        self.trouble, self.lesson, self.retry_after_s = trouble, lesson, retry_after_s
