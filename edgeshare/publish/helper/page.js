"use strict";
// Times in milliseconds.
const NODE = "{node}", PATIENT = 1500, LESS = 800, REFUSED = 400, SOON = 300;
const WORDS = {
  fr: {
    bad: "Ce lien ne nomme aucune leçon.",
    blocked: "Le navigateur a bloqué la fenêtre : prenez une adresse ci-dessous.",
    wait: "Un instant : la leçon s’ouvre dans un autre onglet…",
    node: "La leçon est ouverte dans un autre onglet.",
    copy: "La leçon est ouverte dans un autre onglet, depuis le serveur.",
    away: "Ni cet ordinateur ni le serveur ne répondent. Voici comment la lire.",
    unknown: "Ni cet ordinateur ni le serveur n’ont cette leçon.",
    early: "Cette leçon n’est pas encore disponible.",
    over: "Cette leçon n’est plus disponible.",
    busy: "Trop de monde sur le serveur : réessayez dans une minute.",
    kept: "Adresse retenue dans ce navigateur.",
    address: "Une adresse est comme http://edgeshare.local/",
  },
  en: {
    bad: "This link names no lesson.",
    blocked: "The browser blocked the window: take an address below.",
    wait: "One moment: it opens in another tab…",
    node: "The lesson is open in another tab.",
    copy: "The lesson is open in another tab, from the server.",
    away: "Neither this computer nor the server answers. Here is how to read it.",
    unknown: "Neither this computer nor the server has this lesson.",
    early: "This lesson is not available yet.",
    over: "This lesson is no longer available.",
    busy: "Too many readers on the server: try again in a minute.",
    kept: "This browser remembers the address.",
    address: "An address is like http://edgeshare.local/",
  },
};
const tags = navigator.languages.map(tag => tag.slice(0, 2));
const language = tags.find(tag => tag in WORDS) || "fr";
document.documentElement.lang = language;
const at = selector => document.querySelector(selector);
at(`section:not([lang=${language}])`).remove();
document.title = at("h1").textContent;
const say = word => { at("[role=status]").textContent = WORDS[language][word] || ""; };
const base = location.pathname.replace(/\/o(\/(index\.html)?)?$/, "/");

// Some browsers forbid it: then the page forgets.
const memory = (name, value) => {
  name = "edgeshare." + name;
  try {
    if (value) localStorage.setItem(name, value);
    return localStorage.getItem(name) || "";
  } catch { return value || ""; }
};

let lesson, path;
const read = () => {
  lesson = path = "";
  say();
  try {
    const [id, ...parts] = location.hash.slice(1).split("/").map(decodeURIComponent);
    if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(id) || parts.some(part => /^\.{0,2}$/.test(part))) throw id;
    lesson = id;
    path = parts.map(encodeURIComponent).join("/");
  } catch { if (location.hash.length > 1) say("bad"); }
  for (const part of [".lesson", ".go", ".copy"]) at(part).hidden = !lesson;
  at(".lesson b").textContent = lesson;
  for (const [link, node] of [[".here", NODE], [".school", memory("school")]]) {
    if (node) at(link).textContent = node + "/";
    at(link).href = address(node || new URL(at(link).href).origin);
    at(link).target = "_blank";
  }
};
const address = node => node + (lesson ? `/open/${lesson}${path && "/" + path}` : "/");

const isForeign = tab => {
  try { return !tab.location.href; } catch { return true; }
};

/** Resolves to what the node at that address says of the lesson, or to null when nobody speaks in time. */
const answer = (tab, node, patience, clock, tick) => new Promise(done => {
  const began = Date.now(), wasForeign = isForeign(tab);
  let since = 0;
  const end = said => { clock.onmessage = null; removeEventListener("message", hear); done(said); };
  const hear = ({source, origin, data}) => {
    if (source === tab && origin === node && data.lesson === lesson) end(data);
  };
  addEventListener("message", hear);
  clock.onmessage = () => {
    const now = Date.now();
    // It shows something by now: a node's page speaks at once, an error page never.
    if (!wasForeign && !since && isForeign(tab)) since = now;
    if (tab.closed || now - began > patience || (since && now - since > REFUSED)) end(null);
    tick();
  };
});

