// Theme, keyboard and the overlay of keys, for every page. What it reads stands in the pages as
// data attributes; docs/pages.md, "Keys", has all of them.
"use strict";

(() => {
  const root = document.documentElement;
  const THEMES = ["system", "light", "dark"];
  const kept = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const keep = (name, value) => { try { localStorage.setItem(name, value); } catch { /* private window */ } };

  // In the head, before anything is painted: no flash of the other theme.
  const apply = (theme) => {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
    for (const name of document.querySelectorAll("[data-theme-name]")) name.textContent = THEMES.includes(theme) ? theme : "system";
  };
  apply(kept("theme"));

  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const seen = (element) => element.getClientRects().length > 0;
  const told = (text) => {
    const box = document.querySelector("[data-told]");
    if (!box) return;
    box.textContent = text;
    box.hidden = false;
    clearTimeout(told.timer);
    told.timer = setTimeout(() => { box.hidden = true; }, 4000);
  };

  // Rows: the one that the keys are at.
  const rows = () => all("[data-row]").filter(seen);
  const current = () => document.querySelector("[data-row].at");
  const place = `row:${location.pathname}`;
  const goTo = (row, quietly = false) => {
    const before = current();
    if (before) { before.classList.remove("at"); before.removeAttribute("aria-current"); }
    if (!row) return;
    row.classList.add("at");
    row.setAttribute("aria-current", "true");
    if (!quietly) {
      row.scrollIntoView({ block: "nearest" });
      if (row.tabIndex < 0 && !row.hasAttribute("tabindex")) row.tabIndex = -1;
      row.focus({ preventScroll: true });
    }
    try { sessionStorage.setItem(place, row.dataset.row || String(rows().indexOf(row))); } catch { /* private window */ }
    row.dispatchEvent(new CustomEvent("row", { bubbles: true }));
  };
  const step = (by) => {
    const there = rows();
    const at = there.indexOf(current());
    goTo(there[at < 0 ? (by > 0 ? 0 : there.length - 1) : Math.min(Math.max(at + by, 0), there.length - 1)]);
  };
  const open = (row) => {
    if (!row) return;
    const link = row.dataset.href ? null : row.querySelector("a[href]");
    if (row.dataset.href) location.assign(row.dataset.href);
    else if (link) link.click();
  };

  // Elements with a key: pressed, they are clicked, or get the focus where one writes into them.
  const keyed = () => [
    ...all("[data-key]").map((element) => [element.dataset.key, element]),
    ...all("[data-row-key]", current() || document.createElement("i")).map((element) => [element.dataset.rowKey, element]),
  ];
  const use = (element) => {
    if (element.matches("input:not([type=checkbox]):not([type=radio]), select, textarea")) element.focus();
    else element.click();
  };
  const OWN = {
    j: ["next row", () => step(1)], k: ["row before", () => step(-1)],
    "g g": ["first row", () => goTo(rows()[0])], G: ["last row", () => goTo(rows().at(-1))],
    Enter: ["open the row", () => open(current())],
    x: ["choose the row", () => current()?.querySelector("[data-pick]")?.click()],
    "/": ["search", () => { const field = document.querySelector("[data-search]"); field?.focus(); field?.select?.(); }],
    "?": ["these keys", () => help()],
  };
  const offered = (key) => {
    if (["j", "k", "g g", "G", "Enter"].includes(key)) return rows().length > 0;
    if (key === "x") return document.querySelector("[data-row] [data-pick]") !== null;
    if (key === "/") return document.querySelector("[data-search]") !== null;
    return true;
  };

  const help = () => {
    const before = document.querySelector("dialog[data-keys]");
    if (before) { before.close(); return; }
    const box = document.createElement("dialog");
    box.dataset.keys = "";
    const title = document.createElement("h2");
    title.textContent = "Keys";
    const list = document.createElement("dl");
    const add = (key, says) => {
      const name = document.createElement("dt");
      for (const part of key.split(" ")) {
        const cap = document.createElement("kbd");
        cap.textContent = part;
        name.append(cap, " ");
      }
      const what = document.createElement("dd");
      what.textContent = says;
      list.append(name, what);
    };
    for (const [key, [says]] of Object.entries(OWN)) if (offered(key)) add(key, says);
    const named = new Set(Object.keys(OWN));
    for (const element of all("[data-key], [data-row-key]")) {
      const key = element.dataset.key || element.dataset.rowKey;
      if (named.has(key)) continue;
      named.add(key);
      add(key, element.dataset.says || element.textContent.trim());
    }
    add("Esc", "leave a field, close this");
    box.append(title, list);
    box.addEventListener("close", () => box.remove());
    box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
    document.body.append(box);
    box.showModal();
  };

  const share = async () => {
    const of = location.pathname + location.search + location.hash;
    try {
      const answer = await fetch(`/share?of=${encodeURIComponent(of)}`);
      const address = await answer.text();
      await navigator.clipboard.writeText(address);
      told("Copied: the address with the token, for a colleague on this machine.");
    } catch { told("This browser gave no access to the clipboard."); }
  };

  let waiting = "";
  let timer = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const field = event.target.closest?.("input, select, textarea, [contenteditable]");
    const writes = field && !field.matches("[type=checkbox], [type=radio]");
    if (event.key === "Escape" && field) { field.blur(); return; }
    if (writes) return;
    const dialog = document.querySelector("dialog[open]");
    if (dialog && event.key !== "?") return;
    // Enter on a link or button is the browser's own.
    if (event.key === "Enter" && event.target.closest?.("a, button, summary")) return;
    const pressed = waiting ? `${waiting} ${event.key}` : event.key;
    waiting = "";
    clearTimeout(timer);
    const pairs = keyed();
    const found = pairs.find(([key]) => key === pressed);
    if (found) { event.preventDefault(); use(found[1]); return; }
    if (OWN[pressed] && offered(pressed)) { event.preventDefault(); OWN[pressed][1](); return; }
    const begins = [...pairs.map(([key]) => key), ...Object.keys(OWN)].some((key) => key.startsWith(`${pressed} `));
    if (begins) {
      event.preventDefault();
      waiting = pressed;
      timer = setTimeout(() => { waiting = ""; }, 1500);
    }
  });

  document.addEventListener("click", (event) => {
    const at = event.target;
    if (at.closest("[data-theme-toggle]")) {
      const next = THEMES[(THEMES.indexOf(kept("theme") || "system") + 1) % THEMES.length];
      keep("theme", next);
      apply(next);
      told(`Theme: ${next}.`);
    }
    if (at.closest("[data-help]")) help();
    if (at.closest("[data-share]")) share();
    const row = at.closest("[data-row]");
    if (row) goTo(row, true);
    // A row with an address of its own opens on a click beside its links and buttons.
    if (row?.dataset.href && !at.closest("a, button, input, label, summary, select") && !String(getSelection())) open(row);
  });
  // Another window of the same browser changed the theme.
  addEventListener("storage", (event) => { if (event.key === "theme") apply(event.newValue); });

  document.addEventListener("DOMContentLoaded", () => {
    apply(kept("theme"));
    let before = null;
    try { before = sessionStorage.getItem(place); } catch { /* private window */ }
    const there = rows();
    const row = there.find((one) => one.dataset.row && one.dataset.row === before) || (before !== null && /^\d+$/.test(before) ? there[Number(before)] : null);
    if (row) goTo(row, true);
  });
})();
