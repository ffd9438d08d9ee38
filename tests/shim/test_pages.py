from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from edgeshare.admission import KEY_REVOKED
from edgeshare.config import Endpoint, ShimConfig
from edgeshare.freshness import Clock, Freshness
from edgeshare.hours import Opening
from edgeshare.httpd.csp import source_of
from edgeshare.layout import FileEntry, Piece
from edgeshare.library.room import Disk
from edgeshare.limits import Limits
from edgeshare.manifest import LessonId
from edgeshare.refusals import Refusal, RefusalNote
from edgeshare.shim.language import Language
from edgeshare.shim.pages import Pages, Reader
from edgeshare.shim.routes import shim
from edgeshare.shim.shelves import FIRST_SHOWN, MOST_SHOWN
from edgeshare.shim.statement import Statement
from edgeshare.view import MirrorView, Need, Obstacle, State
from edgeshare.vocabulary import built_in
from tests.shim.conftest import Browser

if TYPE_CHECKING:
    from tests.shim.conftest import NodeInMemory

FRACTIONS = LessonId("maths-6e-fractions")
NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)  # the shim's, too
OWN_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
ALL_PAGES = [
    "/",
    "/?level=6e&q=eau",
    "/?role=teacher",
    "/l/maths-6e-fractions",
    "/accessibilite",
    "/ecole",
    "/nothing",
]


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


@pytest.mark.parametrize(
    ("peers", "origin", "french", "english"),
    [
        (920, 80, "foyers : 92 %, du serveur de l’éditeur : 8 %", "homes: 92%, from the publisher's server: 8%"),
        (2, 1, "foyers : 67 %, du serveur de l’éditeur : 33 %", "homes: 67%, from the publisher's server: 33%"),
        (10**9, 1, "foyers : 99 %, du serveur de l’éditeur : 1 %", "homes: 99%, from the publisher's server: 1%"),
        (1, 10**9, "foyers : 1 %, du serveur de l’éditeur : 99 %", "homes: 1%, from the publisher's server: 99%"),
        (0, 5, "foyers : 0 %, du serveur de l’éditeur : 100 %", "homes: 0%, from the publisher's server: 100%"),
        (0, 0, "rien n’est encore arrivé", "nothing has come yet"),
    ],
)
async def test_a_lessons_page_says_where_its_bytes_came_from(
    browser: Browser, node: NodeInMemory, peers: int, origin: int, french: str, english: str
) -> None:
    node.alter(FRACTIONS, peer_bytes=peers, origin_bytes={"alone": origin})
    assert french in await browser.page("/l/maths-6e-fractions")
    assert english in await browser.page("/l/maths-6e-fractions", accept_language="en")


async def test_a_lesson_that_came_by_no_network_says_so(browser: Browser, node: NodeInMemory) -> None:
    node.alter(FRACTIONS, peer_bytes=0, origin_bytes={}, is_brought=True)
    assert "apportée sans le réseau, par une clé USB par exemple" in await browser.page("/l/maths-6e-fractions")


async def test_an_activity_that_keeps_answers_says_where_it_cannot(node: NodeInMemory) -> None:
    pages = Pages(built_in(), lambda name: f"/static/{name}", "")
    view = node.views[FRACTIONS]
    words = "This activity cannot keep answers or scores here"
    elsewhere = Reader(language="en", port=8470, is_home=False)
    own_origin = attrs.evolve(elsewhere, lessons_at="http://{lesson}.lecons.college.example.fr:8470/")
    h5p = attrs.evolve(view, table=(FileEntry(path="h5p.json", size=1, root=bytes(32), first=Piece(0), index=0),))
    assert words in pages.lesson(elsewhere, h5p).decode()
    for reader, lesson in ((elsewhere, view), (own_origin, h5p), (attrs.evolve(elsewhere, is_home=True), h5p)):
        assert words not in pages.lesson(reader, lesson).decode()
    assert "http://maths-6e-fractions.lecons.college.example.fr:8470/" in pages.lesson(own_origin, view).decode()


async def test_what_the_node_says_in_its_own_words_is_marked_as_english(browser: Browser) -> None:
    french, english = (
        await browser.page("/l/emc-6e-droits"),
        await browser.page("/l/emc-6e-droits", accept_language="en"),
    )
    assert 'lang="en">no room on the disk<' in french
    assert 'class="reason">no room on the disk<' in english


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
    assert "Pour mardi 24 novembre 2026 08:00 : leçons prêtes, 2 sur 3." in await browser.page("/")
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


