"use strict";
/* On the page that stands in for a lesson's: asks again for it, and shows it when it is here. A link does so without. */
(() => {
  const told = document.getElementById("again");
  const pause_ms = 1000 * Number(told.dataset.after);
  const ask = async () => {
    const enough = new AbortController(); // its first line says what there is to know
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: enough.signal });
      enough.abort();
      if (answer.status !== 503 && answer.status !== 429) { // 429: many ask at once
        location.reload();
        return;
      }
    } catch {
      // the node is away for a moment
    }
    setTimeout(ask, pause_ms);
  };
  told.hidden = false;
  setTimeout(ask, pause_ms);
})();