// Not where a node's page has let go of its opener, late, after it has been given up: the lesson is open then.
const lead = (tab, url) => {
  try { tab.location.replace(url); return 1; } catch { say("node"); }
};
const ask = (url, method) => fetch(base + url, {method, signal: AbortSignal.timeout(5000)});
/** The file that this server has of the lesson, or the word for why it has none. Asks for nothing that is its alone. */
const index = async () => {
  // An error page is no JSON.
  const get = async name => (await ask(`o/${name}.json`)).json();
  try {
    let {digits, lessons} = await get("lessons");
    if (digits) ({lessons} = await get(`lessons-${spread(lesson).slice(0, digits)}`));
    if (!Object.hasOwn(lessons, lesson)) return {word: "unknown"};
    const [content, start, from, until] = lessons[lesson], now = Date.now() / 1000;
    if (now < from) return {word: "early"};
    if (until && until < now) return {word: "over"};
    return {file: `content/${content}/${path || start.split("/").map(encodeURIComponent).join("/")}`};
  } catch { return {word: "away"}; }
};
/** Where to read it here, or the word for why not; `known` is what `index` gave. */
const copy = async known => {
  const {file, word} = await (known || index());
  if (!file) return {word};
  try {
    const {ok, status} = await ask(file, "HEAD");
    return ok ? {url: base + file} : {word: status === 404 ? "unknown" : "busy"};
  } catch { return {word: "away"}; }
};
// The same as linkpage.spread; ids are ASCII.
const spread = text => {
  let sum = 0x811c9dc5;
  for (const letter of text) sum = Math.imul(sum ^ letter.charCodeAt(), 0x01000193);
  sum = Math.imul(sum ^ sum >>> 15, 0x2c1b3c6d);
  return ((sum ^ sum >>> 12) >>> 0).toString(16).padStart(8, 0);
};

const open = async () => {
  const nodes = [...new Set([memory("last"), NODE, memory("school")].filter(Boolean))];
  // The click allows one window.
  const tab = window.open(address(nodes[0])), began = Date.now();
  if (!tab) return say("blocked");
  say("wait");
  // Behind another tab a page's own timers run once a second.
  const clock = new Worker(URL.createObjectURL(new Blob(["setInterval(postMessage, 50, 0)"])));
  let kept;
  const tick = () => { if (Date.now() - began > SOON) kept ||= index(); };
  try {
    for (const node of nodes) {
      const isFirst = node === nodes[0];
      if (!isFirst && !lead(tab, address(node))) return;
      const said = await answer(tab, node, isFirst ? PATIENT : LESS, clock, tick);
      if (said?.state) {
        memory("last", node);
        return say("node");
      }
      if (tab.closed) return say();
      if (isFirst) memory("last", NODE);
    }
  } finally { clock.terminate(); }
  const {url, word} = await copy(kept);
  if (!url) tab.close(); else if (!lead(tab, url)) return;
  say(word || "copy");
};

at(".go button").onclick = open;
at(".copy").onclick = async () => {
  const {url, word} = await copy();
  if (url) location.assign(url); else say(word);
};
at("form").hidden = false;
at("form").onsubmit = event => {
  event.preventDefault();
  try {
    const typed = at("input").value.trim(), url = new URL(/^https?:\/\//.test(typed) ? typed : "http://" + typed);
    memory("school", url.origin);
    read();
    say("kept");
  } catch { say("address"); }
};
addEventListener("hashchange", read);
read();
// A server that does not allow /o keeps the page at /o/.
if (navigator.serviceWorker) {
  const worker = `${base}o/worker.js`, register = scope => navigator.serviceWorker.register(worker, {scope, updateViaCache: "all"});
  register(base + "o").catch(() => register(base + "o/")).catch(() => {});
}
