"use strict";
// The gallery's filters. They stand in the address (#show=lost&family=chords), so that a view can
// be sent to somebody; without this script all problems are shown.
(() => {
  const bar = document.getElementById("filters");
  if (!bar) return;
  const cards = [...document.querySelectorAll(".exhibit")];
  const groups = [...document.querySelectorAll(".fate")];
  const chips = [...bar.querySelectorAll("button[data-show]")];
  const family = bar.querySelector("select");
  const count = bar.querySelector("output");

  const read = () => {
    const said = new URLSearchParams(location.hash.slice(1));
    const show = said.get("show") || "all", wanted = said.get("family") || "";
    return {
      show: chips.some((chip) => chip.dataset.show === show) ? show : "all",
      family: [...family.options].some((option) => option.value === wanted) ? wanted : "",
    };
  };
  const apply = () => {
    const { show, family: wanted } = read();
    for (const chip of chips) chip.setAttribute("aria-pressed", String(chip.dataset.show === show));
    family.value = wanted;
    let shown = 0;
    for (const card of cards) {
      const kind = show === "all" || card.dataset.fate === show || card.dataset.after === show;
      card.hidden = !kind || (wanted !== "" && card.dataset.family !== wanted);
      shown += !card.hidden;
    }
    for (const group of groups) {
      const none = !group.querySelector(".exhibit:not([hidden])");
      group.hidden = none && (show !== "all" || wanted !== "");
    }
    for (const group of groups) {
      group.querySelector(".exhibits").classList.toggle("filtered", show !== "all" || wanted !== "");
    }
    count.textContent = `${shown} of ${cards.length} shown`;
  };
  const go = (change) => {
    const wanted = { ...read(), ...change };
    const said = new URLSearchParams();
    if (wanted.show !== "all") said.set("show", wanted.show);
    if (wanted.family) said.set("family", wanted.family);
    const text = said.toString();
    history.replaceState(null, "", text ? `#${text}` : "#gallery");
    apply();
  };
  for (const chip of chips) chip.addEventListener("click", () => go({ show: chip.dataset.show }));
  family.addEventListener("change", () => go({ family: family.value }));
  addEventListener("hashchange", apply);
  bar.hidden = false;
  apply();
  if (/^#(show|family)=/.test(location.hash)) document.getElementById("gallery").scrollIntoView();

  // On paper everything is open, and what is filtered away stays away.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const one of closed) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of closed) one.open = false; });
})();
