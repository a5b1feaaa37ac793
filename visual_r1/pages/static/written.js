// Of the pages that show what a policy wrote: filters that send no empty fields, groups by sample.
"use strict";

(() => {
  // An address says what is asked for and no more: fields left empty are not sent.
  for (const form of document.querySelectorAll("form[data-auto]")) {
    const send = () => {
      const query = new URLSearchParams();
      for (const [name, value] of new FormData(form)) if (value !== "") query.set(name, value);
      location.assign(`${form.action.split("?")[0]}?${query}`);
    };
    form.addEventListener("submit", (event) => { event.preventDefault(); send(); });
    for (const field of form.querySelectorAll("select")) field.addEventListener("change", send);
  }
  // The sample that an address names is the one that the keys are at.
  const named = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (named && named.matches("[data-row]")) {
    for (const row of document.querySelectorAll("[data-row].at")) row.classList.remove("at");
    named.classList.add("at");
    named.setAttribute("aria-current", "true");
    named.scrollIntoView({ block: "nearest" });
  }
  // A label that is decided: the page comes again, at the next one.
  document.addEventListener("submit", (event) => {
    const row = event.target.closest(".dispute");
    if (!row) return;
    const undoes = event.submitter?.value === "withdrawn";
    const next = undoes ? row : row.nextElementSibling || row;
    try { sessionStorage.setItem(`row:${location.pathname}`, next.dataset.row); } catch { /* private window */ }
  });
  document.addEventListener("row", (event) => {
    if ("hash" in event.target.dataset) history.replaceState(null, "", `#${event.target.id}`);
  });
})();
