// The service worker: what the page loads is kept, and used when the host cannot be reached.
// With a network everything is asked for again, so a changed classifier is used at once.

const KEPT = "clipdistill";
const PAGE = ["./", "page.css", "page.js", "source.js"]; // loaded before this worker is active

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(KEPT).then((kept) => kept.addAll(PAGE)));
});
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET") event.respondWith(answer(event.request));
});

async function answer(request) {
  const kept = await caches.open(KEPT);
  let fresh;
  try {
    fresh = await fetch(request, { cache: "no-cache" });
  } catch {
    const page = request.mode === "navigate" ? "./" : request;
    return (await kept.match(page, { ignoreSearch: true })) ?? Response.error();
  }
  // A full disk only means that the page will not work offline.
  if (fresh.status === 200) await kept.put(request, fresh.clone()).catch(() => {});
  return fresh;
}
