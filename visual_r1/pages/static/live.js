// Parts of a page that change while it is open: a filter as one types, a run as it trains.
//
// data-part="NAME"    a part that may be fetched anew: the same page is asked for, and the part of
//                     this name put in place of the old one, where they differ
// data-again="4"      on a part: again after so many seconds, for as long as the answer has it too
// data-filter="NAME"  on a form: its fields become the address as one types, and the part is fetched
// data-live="/…"      on the body of a run: new rows are asked for there, see `grow`
"use strict";

(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const part = (name, within = document) => within.querySelector(`[data-part="${name}"]`);

  // Put the parts of `page`, or those that are named, in the place of ours.
  const replace = (page, names) => {
    for (const ours of all("[data-part]")) {
      const name = ours.dataset.part;
      const theirs = part(name, page);
      if (names && !names.includes(name)) continue;
      if (!theirs) { ours.replaceChildren(); delete ours.dataset.again; continue; }
      if (ours.innerHTML === theirs.innerHTML && ours.dataset.again === theirs.dataset.again) continue;
      // What one is doing here stays: the row one is at, what is ticked, unfolded, focused.
      const at = ours.querySelector("[data-row].at")?.dataset.row;
      const ticked = new Set(all("[data-pick]:checked", ours).map((box) => box.value));
      const unfolded = all("details", ours).map((one) => one.open);
      const focused = ours.contains(document.activeElement);
      ours.replaceWith(theirs);
      for (const box of all("[data-pick]", theirs)) box.checked = ticked.has(box.value);
      all("details", theirs).forEach((one, index) => { if (unfolded[index]) one.open = true; });
      const row = all("[data-row]", theirs).find((one) => one.dataset.row === at);
      if (row) { row.classList.add("at"); row.setAttribute("aria-current", "true"); if (focused) { row.tabIndex = -1; row.focus({ preventScroll: true }); } }
    }
    chosen();
  };

  let asked = 0;
  const fetchParts = async (address, names) => {
    const mine = ++asked;
    const answer = await fetch(address, { headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (mine !== asked) return null;  // a newer question is under way
    replace(page, names);
    return page;
  };

  // A button that needs something ticked says so by being grey.
  const chosen = () => {
    const count = all("[data-pick]:checked").length;
    for (const button of all("[data-chosen]")) button.disabled = count === 0;
  };

  const again = () => {
    const seconds = Math.min(...all("[data-again]").map((one) => Number(one.dataset.again)), Infinity);
    if (!Number.isFinite(seconds)) return;
    setTimeout(async () => {
      const writing = document.activeElement?.matches("input[type=search], input[type=text]");
      try { if (!document.hidden && !writing) await fetchParts(location.href); } catch { /* the next time */ }
      again();
    }, seconds * 1000);
  };

  const filters = () => {
    for (const form of all("form[data-filter]")) {
      let timer = 0;
      const go = () => {
        const pairs = [...new FormData(form)].filter(([, value]) => value !== "");
        const query = new URLSearchParams(pairs).toString();
        const address = `${form.getAttribute("action") || location.pathname}${query ? `?${query}` : ""}`;
        history.replaceState(null, "", address);
        fetchParts(address).catch(() => { location.assign(address); });
      };
      form.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(go, 120); });
      form.addEventListener("submit", (event) => {
        if (event.submitter?.form !== form) { event.preventDefault(); clearTimeout(timer); go(); }
      });
    }
  };

  // A curve takes new points; false where they do not fit its axes.
  const SVG = "http://www.w3.org/2000/svg";
  const BOX = { width: 400, height: 214, left: 46, right: 10, top: 12, bottom: 26 };
  const grow = (chart, added) => {
    const [xHigh, yLow, yHigh] = JSON.parse(chart.dataset.scale);
    const points = JSON.parse(chart.dataset.points).concat(added);
    if (added.some(([x, y]) => x > xHigh || y < yLow || y > yHigh) || points.length > 400) return false;
    const x = (value) => (BOX.left + (BOX.width - BOX.left - BOX.right) * value / xHigh).toFixed(1);
    const y = (value) => (BOX.height - BOX.bottom - (BOX.height - BOX.top - BOX.bottom) * (value - yLow) / (yHigh - yLow)).toFixed(1);
    const line = chart.querySelector(".line");
    const curve = line?.querySelector(".curve");
    if (!curve) return false;
    for (const [step, value] of added) {
      const dot = document.createElementNS(SVG, "circle");
      dot.setAttribute("class", "dot new");
      dot.setAttribute("cx", x(step));
      dot.setAttribute("cy", y(value));
      dot.setAttribute("r", "2.4");
      const says = document.createElementNS(SVG, "title");
      says.textContent = `step ${step}: ${Number(value.toPrecision(4))}`;
      dot.append(says);
      line.insertBefore(dot, curve);
    }
    // The centred mean, as report.charts.smoothed has it.
    const half = Math.floor(points.length / 20);
    const smooth = points.map(([step], index) => {
      const near = points.slice(Math.max(0, index - half), index + half + 1);
      return `${x(step)},${y(near.reduce((sum, [, value]) => sum + value, 0) / near.length)}`;
    });
    curve.setAttribute("points", smooth.join(" "));
    chart.dataset.points = JSON.stringify(points);
    return true;
  };

  // New rows of a run, and whatever else changed: then the page's parts are fetched anew.
  const follow = () => {
    const run = document.querySelector("[data-live]");
    if (!run) return;
    let stale = false;  // what is shown lacks something, until the page was fetched
    const look = async () => {
      try {
        if (!document.hidden) {
          const answer = await fetch(`${run.dataset.live}?after=${run.dataset.last}`);
          if (!answer.ok) throw new Error(String(answer.status));
          const found = await answer.json();
          if (found.rows.length) {
            run.dataset.last = String(found.last);
            for (const chart of all("[data-grows]")) {
              const there = new Set(JSON.parse(chart.dataset.points).map(([step]) => step));
              const added = found.rows
                .filter((row) => typeof row[chart.dataset.grows] === "number" && !there.has(row.step))
                .map((row) => [row.step, row[chart.dataset.grows]]);
              if (added.length && !grow(chart, added)) stale = true;
            }
            for (const name of all("[data-steps]")) name.textContent = String(found.steps);
          }
          if (stale || found.mark !== run.dataset.mark) {
            const page = await fetchParts(location.href);
            // Rows may have come since the question before: what is shown now is that page's.
            const theirs = page?.querySelector("[data-live]");
            if (theirs) {
              run.dataset.last = theirs.dataset.last;
              run.dataset.mark = theirs.dataset.mark;
              stale = false;
            }
          }
          for (const one of all("[data-offline]")) one.hidden = true;
        }
      } catch { for (const one of all("[data-offline]")) one.hidden = false; }
      setTimeout(look, Number(run.dataset.every || 2) * 1000);
    };
    setTimeout(look, Number(run.dataset.every || 2) * 1000);
  };

  document.addEventListener("change", chosen);
  chosen();
  filters();
  again();
  follow();
})();