@pytest.mark.parametrize(
    ("when", "day", "words"),
    [
        ("today", NOW, "3 autres leçons pour aujourd’hui"),
        ("week", NOW + timedelta(days=1), "3 autres leçons pour cette"),
    ],
)
async def test_of_hundreds_for_today_a_dozen_stand_first_and_a_link_leads_to_the_others(
    browser: Browser, node: NodeInMemory, when: str, day: datetime, words: str
) -> None:
    known = node.views[FRACTIONS].manifest
    for n in range(FIRST_SHOWN + 3):
        needed_at = day + timedelta(minutes=n)
        node.add(attrs.evolve(known, id=LessonId(f"x{n}"), title=f"Leçon {n}", needed_at=needed_at), State.LISTED)
        if n == FIRST_SHOWN - 1:
            assert f"when={when}" not in await browser.page("/")
    page = await browser.page("/")
    first = page.split('id="level-1"')[0]
    assert re.findall(r'data-lesson="(x\d+)"', first) == [f"x{n}" for n in range(FIRST_SHOWN)]
    assert words in first
    assert f'href="/?when={when}"' in first
    others = await browser.page(f"/?when={when}")
    assert sorted(re.findall(r'data-lesson="(\w+)"', others)) == sorted(f"x{n}" for n in range(FIRST_SHOWN + 3))
    assert f'name="when" value="{when}"' in others  # a search goes on among them
    assert "Afficher toutes les leçons" in others


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


async def test_a_page_that_waits_asks_again_by_a_script_that_the_policy_names(
    browser: Browser, node: NodeInMemory
) -> None:
    node.alter("emc-6e-droits", state=State.FAILED)
    response = await browser.get("/lessons/emc-6e-droits/index.html", accept="text/html")
    assert isinstance(response.body, bytes)
    page = response.body.decode()
    assert response.status == 503
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    policy = dict(response.headers)["content-security-policy"]
    assert f"script-src-elem {source_of(script)};" in policy
    assert 'id="again" data-after="60" hidden>' in page
    assert "http-equiv" not in page  # nothing reloads by the clock (RGAA 13.1)
    assert {"class": "button", "href": ""} in Tags(page).of("a")  # without a script, too


# The dashboard


def value(page: str, place: str) -> int:
    """What stands in the element with this id, as a number for machines."""
    found = re.search(rf'id="{place}"[^>]*><data value="(\d+)">', page)
    assert found, place
    return int(found[1])


async def test_the_dashboard_has_the_nodes_figures(browser: Browser, node: NodeInMemory) -> None:
    node.more = {
        "started": NOW,
        "served_bytes": {"library": 900, "swarm": 90, "pages": 9},
        "served_this_month": 1_000_000_000,
        "outside_bytes": 90_000_000,
        "readers": 7,
        "pinned_bytes": 3 * 10**9,
        "opening": Opening(NOW + timedelta(hours=12), NOW + timedelta(hours=22)),
    }
    page = await browser.page("/ecole")
    found = {place: value(page, place) for place in ("served", "served-library", "served-swarm", "connections")}
    assert found == {"served": 999, "served-library": 900, "served-swarm": 90, "connections": 7}
    assert (value(page, "served-month"), value(page, "outside-month")) == (10**9, 90_000_000)
    for words in ("Économisé : au moins 91 %", "3 Go", "1,1 Go</data> sur 21,5 Go (5 %)", "Prochain téléchargement"):
        assert words in page
    page = await browser.page("/ecole", accept_language="en")
    for words in ("Saved: at least 91%", "Lessons are fetched ahead next from", "edition 4 of"):
        assert words in page


async def test_the_dashboard_speaks_of_lessons_in_the_plural(browser: Browser) -> None:
    words = re.findall("<dt>(.*?)</dt>", (await browser.page("/ecole")).partition('id="lessons"')[2])
    assert {"Prêtes", "Arrêtées pour le moment", "Pas encore là", "Retirées"} <= set(words)


@pytest.mark.parametrize(
    ("served", "words"),
    [(6, "rien n’est encore économisé"), (7, "rien n’est encore économisé"), (0, "Personne n’a lu de leçon")],
)
async def test_the_dashboard_claims_no_saving_where_there_is_none(
    browser: Browser, node: NodeInMemory, served: int, words: str
) -> None:
    node.more = {"served_this_month": served, "outside_bytes": 7}
    page = await browser.page("/ecole")
    assert words in page
    assert "Économisé" not in page


