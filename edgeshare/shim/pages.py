"""Our own pages: what they say, in the reader's language.

Source strings are English and stand in the templates only; `locale/fr.po` has their French. Sizes, dates and shares are
written as the reader's language writes them. What the node says of a failure in its own words is English, and marked
as such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from functools import lru_cache, partial
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import attrs

import edgeshare
from edgeshare.admission import KEY_REVOKED
from edgeshare.freshness import Clock
from edgeshare.httpd.csp import source_of
from edgeshare.manifest import LessonId, LessonManifest
from edgeshare.shim import figures, shelves
from edgeshare.shim.figures import Light
from edgeshare.shim.language import LANGUAGES, Language
from edgeshare.shim.problems import Problem
from edgeshare.shim.register import Register
from edgeshare.shim.statement import UNFILLED, Compliance, Statement
from edgeshare.shim.storage import needs_storage
from edgeshare.view import LessonView, NodeStatus, Obstacle, Standing, State
from edgeshare.vocabulary import Vocabulary

if TYPE_CHECKING:  # Babel and Jinja2 are imported when the shim starts: 60 ms that no command line should pay
    from babel.support import Translations
    from jinja2 import Environment

_UNITS = ((9, "digital-gigabyte"), (6, "digital-megabyte"), (3, "digital-kilobyte"))  # by their power of ten


@attrs.frozen(kw_only=True)
class Reader:
    """What a page must know of who reads it."""

    language: Language
    port: int  # ours
    is_home: bool  # the browser is on this machine and reaches `<lesson id>.localhost`
    sees_figures: bool = False  # the page of figures is for them
    lessons_at: str = "/lessons/{lesson}/"  # where lessons are opened from elsewhere; `{lesson}` stands for the id

    def open_url(self, lesson: LessonId) -> str:
        """Where a lesson is opened."""
        if self.is_home:
            return f"http://{lesson}.localhost{self._port}/"
        return self.lessons_at.replace("{lesson}", lesson)

    @property
    def keeps_answers(self) -> bool:
        """Whether a lesson has a web origin of its own for this reader, and so a place for answers and scores."""
        return self.is_home or "{lesson}." in self.lessons_at

    @property
    def home_url(self) -> str:
        """This node's own pages, seen from a lesson's origin, without the last `/`."""
        return f"http://localhost{self._port}"

    @property
    def _port(self) -> str:
        return "" if self.port == 80 else f":{self.port}"


class Pages:
    """Makes pages. `static_url` says where a file of ours is found; `style` is the text of our style sheet."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        static_url: Callable[[str], str],
        style: str,
        statement: Statement = UNFILLED,
    ) -> None:
        again = (files("edgeshare.shim") / "static" / "again.js").read_text(encoding="utf-8")
        # What error pages have inside, as there may be nowhere to load it from: in CSP's words, behind `style-src`.
        self.error_style = f"{source_of(style)}; script-src-elem {source_of(again)}"
        self._vocabulary = vocabulary
        self._environments = {
            language: _environment(language, vocabulary, static_url, style, again, statement) for language in LANGUAGES
        }

    def catalogue(
        self,
        reader: Reader,
        register: Register,
        view: Callable[[LessonId], LessonView | None],
        status: Standing,
        wish: shelves.Wish,
        now: datetime,
    ) -> bytes:
        """The page of all lessons, or of those that answer `wish`; `view` tells where one of them stands."""

        def views(manifests: Iterable[LessonManifest]) -> tuple[LessonView, ...]:
            return tuple(seen for manifest in manifests if (seen := view(manifest.id)) is not None)

        language, vocabulary = reader.language, self._vocabulary
        today = now.astimezone().date()
        part = register.part(wish.role)
        found = shelves.needed(register.matching(wish, language), wish.when, today)
        last_page = max(1, -(-len(found) // shelves.MOST_SHOWN))
        wish = attrs.evolve(wish, page=min(wish.page, last_page))
        first = (wish.page - 1) * shelves.MOST_SHOWN
        shown = found[first : first + shelves.MOST_SHOWN]
        is_front = wish.is_open and wish.page == 1
        of_today = shelves.needed_on(part.timed, today) if is_front else ()
        of_week = shelves.needed_this_week(part.timed, today) if is_front else ()
        return self._page(
            "catalogue.html",
            reader,
            wish=wish,
            status=status,
            now=now,
            levels=shelves.level_choices(part.levels, vocabulary, language),
            subjects=shelves.subject_choices(part.subjects, vocabulary, language),
            found=len(found),
            first=first + 1,
            last=first + len(shown),
            before=wish.url(wish.page - 1) if wish.page > 1 else None,
            after=wish.url(wish.page + 1) if wish.page < last_page else None,
            shelves=shelves.shelves(views(shown), wish, vocabulary, language),
            today=views(of_today[: shelves.FIRST_SHOWN]),
            this_week=views(of_week[: shelves.FIRST_SHOWN]),
            of_today=len(of_today),
            of_week=len(of_week),
            others=len(register.listing) - len(part.lessons),
        )

    def lesson(self, reader: Reader, lesson: LessonView) -> bytes:
        """The page about one lesson."""
        is_activity = needs_storage(entry.path for entry in lesson.table)
        return self._page("lesson.html", reader, lesson=lesson, manifest=lesson.manifest, is_activity=is_activity)

    def figures(self, reader: Reader, status: NodeStatus, now: datetime) -> bytes:
        """The page for who looks after the node: counts and states, and nobody in them."""
        return self._page(
            "figures.html",
            reader,
            status=status,
            now=now,
            signs=figures.signs(status),
            saved=figures.saved(status),
            is_open=status.opening is not None and status.opening.start <= now,
        )

    def handshake(
        self, reader: Reader, lesson: LessonView | None, *, said: Mapping[str, str], script: str, onward: str
    ) -> bytes:
        """The page that a link from elsewhere opens (`handshake`), of a lesson that may not be known here."""
        return self._page("open.html", reader, lesson=lesson, said=said, script=script, onward=onward)

    def accessibility(self, reader: Reader) -> bytes:
        """The declaration of accessibility."""
        return self._page("accessibility.html", reader)

    def problem(self, reader: Reader, problem: Problem, *, home: str) -> bytes:
        """Why there is no page; it needs nothing but itself. `home` comes before the paths of our own pages."""
        return self._page("problem.html", reader, problem=problem, trouble=problem.trouble.name, home=home)

    def _page(self, template: str, reader: Reader, **values: object) -> bytes:
        page = self._environments[reader.language].get_template(template)
        known = {"State": State, "Obstacle": Obstacle, "Clock": Clock, "Light": Light, "KEY_REVOKED": KEY_REVOKED}
        return page.render({"home": "", **known, **values}, reader=reader).encode()


def url_path(path: str) -> str:
    """A lesson's file as it stands in a URL, after a `/`."""
    return quote(path, safe="/")


def _environment(
    language: Language,
    vocabulary: Vocabulary,
    static_url: Callable[[str], str],
    style: str,
    again: str,
    statement: Statement,
) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("edgeshare.shim"),
        extensions=["jinja2.ext.i18n"],
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.policies["ext.i18n.trimmed"] = True
    translations = _translations(language)
    environment.install_gettext_translations(translations, newstyle=True)  # type: ignore[attr-defined]  # by i18n
    environment.globals |= {
        "language": language,
        "version": edgeshare.__version__,
        "static_url": static_url,
        "inline_style": Markup(style),  # noqa: S704 - our own file
        "inline_again": Markup(again),  # noqa: S704 - this one, too
        "in_english": {} if language == "en" else {"lang": "en"},  # the node's own words, written for its log
        "statement": statement,
        "statement_words": {} if language == "fr" else {"lang": "fr"},  # a French law's, and a French body's
        "Compliance": Compliance,
    }
    environment.filters |= {
        "filesize": partial(_filesize, language=language),
        "level": partial(vocabulary.level_label, language=language),
        "subject": partial(vocabulary.subject_label, language=language),
        "share": partial(_share, language=language),
        "percent": partial(_percent, language=language),
        "shares": partial(_shares, language=language),
        "number": partial(_number, language=language),
        "day": partial(_day, language=language),
        "moment": partial(_moment, language=language),
        "age": partial(_age, language=language),
        "language_name": partial(_language_name, language=language),
        "foreign": partial(_foreign, language=language),
        "date": partial(_date, language=language),
    }
    return environment


def _translations(language: Language) -> Translations:
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po
    from babel.support import Translations

    compiled = BytesIO()
    if language != "en":
        source = files("edgeshare.shim") / "locale" / f"{language}.po"
        write_mo(compiled, read_po(BytesIO(source.read_bytes()), locale=language, abort_invalid=True))
        compiled.seek(0)
        return Translations(compiled)
    return Translations()


def _filesize(count: int, language: Language) -> str:
    power, unit = next((known for known in _UNITS if count >= 10 ** known[0]), (0, "digital-byte"))
    return _measure(round(count, 1 - power), power, unit, language)


@lru_cache(maxsize=4096)  # Babel takes 70 µs, a page has a hundred sizes, and those of all lessons are a few hundred
def _measure(count: int, power: int, unit: str, language: Language) -> str:
    """`count`, of which a tenth of the unit is left."""
    from babel.units import format_unit

    length: Literal["short", "long"] = "short" if power else "long"  # "812 o" is no word for a pupil
    text = format_unit(count / 10**power, unit, length=length, format="#,##0.#", locale=language)
    return str(text).replace(" ", "\u00a0")


def _share(lesson: LessonView, language: Language) -> str:
    return _percent(lesson.share, language)


def _percent(share: float, language: Language) -> str:
    from babel.numbers import format_percent

    return format_percent(math.floor(share * 100 + 1e-9) / 100, locale=language)  # 100 % only when it is all


def _shares(lesson: LessonView, language: Language) -> tuple[str, str]:
    """What of the bytes that came over the network peers gave, and what origins: 100 % in all, and no part is lost."""
    peers, origin = lesson.peer_bytes, sum(lesson.origin_bytes.values())
    percent = round(100 * peers / (peers + origin))
    if peers and origin:
        percent = min(99, max(1, percent))
    return _percent(percent / 100, language), _percent(1 - percent / 100, language)


def _number(count: int, language: Language) -> str:
    from babel.numbers import format_decimal

    return format_decimal(count, locale=language)


def _moment(moment: datetime, language: Language) -> str:
    from babel.dates import format_time

    return f"{_day(moment, language)} {format_time(moment.astimezone(), 'short', locale=language)}"


def _day(moment: datetime, language: Language) -> str:
    return _date(moment.astimezone().date(), language)


def _date(day: date, language: Language) -> str:
    from babel.dates import format_date

    return format_date(day, "full", locale=language)


def _age(moment: datetime, now: datetime, language: Language) -> str:
    from babel.dates import format_timedelta

    return format_timedelta(moment - now, add_direction=True, locale=language)


def _language_name(tag: str, language: Language) -> str:
    from babel import Locale, UnknownLocaleError

    try:
        return Locale.parse(tag, sep="-").get_display_name(language) or tag
    except (ValueError, UnknownLocaleError):
        return tag


def _foreign(manifest: LessonManifest, language: Language) -> Mapping[str, Any]:
    """The attributes of an element with a lesson's own words, which may be in another language than the page."""
    return {} if manifest.language.partition("-")[0].lower() == language else {"lang": manifest.language}
