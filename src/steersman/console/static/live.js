// Keeps the page current: one stream says that something changed, the page fetches itself and takes over what differs.
// Nodes that stay the same stay the same nodes, so focus, scrolling, open details and half-written reasons survive.
"use strict";
(() => {
  const main = document.getElementById("live");
  const link = document.getElementById("link");
  if (!main || !main.dataset.stream || !window.EventSource) return;

  const say = (state, words) => {
    if (!link || link.dataset.state === state) return;
    link.dataset.state = state;
    link.textContent = words;
  };

  // The visitor's own doing, not the server's: whether details are open, and what stands in a field.
  const own = (node, name) => name === "open" && node.nodeName === "DETAILS";

  const takeOver = (old, now) => {
    if (old.isEqualNode(now)) return;
    if (old.nodeType !== now.nodeType || old.nodeName !== now.nodeName || old.id !== now.id) {
      old.replaceWith(now);
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.nodeValue = now.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes])
      if (!now.hasAttribute(name) && !own(old, name)) old.removeAttribute(name);
    for (const { name, value } of [...now.attributes])
      if (old.getAttribute(name) !== value && !own(old, name)) old.setAttribute(name, value);
    if (old.nodeName === "TEXTAREA") return;
    const before = [...old.childNodes];
    const after = [...now.childNodes];
    after.forEach((node, i) => (before[i] ? takeOver(before[i], node) : old.append(node)));
    before.slice(after.length).forEach((node) => node.remove());
  };

  let busy = false;
  let again = false;
  const refresh = async () => {
    if (busy || document.hidden) {
      again = true;
      return;
    }
    busy = true;
    again = false;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, credentials: "same-origin" });
      if (answer.redirected || answer.status === 401) return location.reload();
      if (!answer.ok) throw new Error(String(answer.status));
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of document.querySelectorAll("[data-live]")) {
        const now = page.getElementById(old.id);
        if (now) takeOver(old, now);
      }
      document.title = page.title;
      say("live", "live");
    } catch {
      say("stale", "not current: the server did not answer");
    } finally {
      busy = false;
      if (again && !document.hidden) setTimeout(refresh, 1000);
    }
  };

  let stream;
  const listen = () => {
    stream = new EventSource(main.dataset.stream);
    stream.addEventListener("open", () => say("live", "live"));
    stream.addEventListener("changed", (event) => {
      const { size, at } = JSON.parse(event.data);
      if (String(size) !== main.dataset.size || at !== main.dataset.at) refresh();
    });
    stream.addEventListener("error", () => {
      say("stale", "not current: connecting again");
      if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
    });
  };
  document.addEventListener("visibilitychange", () => again && refresh());
  addEventListener("pagehide", () => stream.close());
  addEventListener("pageshow", (event) => event.persisted && listen());
  listen();
})();
