"use strict";
/* On the page that stands in for a lesson's: asks again for it, and shows it when it is here. A link does so without. */
(() => {
  const told = document.getElementById("again");
  const LONGEST_S = 600;
  const after_s = Number(told.dataset.after);
  const ask = async () => {
    let pause_s = after_s;
    const enough = new AbortController(); // its first line says what there is to know
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: enough.signal });
      enough.abort();
      if (answer.status !== 503 && answer.status !== 429) {
        location.reload();
        return;
      }
      // 429: many ask at once, behind one proxy say; the answer says for how long it is too many
      pause_s = Math.min(Number(answer.headers.get("retry-after")) || after_s, LONGEST_S);
    } catch {
      // the node is away for a moment
    }
    setTimeout(ask, 1000 * pause_s);
  };
  told.hidden = false;
  setTimeout(ask, 1000 * after_s);
})();
