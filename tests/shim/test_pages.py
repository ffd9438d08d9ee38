from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from edgeshare.admission import KEY_REVOKED
from edgeshare.freshness import Clock, Freshness
from edgeshare.library.room import Disk
from edgeshare.manifest import LessonId
from edgeshare.shim.shelves import MOST_SHOWN
from edgeshare.view import Need, Obstacle, State

if TYPE_CHECKING:
    from tests.shim.conftest import Browser, NodeInMemory

FRACTIONS = LessonId("maths-6e-fractions")
NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)  # the shim's, too
OWN_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
ALL_PAGES = ["/", "/?level=6e&q=eau", "/?role=teacher", "/l/maths-6e-fractions", "/accessibilite", "/nothing"]


class Tags(HTMLParser):
    """The tags of a page with their attributes, and whether each is closed where it was opened."""

    VOID = frozenset({"meta", "link", "input", "br", "hr", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.found if found == tag]


@pytest.mark.parametrize("target", ALL_PAGES)
@pytest.mark.parametrize("language", ["fr", "en"])
async def test_every_page_is_well_formed_and_has_its_landmarks(browser: Browser, target: str, language: str) -> None:
    page = await browser.page(target, accept_language=language)
    tags = Tags(page)
    assert tags.of("html") == [{"lang": language}]
    for landmark in ("main", "header", "footer", "nav", "h1", "title"):
        assert len(tags.of(landmark)) == 1, landmark
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert tags.of("a")[0] == {"class": "skip", "href": "#main"}
    assert not [attributes for _, attributes in tags.found if "style" in attributes]  # the policy refuses them
    declaration = {"fr": "Accessibilité : non conforme", "en": "Accessibility: not compliant"}[language]
    assert declaration in page
    assert "/accessibilite" in [attributes.get("href") for attributes in tags.of("a")]


async def test_headings_leave_out_no_rank(browser: Browser, node: NodeInMemory) -> None:
    node.alter(FRACTIONS, manifest=attrs.evolve(node.views[FRACTIONS].manifest, needed_at=NOW))
    for target in ALL_PAGES:
        ranks = [int(tag[1]) for tag, _ in Tags(await browser.page(target)).found if re.fullmatch("h[1-6]", tag)]
        assert ranks[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(ranks))


async def test_every_field_has_a_label(browser: Browser) -> None:
    tags = Tags(await browser.page("/"))
    labelled = {attributes["for"] for attributes in tags.of("label")}
    assert {attributes["id"] for tag in ("input", "select") for attributes in tags.of(tag)} == labelled


async def test_own_pages_load_and_say_nothing_elsewhere(browser: Browser) -> None:
    for target in ("/", "/l/maths-6e-fractions", "/accessibilite"):
        headers = dict((await browser.get(target)).headers)
        assert headers["content-security-policy"] == OWN_POLICY
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["vary"] == "Accept-Language"


async def test_no_answer_sets_a_cookie_or_opens_itself_to_other_origins(browser: Browser) -> None:
    for target in [*ALL_PAGES, "/api/v1/lessons", "/healthz", "/static/edgeshare.css", "/lessons/maths-6e-fractions/"]:
        names = {name.lower() for name, _ in (await browser.get(target, origin="https://example.org")).headers}
        assert not [name for name in names if name == "set-cookie" or name.startswith("access-control-")]


async def test_states_are_said_in_words(browser: Browser) -> None:
    french, english = await browser.page("/"), await browser.page("/", accept_language="en")
    for words in ("Prête", "En route : 40 %", "Pas encore ici", "Arrêtée pour le moment"):
        assert f">{words}</span>" in french
    for words in ("Ready", "On its way: 40%", "Not here yet", "Stopped for now"):
        assert f">{words}</span>" in english


async def test_a_lesson_on_its_way_has_a_named_progress(browser: Browser) -> None:
    bars = Tags(await browser.page("/")).of("progress")
    assert [bar for bar in bars if "hidden" not in bar] == [
        {"max": "10000", "value": "4000", "aria-label": "Part déjà arrivée de « Le cycle de l'eau »"}
    ]


async def test_100_percent_means_all(browser: Browser, node: NodeInMemory) -> None:
    node.alter("sciences-6e-eau", bytes_have=9_999)
    assert "En route : 99 %" in await browser.page("/")


async def test_sizes_are_written_as_the_reader_writes_them(browser: Browser) -> None:
    assert "12,4 Mo" in await browser.page("/l/maths-6e-fractions")
    assert "12.4 MB" in await browser.page("/l/maths-6e-fractions", accept_language="en")
    assert "10 Mo reçus d’autres écoles ou foyers, 2,4 Mo de l’éditeur" in await browser.page("/l/maths-6e-fractions")


async def test_a_title_in_another_language_says_so(browser: Browser) -> None:
    french, english = await browser.page("/"), await browser.page("/", accept_language="en")
    assert ' lang="en">My school</a>' in french
    assert ">My school</a>" in english
    assert ' lang="en">My school' not in english
    assert ' lang="fr">Les fractions</a>' in english


async def test_the_reason_of_a_withdrawal_says_in_which_language_it_is(browser: Browser) -> None:
    french, english = [
        await browser.page("/l/histoire-6e-erreur", accept_language=language) for language in ("fr", "en")
    ]
    assert "La raison : <span>Une date est fausse.</span>" in french
    assert 'The reason: <span lang="fr">Une date est fausse.</span>' in english


@pytest.mark.parametrize(("language", "words"), [("en", "was revoked"), ("fr", "a été révoquée")])
async def test_that_a_key_was_revoked_is_said_in_the_readers_language(
    browser: Browser, node: NodeInMemory, language: str, words: str
) -> None:
    node.alter(FRACTIONS, state=State.WITHDRAWN, reason=KEY_REVOKED)
    page = await browser.page("/l/maths-6e-fractions", accept_language=language)
    assert words in page
    assert (KEY_REVOKED in page, "took it back" in page) == (False, False)


async def test_a_lesson_that_is_no_longer_offered_says_so_and_opens(browser: Browser, node: NodeInMemory) -> None:
    assert "no longer offers it" not in await browser.page("/l/maths-6e-fractions", accept_language="en")
    node.alter(FRACTIONS, is_offered=False)
    page = await browser.page("/l/maths-6e-fractions", accept_language="en")
    assert "no longer offers it" in page
    assert "Open the lesson" in page


async def test_foreign_words_are_escaped(browser: Browser, node: NodeInMemory) -> None:
    hostile = "<script>alert('x')</script>\"&"
    manifest = attrs.evolve(node.views[FRACTIONS].manifest, title=hostile, description=hostile, licence=hostile)
    node.alter(FRACTIONS, manifest=manifest)
    pages = [await browser.page(target) for target in ("/", "/l/maths-6e-fractions")]
    node.alter(FRACTIONS, state=State.WITHDRAWN, reason=hostile)
    pages.append(await browser.page("/l/maths-6e-fractions"))
    pages.append(await browser.page("/?q=%3Cscript%3Ealert(1)%3C/script%3E%22&level=%22%3E"))
    for page in pages:
        Tags(page)
        assert "<script>" not in page
        assert "&lt;script&gt;" in page


@pytest.mark.parametrize("host", ["localhost:8470", "127.0.0.1:8470", "[::1]:8470"])
async def test_at_home_lessons_open_at_their_own_origins(browser: Browser, host: str) -> None:
    for target in ("/", "/l/maths-6e-fractions"):
        assert 'href="http://maths-6e-fractions.localhost:8470/"' in await browser.page(target, host=host)


async def test_from_elsewhere_lessons_open_below_our_address(browser: Browser) -> None:
    for target in ("/", "/l/maths-6e-fractions"):
        page = await browser.page(target, host="192.168.1.2:8470", local=("192.168.1.2", 8470))
        assert 'href="/lessons/maths-6e-fractions/"' in page
        assert ".localhost" not in page


async def test_a_fresh_catalogue_has_no_banner(browser: Browser) -> None:
    assert "La liste date" not in await browser.page("/")


async def test_the_banner_says_how_old_the_catalogue_is(browser: Browser, node: NodeInMemory) -> None:
    node.freshness = Freshness(is_fresh=False, expires=NOW, refreshed=NOW)
    page = await browser.page("/")
    assert "La source a répondu pour la dernière fois le lundi 23 novembre 2026." in page
    assert "La liste date du vendredi 20 novembre 2026 (il y a 3 jours)." in page
    node.freshness, node.trouble = Freshness(is_fresh=True, expires=NOW), "no origin answers"
    page = await browser.page("/", accept_language="en")
    assert "cannot be reached at the moment" in page
    assert "(3 days ago)" in page
    node.issued = None
    assert "(3 days ago)" not in await browser.page("/", accept_language="en")


@pytest.mark.parametrize(
    ("disk", "french", "english"),
    [
        (Disk(free=1, keep_free=2, is_short=True), "est presque plein", "is nearly full, so new lessons have to wait"),
        (Disk(free=9, is_readonly=True), "n’accepte rien de nouveau", "takes nothing new at the moment"),
        (Disk(free=None), "n’accepte rien de nouveau", "takes nothing new at the moment"),
    ],
)
async def test_the_page_says_calmly_that_the_disk_has_no_room(
    node: NodeInMemory, browser: Browser, disk: Disk, french: str, english: str
) -> None:
    assert "Le disque" not in await browser.page("/")
    node.disk = disk
    page = await browser.page("/")
    assert french in page
    assert "Ce qui est déjà ici reste lisible." in page
    assert english in await browser.page("/", accept_language="en")


@pytest.mark.parametrize(
    ("obstacle", "french", "english"),
    [
        (Obstacle.NOBODY, "Personne de joignable", "Nobody who can be reached"),
        (Obstacle.LATER, "heures creuses", "in quiet hours"),
        (Obstacle.ROOM, "Elle attend de la place", "It waits for room"),
        (Obstacle.DISK, "n’accepte rien de nouveau", "takes nothing new at the moment"),
        (Obstacle.METERED, "se paie au volume", "is paid by what comes over it"),
    ],
)
async def test_a_lesson_that_waits_says_for_what(
    browser: Browser, node: NodeInMemory, obstacle: Obstacle, french: str, english: str
) -> None:
    node.alter("sciences-6e-eau", state=State.WAITING, obstacle=obstacle, reason="for the log")
    page = await browser.page("/l/sciences-6e-eau")
    assert french in page
    assert "for the log" not in page
    assert english in await browser.page("/l/sciences-6e-eau", accept_language="en")


async def test_the_catalogue_says_what_is_needed_soon_and_how_much_of_it_is_here(
    browser: Browser, node: NodeInMemory
) -> None:
    node.needs = (Need(at=datetime(2026, 11, 24, 8).astimezone(), lessons=3, ready=2),)
    assert "Pour mardi 24 novembre 2026 08:00 : 2 leçons prêtes sur 3." in await browser.page("/")
    page = await browser.page("/", accept_language="en")
    assert re.search(r"Needed Tuesday, November 24, 2026 8:00\sAM: 2 of 3 lessons are here\.", page)


@pytest.mark.parametrize("clock", [Clock.BEHIND, Clock.AHEAD])
async def test_the_banner_names_a_clock_that_can_hardly_be_right(
    browser: Browser, node: NodeInMemory, clock: Clock
) -> None:
    node.freshness = Freshness(is_fresh=True, expires=NOW, clock=clock)
    page = await browser.page("/")
    assert "sa date est peut-être fausse" in page
    assert "La liste date du vendredi 20 novembre 2026." in page  # and no age, which that clock would tell wrongly


async def test_the_form_finds_lessons_without_a_script(browser: Browser) -> None:
    page = await browser.page("/?level=6e&subject=sciences-et-technologie&q=l%27EAU")
    assert "Le cycle de l&#39;eau" in page
    assert "Les fractions" not in page
    assert '<option value="6e" selected>' in page
    assert 'value="l&#39;EAU"' in page
    assert "Aucune leçon ne correspond" in await browser.page("/?q=nothing")


async def test_documents_for_teachers_stand_on_a_page_of_their_own(browser: Browser) -> None:
    pupils = await browser.page("/")
    assert "Corrigé" not in pupils
    assert 'href="/?role=teacher"' in pupils
    assert "Corrigé" in await browser.page("/?role=teacher")


async def test_what_is_needed_today_stands_first(browser: Browser, node: NodeInMemory) -> None:
    node.alter(FRACTIONS, manifest=attrs.evolve(node.views[FRACTIONS].manifest, needed_at=NOW))
    page = await browser.page("/")
    assert page.index("Aujourd’hui") < page.index("Les fractions") < page.index('id="level-1"')
    assert "Aujourd’hui" not in await browser.page("/?level=6e")


async def test_a_page_shows_so_many_lessons_and_says_how_many_there_are(browser: Browser, node: NodeInMemory) -> None:
    known = node.views[FRACTIONS]
    node.views.clear()
    for n in range(MOST_SHOWN + 1):
        if n == MOST_SHOWN:
            assert f"{MOST_SHOWN} leçons</p>" in (await browser.page("/")).replace("\n", "")
        node.views[LessonId(f"x{n}")] = attrs.evolve(known, manifest=attrs.evolve(known.manifest, id=LessonId(f"x{n}")))
    page = await browser.page("/")
    assert f"Leçons 1 à {MOST_SHOWN} sur {MOST_SHOWN + 1}." in page
    assert page.count('class="card"') == MOST_SHOWN


async def test_what_does_not_stand_on_a_page_is_on_the_next(browser: Browser, node: NodeInMemory) -> None:
    known = node.views[FRACTIONS]
    node.views.clear()
    for n in range(2 * MOST_SHOWN + 1):
        title = f"Une leçon {n}"
        node.add(attrs.evolve(known.manifest, id=LessonId(f"x{n}"), title=title, needed_at=NOW), State.LISTED)
    target, seen = "/?level=6e&q=lecon", list[str]()
    while target:
        page = await browser.page(target)
        seen += re.findall(r'<li class="card" data-lesson="(\w+)"', page)
        links = {link.get("rel"): link.get("href") for link in Tags(page).of("a")}
        assert ("prev" in links) == (target != "/?level=6e&q=lecon")
        target = links.get("next") or ""
    assert seen == [f"x{n}" for n in range(2 * MOST_SHOWN + 1)]
    assert f"Leçons {2 * MOST_SHOWN + 1} à {2 * MOST_SHOWN + 1} sur" in page
    assert "Aujourd" in await browser.page("/")
    assert "Aujourd" not in await browser.page("/?page=2")  # it stands on the first page
    assert 'rel="next"' not in await browser.page("/?page=9999")


async def test_a_page_follows_the_list(browser: Browser, node: NodeInMemory) -> None:
    assert "Nouvelle" not in await browser.page("/?q=nouvelle")
    node.add(attrs.evolve(node.views[FRACTIONS].manifest, id=LessonId("nouvelle"), title="Nouvelle"), State.LISTED)
    assert ">Nouvelle</a>" in await browser.page("/?q=nouvelle")


async def test_a_node_without_lessons_says_so(browser: Browser, node: NodeInMemory) -> None:
    node.views.clear()
    assert "Il n’y a pas encore de leçon ici" in await browser.page("/")


async def test_a_lessons_page_leads_to_it(browser: Browser) -> None:
    page = await browser.page("/l/maths-6e-fractions")
    assert "Ouvrir la leçon" in page
    for fact in ("Partager un gâteau.", "Mathématiques", "CC-BY-SA-4.0", "cned", "français"):
        assert fact in page


@pytest.mark.parametrize("accept", ["*/*", "image/png", None])
async def test_who_wants_no_page_gets_a_line(browser: Browser, accept: str | None) -> None:
    more: dict[str, Any] = {"accept": accept} if accept else {}
    response = await browser.get("/nothing", **more)
    assert (response.status, response.body) == (404, b"no such page\n")


async def test_an_error_page_brings_its_own_style(browser: Browser) -> None:
    response = await browser.get("/x", host="unknown.localhost:8470", accept="text/html")
    assert isinstance(response.body, bytes)
    tags = Tags(response.body.decode())
    assert not tags.of("link")
    assert not tags.of("script")
    assert "'sha256-" in dict(response.headers)["content-security-policy"]
    assert {"href": "http://localhost:8470/"} in tags.of("a")
