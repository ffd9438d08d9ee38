"use strict";
/* Keeps states and progress fresh. Everything on the page works without it. */
(() => {
  const live = document.getElementById("live");
  if (!live || !window.EventSource) return;
  const percent = new Intl.NumberFormat(document.documentElement.lang, { style: "percent" });
  const shown = [...new Set([...document.querySelectorAll("[data-lesson]")].map((place) => place.dataset.lesson))];
  const AGAIN_MS = 4000; // after an answer that ends the browser's own attempts, like a 503

  // A node that has just begun has no list yet. What other pages show, documents for teachers say, does not count.
  const look = async () => {
    try {
      const answer = document.hidden ? null : await fetch(location.href, { cache: "no-store" });
      const has_some = answer && answer.ok && (await answer.text()).includes(" data-lesson=");
      if (has_some && !document.querySelector("input:focus")) return location.reload();
    } catch {
      // the node is away for a moment
    }
    setTimeout(look, AGAIN_MS);
  };
  if (document.getElementById("none")) setTimeout(look, AGAIN_MS);

  if (!shown.length) return;
  const LOST_MS = 3000; // a moment's silence is no news
  const REFRESH_MS = 3000; // how often a page is fetched anew for figures alone
  const LOOK_BACK_MS = 20000; // what "how long still" goes by
  const LOOK_MS = 4000; // and what it needs to say anything
  const lost = document.getElementById("lost");
  const freeze = document.getElementById("freeze");
  const parts = document.querySelectorAll("[data-part]");
  let source = null;
  let timer = 0;
  let losing = 0;
  let is_frozen = false;

  // How long a lesson may take still, by what came in the last seconds.

  const seen = new Map(); // lesson → [time, bytes], the oldest first

  const left = (lesson) => {
    const now = performance.now();
    const points = (seen.get(lesson.id) || []).filter((point) => now - point[0] < LOOK_BACK_MS);
    points.push([now, lesson.bytes_have]);
    seen.set(lesson.id, points);
    const [since, bytes] = points[0];
    const came = lesson.bytes_have - bytes;
    if (lesson.state !== "fetching" || now - since < LOOK_MS || came <= 0) return "";
    const minutes = ((lesson.size - lesson.bytes_have) / came) * ((now - since) / 60000);
    if (minutes < 1) return live.dataset.leftShort;
    if (minutes < 60) return live.dataset.leftMinutes.replace("{count}", Math.ceil(minutes));
    return minutes < 48 * 60 ? live.dataset.leftHours.replace("{count}", Math.ceil(minutes / 60)) : "";
  };

  // What the page of one lesson says besides: the page itself has the words.

  let standing = null; // of the lesson, as the page shows it
  let figures = null;
  let is_fetching = false;
  let later = 0;
  let fetched_ms = -REFRESH_MS;

  const refresh = async () => {
    is_fetching = true;
    fetched_ms = performance.now();
    const before = document.getElementById("standing").textContent.trim();
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
      // What this page was about is gone: there is another one.
      if (answer.status === 410 || answer.status === 404) return location.reload();
      if (!answer.ok) throw new Error(answer.statusText);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of parts) part.replaceChildren(...fresh.getElementById(part.id).childNodes);
      const notice = document.querySelector("#standing .notice");
      if (notice && notice.parentElement.textContent.trim() !== before) {
        live.replaceChildren(...notice.cloneNode(true).childNodes); // with the language of each part
      }
    } catch {
      standing = figures = null; // the next event tries again
    } finally {
      is_fetching = false;
    }
  };

  const follow = (lesson) => {
    const now = [lesson.state, lesson.obstacle, lesson.reason, lesson.version, lesson.next_version, lesson.offered];
    const next = JSON.stringify(now);
    const counts = `${lesson.origin_bytes} ${lesson.peer_bytes}`;
    if (next === standing && counts === figures) return;
    const pause_ms = next === standing ? Math.max(0, fetched_ms + REFRESH_MS - performance.now()) : 0;
    clearTimeout(later);
    later = setTimeout(() => {
      if (is_fetching) return follow(lesson); // what is on its way may be older
      standing = next;
      figures = counts;
      refresh();
    }, pause_ms || (is_fetching ? REFRESH_MS / 10 : 0));
  };

  // The states, wherever they stand.

  const show = (place, lesson, still) => {
    const share = Math.min(1, lesson.bytes_have / lesson.size);
    const progress = place.querySelector("progress");
    const text = live.dataset[lesson.state];
    if (text === undefined) return;
    const words = text.replace("{share}", percent.format(Math.floor(share * 100 + 1e-9) / 100));
    place.querySelector("[data-words]").textContent = words;
    place.querySelector("[data-left]").textContent = still;
    progress.value = lesson.bytes_have;
    progress.hidden = lesson.state !== "fetching";
    const has_arrived = lesson.state === "complete" && place.dataset.state !== "complete";
    place.dataset.state = lesson.state;
    return has_arrived;
  };

  // A card whose link leads nowhere any more goes, and the headings above it that are about nothing then.
  const leave = (place) => {
    if (place.contains(document.activeElement)) document.getElementById("main").focus({ preventScroll: true });
    const around = [place.closest(".subject"), place.closest("section")];
    place.remove();
    for (const group of around) if (group && !group.querySelector("a")) group.remove();
  };

  // That a lesson is here, its title in its own language.
  const arrival = (heading) => {
    const title = document.createElement("span");
    const { lang } = heading.querySelector("[lang]") || heading;
    if (lang) title.lang = lang;
    title.textContent = heading.textContent;
    const [before, after] = live.dataset.arrived.split("{title}");
    return [before, title, after];
  };

  const last = new Map(); // lesson → what was said of it

  const update = (event) => {
    hear();
    for (const lesson of JSON.parse(event.data)) last.set(lesson.id, lesson);
    const arrived = [];
    for (const lesson of last.values()) {
      const still = left(lesson);
      const places = document.querySelectorAll(`[data-lesson="${CSS.escape(lesson.id)}"]`);
      if (lesson.state === "gone") {
        if (parts.length) return location.reload(); // there is another page in place of this one
        last.delete(lesson.id);
        places.forEach(leave);
        continue;
      }
      const arrivals = [...places].filter((place) => show(place, lesson, still));
      if (arrivals.length) arrived.push(...(arrived.length ? [", "] : []), ...arrival(arrivals[0].querySelector("h1, h3, h4")));
      if (parts.length) follow(lesson);
    }
    if (arrived.length) live.replaceChildren(...arrived);
    const moves = [...last.values()].some(({ state }) => state === "fetching" || state === "waiting");
    freeze.hidden = !moves && document.activeElement !== freeze; // nobody's focus gets lost
  };

  const hear = () => {
    clearTimeout(losing);
    losing = 0;
    lost.hidden = true;
  };

  const listen = () => {
    clearTimeout(timer);
    if (is_frozen || document.hidden || (source && source.readyState !== EventSource.CLOSED)) return;
    source = new EventSource(`/api/v1/events?lessons=${shown.join(",")}`);
    source.addEventListener("lessons", update);
    source.addEventListener("error", () => {
      losing ||= setTimeout(() => (lost.hidden = false), LOST_MS);
      if (source && source.readyState === EventSource.CLOSED) timer = setTimeout(listen, AGAIN_MS);
    });
  };

  const rest = () => {
    clearTimeout(timer);
    clearTimeout(later);
    hear();
    if (source) source.close();
    source = null;
  };

  const words = [freeze.textContent, freeze.dataset.on];
  freeze.addEventListener("click", () => {
    is_frozen = !is_frozen;
    freeze.textContent = words[Number(is_frozen)];
    if (is_frozen) rest();
    else listen();
  });

  // A hidden page would keep one of the six connections that a browser has for all its pages of this node.
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : listen()));
  addEventListener("pagehide", rest);
  addEventListener("pageshow", listen);
})();
