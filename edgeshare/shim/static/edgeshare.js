"use strict";
/* Keeps states and progress fresh. Everything on the page works without it. */
(() => {
  const live = document.getElementById("live");
  if (!live || !window.EventSource) return;
  const percent = new Intl.NumberFormat(document.documentElement.lang, { style: "percent" });
  const shown = [...new Set([...document.querySelectorAll("[data-lesson]")].map((place) => place.dataset.lesson))];
  if (!shown.length) return;
  const AGAIN_MS = 10000; // after an answer that ends the browser's own attempts, like a 503
  let source = null;
  let timer = 0;

  const show = (place, lesson) => {
    const share = Math.min(1, lesson.bytes_have / lesson.size);
    const words = place.querySelector("[data-words]");
    const progress = place.querySelector("progress");
    const text = live.dataset[lesson.state];
    if (text === undefined) return;
    words.textContent = text.replace("{share}", percent.format(Math.floor(share * 100) / 100));
    progress.value = lesson.bytes_have;
    progress.hidden = lesson.state !== "fetching";
    const has_arrived = lesson.state === "complete" && place.dataset.state !== "complete";
    place.dataset.state = lesson.state;
    return has_arrived;
  };

  const update = (event) => {
    for (const lesson of JSON.parse(event.data)) {
      const places = document.querySelectorAll(`[data-lesson="${CSS.escape(lesson.id)}"]`);
      const arrivals = [...places].filter((place) => show(place, lesson));
      if (arrivals.length) {
        const title = arrivals[0].querySelector("h1, h3, h4").textContent;
        live.textContent = live.dataset.arrived.replace("{title}", () => title);
      }
    }
  };

  const listen = () => {
    clearTimeout(timer);
    if (source && source.readyState !== EventSource.CLOSED) return;
    source = new EventSource(`/api/v1/events?lessons=${shown.join(",")}`);
    source.addEventListener("lessons", update);
    source.addEventListener("error", () => {
      if (source && source.readyState === EventSource.CLOSED) timer = setTimeout(listen, AGAIN_MS);
    });
  };

  const rest = () => {
    clearTimeout(timer);
    if (source) source.close();
    source = null;
  };

  // A hidden page would keep one of the six connections that a browser has for all its pages of this node.
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : listen()));
  addEventListener("pagehide", rest);
  addEventListener("pageshow", listen);
})();
