"use strict";
// Keeps the page of links, so that it opens when its server does not answer. It keeps nothing else, and answers for
// nothing else. This text changes with the page, so a browser that asks for it again, once a day, gets the next one.
const KEPT = "edgeshare-links-{version}";
const PAGE = new URL("index.html?{version}", self.location).href;

self.addEventListener("install", event => event.waitUntil((async () => {
  const answer = await fetch(PAGE, {integrity: "{integrity}", credentials: "omit"});
  await (await caches.open(KEPT)).put(PAGE, answer);
  await self.skipWaiting();
})()));

self.addEventListener("activate", event => event.waitUntil((async () => {
  for (const name of await caches.keys()) {
    if (name.startsWith("edgeshare-links-") && name !== KEPT) await caches.delete(name);
  }
  await self.clients.claim();
})()));

self.addEventListener("fetch", event => {
  const {mode, url} = event.request;
  if (mode !== "navigate" || !/\/o(\/(index\.html)?)?$/.test(new URL(url).pathname)) return;
  event.respondWith(caches.match(PAGE, {cacheName: KEPT}).then(kept => kept || fetch(event.request)));
});