async def test_the_lights_say_in_words_what_is_wrong(browser: Browser, node: NodeInMemory) -> None:
    def lights(page: str) -> dict[str, str]:
        return dict(re.findall(r'data-sign="(\w+)" data-light="(\w+)"', page))

    assert set(lights(await browser.page("/ecole")).values()) == {"good"}
    node.trouble, node.freshness = "no origin answers", Freshness(is_fresh=False, expires=NOW, clock=Clock.AHEAD)
    node.disk = Disk(free=1, keep_free=2, is_short=True)
    node.limits = Limits(reason="the config says that the line is metered")
    node.mirrors = (
        MirrorView(name="https://a.example/", is_aside=True, until=NOW, reason="it answers 500"),
        MirrorView(name="https://b.example/", is_aside=False),
    )
    page = await browser.page("/ecole")
    assert lights(page) == {
        "origin": "heed",
        "mirror": "good",
        "trust": "bad",
        "clock": "bad",
        "disk": "bad",
        "line": "heed",
    }
    assert page.count("À traiter :") == 3
    assert "Son miroir https://a.example/ est laissé de côté" in page
    assert '<span class="reason" lang="en">it answers 500</span>' in page


async def test_the_dashboard_counts_what_was_refused(browser: Browser, node: NodeInMemory) -> None:
    assert "Rien." in await browser.page("/ecole")
    what = "timestamp.json of http://a/ is refused"
    node.refusals = (RefusalNote(at=NOW, refusal=Refusal.OLDER, what=what),) * 7
    page = await browser.page("/ecole")
    assert "7 fois" in page
    assert page.count(what) == 5


@pytest.mark.parametrize("host", ["salle12:8470", "192.168.1.2:8470", "localhost:8470"])
async def test_the_lan_gets_no_dashboard_and_no_link_to_it(node: NodeInMemory, host: str) -> None:
    listen = Endpoint("0.0.0.0", 8470)
    lan: dict[str, Any] = {"host": host, "local": ("192.168.1.2", 8470), "accept": "text/html"}
    closed = Browser(shim(node, ShimConfig(listen=listen), built_in(), hostname="salle12", now=lambda: NOW))
    response = await closed.get("/ecole", **lan)
    assert response.status == 403
    assert isinstance(response.body, bytes)
    assert "réservée à la machine elle-même" in response.body.decode()
    assert "/ecole" not in await closed.page("/", **lan)
    config = ShimConfig(listen=listen, metrics_on_lan=True)
    opened = Browser(shim(node, config, built_in(), hostname="salle12", now=lambda: NOW))
    assert "Tableau de bord</h1>" in await opened.page("/ecole", **lan)
    assert 'href="/ecole"' in await opened.page("/", **lan)


# The declaration of accessibility


def declared(statement: Statement, *, language: Language = "fr") -> str:
    pages = Pages(built_in(), lambda name: f"/static/{name}", "", statement)
    page = pages.accessibility(Reader(language=language, port=8470, is_home=True)).decode()
    return page.replace("\u00a0", " ").replace("\u202f", " ")


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (Statement(), "non conforme"),
        (Statement(share=100), "non conforme"),
        (Statement(audit="Untel"), "non conforme"),
        (Statement(audit="Untel", share=49), "non conforme"),
        (Statement(audit="Untel", share=50), "partiellement conforme"),
        (Statement(audit="Untel", share=100), "totalement conforme"),
    ],
)
async def test_without_an_audit_no_page_claims_more_than_non_compliance(statement: Statement, words: str) -> None:
    found = set(re.findall("Accessibilité : ([a-z ]+)", declared(statement)))
    assert found == {words}


@pytest.mark.parametrize("share", [29, 57, 58, 71])
def test_the_declaration_says_the_share_of_the_audit_to_the_percent(share: int) -> None:
    assert f" {share} %" in declared(Statement(audit="Untel", share=share))


async def test_the_declaration_has_what_the_body_filled_in() -> None:
    page = declared(
        Statement(
            body="Collège <Moulin>",
            contact="acces@college.example.fr",
            established=date(2027, 1, 15),
            plan="https://college.example.fr/plan",
            audit="Cabinet Untel",
            share=71,
            not_accessible=("Deux vidéos",),
            exempt=("Les cartes",),
        )
    )
    Tags(page)
    for words in (
        "Collège &lt;Moulin&gt;",
        '<a href="mailto:acces@college.example.fr">',
        "établie le vendredi 15 janvier 2027",
        '<a href="https://college.example.fr/plan">',
        "71 % des critères",
        "Deux vidéos",
        "Les cartes",
    ):
        assert words in page
    page = declared(Statement(plan="javascript:alert(1)", contact="le secrétariat", body="Le collège"), language="en")
    assert 'href="javascript' not in page
    assert "mailto" not in page
    assert '<span lang="fr">Le collège</span> undertakes' in page


@pytest.mark.parametrize("part", ["État de conformité", "Résultats des tests", "Contenus non accessibles"])
@pytest.mark.parametrize(
    "more", ["Établissement de cette déclaration", "Retour d’information et contact", "Voies de recours"]
)
async def test_the_declaration_keeps_to_the_models_headings(part: str, more: str) -> None:
    page = declared(Statement())
    assert page.index(f">{part}<") < page.index(f">{more}<")
