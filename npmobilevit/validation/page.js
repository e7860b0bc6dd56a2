"use strict";
(() => {
  const tools = document.getElementById("tools");
  if (!tools) return;
  const [order, filter, shown] = ["order", "filter", "shown"].map((id) => document.getElementById(id));
  const body = document.querySelector("#layers tbody");
  const forward = Array.from(body.rows);
  const worst = forward.slice().sort((a, b) => a.dataset.rank - b.dataset.rank);

  function arrange() {
    body.append(...(order.value === "worst" ? worst : forward));
  }

  function sift() {
    const wanted = filter.value.trim().toLowerCase();
    for (const row of forward) row.hidden = !row.querySelector("code").textContent.toLowerCase().includes(wanted);
    shown.textContent = `${forward.filter((row) => !row.hidden).length} of ${forward.length} shown`;
  }

  function reveal({ target }) { // a row that a link leads to
    const link = target.closest('a[href^="#t"]');
    if (!link || !document.querySelector(link.hash).hidden) return;
    filter.value = "";
    sift();
  }

  function uncover({ target }) { // a row with the focus, from below its own numbers
    body.classList.add("keys");
    const hidden = target.getBoundingClientRect().bottom - target.querySelector(".numbers").getBoundingClientRect().top;
    if (hidden > 0) scrollBy(0, hidden);
  }

  order.addEventListener("change", arrange);
  filter.addEventListener("input", sift);
  document.addEventListener("click", reveal);
  body.addEventListener("focusin", uncover);
  body.addEventListener("mousemove", () => body.classList.remove("keys"));
  addEventListener("pageshow", () => { // after the browser has put back what was chosen on an earlier visit
    if (order.value === "worst") arrange(); // rows that move lose the focus and the place that the address gave them
    sift();
  });
  tools.hidden = false;
})();
