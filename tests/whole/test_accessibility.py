"""Story 11: any page, any pupil. Every page × French and English × light and dark × wide, narrow and enlarged.

axe-core finds a third of what an audit looks for (docs: /accessibilite says so). What it cannot see, and a browser can,
is here too: the keyboard's way to a lesson and the focus on it, the same way without scripts, the width of 320 pixels,
wider spaces in texts, larger letters, less motion.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route

from edgeshare.publish.linkpage import page_files

from . import packages
from .staged import Stage, node_in_every_state, on_stage
from .support import Measured

pytestmark = pytest.mark.whole

ORIGIN = "https://lecons.example.fr/"
TAGS = ["RGAAv4", "wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
PAGES = {
    "catalogue": "/",
    "search": "/?level=6e&q=FRACTION",
    "nothing found": "/?q=xyz",
    "today": "/?when=today",
    "teachers": "/?role=teacher",
    "here": "/l/maths-6e-fractions",
    "coming": "/l/sciences-6e-eau",
    "listed, in English": "/l/anglais-5e-school",
    "failed": "/l/emc-6e-droits",
    "waits for others": "/l/francais-6e-conte",
    "waits for the night": "/l/maths-6e-angles",
    "withdrawn (410)": "/l/histoire-6e-erreur",
    "unknown (404)": "/l/nothing",
    "cannot come (503)": "/lessons/emc-6e-droits/index.html",
    "dashboard": "/ecole",
    "accessibility": "/accessibilite",
    "link from elsewhere": "/open/nothing",
}
# 200 % on a screen of 1280 × 1024 is this width in CSS's pixels
SIZES = {"wide": (1280, 1024), "200 %": (640, 512), "narrow": (320, 640)}
READERS = [(language, scheme) for language in ("fr", "en") for scheme in ("light", "dark")]

# What is loaded beforehand is style sheets, for one rule, about turned screens; they are the same in every size.
_AXE = """async ([tags, preload]) => {
    const found = await axe.run({ runOnly: tags, preload, resultTypes: ["violations", "incomplete"] });
    const told = (rules) => rules.map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target).join(", ")}`);
    return { violations: told(found.violations), incomplete: told(found.incomplete), passes: found.passes.length };
}"""

_FOCUS = """() => {
    const at = document.activeElement, style = getComputedStyle(at);
    const box = at.getBoundingClientRect();
    return {
        words: at.textContent.trim(), tag: at.localName, href: at.href || "",
        visible: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2
            && box.width > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
    };
}"""

_WIDTH = "document.documentElement.scrollWidth"

_SPACED = """() => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(`* { line-height: 1.5 !important; letter-spacing: 0.12em !important;
        word-spacing: 0.16em !important; } p { margin-bottom: 2em !important; }`);
    document.adoptedStyleSheets = [sheet];
}"""

_MOVES = """() => [...document.querySelectorAll("*")].filter((each) => {
    const style = getComputedStyle(each);
    return style.animationName !== "none" || !/^(0s(, )?)+$/.test(style.transitionDuration);
}).map((each) => each.localName)"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with on_stage(node_in_every_state()) as staged:
        yield staged


def context_for(browser: Browser, language: str, scheme: Any, **more: Any) -> BrowserContext:
    locale = {"fr": "fr-FR", "en": "en-GB"}[language]
    return browser.new_context(locale=locale, color_scheme=scheme, **more)


def looked_at(page: Page, name: str, trouble: list[str], review: set[str]) -> None:
    """Have axe look at a page in every size, and see that it needs no scrolling sideways."""
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        found = page.evaluate(_AXE, [TAGS, size == "wide"])
        assert found["passes"] > 25  # rules that had something to look at
        trouble += [f"{name}, {size}: {each}" for each in found["violations"]]
        review.update(f"{name}: {each}" for each in found["incomplete"])
        if (wide := page.evaluate(_WIDTH)) > width:
            trouble.append(f"{name}, {size}: {wide} pixels wide")


def publishers_page(route: Route) -> None:
    """An origin that has the page behind links, and nothing else."""
    if route.request.url == f"{ORIGIN}o/":
        route.fulfill(body=page_files()["index.html"], content_type="text/html; charset=utf-8")
    else:
        route.fulfill(status=404)


@pytest.mark.parametrize(("language", "scheme"), READERS)
def test_story_11_no_page_keeps_anybody_out(
    stage: Stage, browser: Browser, measured: Measured, language: str, scheme: str
) -> None:
    trouble: list[str] = []
    review: set[str] = set()
    context = context_for(browser, language, scheme)
    context.add_init_script(packages.axe_core())
    slow = context.new_page()  # what does not come within 20 seconds says so: asked for beside all others
    slow.goto(f"{stage.home}l/sciences-6e-eau")
    slow.evaluate("() => { setTimeout(() => { location = '/lessons/sciences-6e-eau/index.html' }, 0) }")
    page = context.new_page()
    for name, path in PAGES.items():
        page.goto(stage.home + path[1:], wait_until="load")
        assert page.locator("html").get_attribute("lang") == language
        assert page.locator("h1").count() == 1
        assert page.locator('a[href$="/accessibilite"]').count() == 1
        looked_at(page, name, trouble, review)
    with stage.full_disk():
        page.goto(f"{stage.home}lessons/anglais-5e-school/index.html", wait_until="load")
        looked_at(page, "no room (507)", trouble, review)
    context.route(f"{ORIGIN}**", publishers_page)
    page.goto(f"{ORIGIN}o/#maths-6e-fractions", wait_until="load")
    looked_at(page, "the publisher's page of links", trouble, review)
    slow.wait_for_selector("#again:not([hidden])", timeout=30_000)
    looked_at(slow, "on its way (503)", trouble, review)
    context.close()
    measured(f"{len(PAGES) + 3} pages, each in {len(SIZES)} sizes, by axe-core with {', '.join(TAGS)}")
    for each in sorted(review):
        measured(f"to be looked at by a person: {each}")
    assert trouble == []


def tab_to(page: Page, href: str) -> list[str]:
    """Press Tab until the link to `href` has the focus; the words of what had it on the way, all of it in sight."""
    passed: list[str] = []
    for _ in range(80):
        page.keyboard.press("Tab")
        focus = page.evaluate(_FOCUS)
        assert focus["visible"], focus
        passed.append(focus["words"])
        if focus["href"] == href:
            return passed
    raise AssertionError(f"Tab does not reach {href}: {passed}")


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_story_11_tab_alone_reaches_and_opens_a_lesson(stage: Stage, browser: Browser, scripts: bool) -> None:
    context = context_for(browser, "fr", "light", java_script_enabled=scripts)
    page = context.new_page()
    page.goto(stage.home)
    lesson = f"http://maths-6e-fractions.localhost:{stage.port}/"
    assert tab_to(page, lesson)[0] == "Aller au contenu"
    page.keyboard.press("Enter")
    page.wait_for_url(f"{lesson}index.html")
    assert page.locator("h1").text_content() == "Les fractions"
    context.close()


def test_the_first_link_skips_to_the_content(stage: Stage, browser: Browser) -> None:
    context = context_for(browser, "fr", "light")
    page = context.new_page()
    page.goto(stage.home)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    context.close()


def test_the_form_is_filled_in_by_the_keyboard_without_scripts(stage: Stage, browser: Browser) -> None:
    context = context_for(browser, "fr", "light", java_script_enabled=False)
    page = context.new_page()
    page.goto(stage.home)
    page.get_by_label("Mots à chercher").focus()
    page.keyboard.type("CYCLE de l'éau")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?level=&subject=&q=*")
    assert page.locator(".card").count() == 1
    assert page.locator(".card h4").text_content() == "Le cycle de l’eau"
    context.close()


def test_wider_spaces_and_larger_letters_need_no_scrolling_sideways(stage: Stage, browser: Browser) -> None:
    context = context_for(browser, "fr", "light")
    page = context.new_page()
    for path in PAGES.values():
        page.set_viewport_size({"width": 320, "height": 640})
        page.goto(stage.home + path[1:])
        page.evaluate(_SPACED)  # WCAG 1.4.12
        assert page.evaluate(_WIDTH) == 320, path
        page.set_viewport_size({"width": 1280, "height": 1024})
        page.evaluate("document.documentElement.style.fontSize = '200%'")  # WCAG 1.4.4
        assert page.evaluate(_WIDTH) == 1280, path
    context.close()


def test_who_wants_less_motion_gets_none(stage: Stage, browser: Browser) -> None:
    context = context_for(browser, "fr", "light")
    page = context.new_page()
    page.goto(stage.home)
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(_MOVES) != []
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(_MOVES) == []
    context.close()
