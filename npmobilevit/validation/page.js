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

  order.addEventListener("change", arrange);
  filter.addEventListener("input", sift);
  tools.hidden = false;
  arrange(); // browsers keep what was chosen before a reload
  sift();
})();
