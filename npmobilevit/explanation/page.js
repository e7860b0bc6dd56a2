"use strict";
// Attention by pointer, touch and keyboard. What a test may rely on:
//   #block, #layer, #head          selects; the first head is "mean"
//   input[name=position]           radios, value 0..: the pixel position in a patch whose map lies over #map
//   canvas.position[data-position] the map of each position
//   #map                           focusable: hover, tap, arrow keys, Home and End choose the patch that attends. Its data-row and
//                                  data-column, from 0, of data-rows and data-columns; data-most-row, data-most-column and
//                                  data-most-percent: what it attends to most
//   #map-heat, #map-patch          canvas over the picture, and the frame of the chosen patch
//   #most                          the end of the colours' scale: the largest attention, to one patch
//   #attended                      output: the same in words
//   #attention-live, #attention-static   what is shown with and without this script
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("attention-data").textContent);
  if (!data.blocks.length) return;
  const [block, layer, head, map, heat, frame, end, attended] =
    ["block", "layer", "head", "map", "map-heat", "map-patch", "most", "attended"].map(byId);
  const radios = Array.from(document.querySelectorAll("input[name=position]"));
  const canvases = Array.from(document.querySelectorAll("canvas.position"));
  const at = { row: 0.5, column: 0.5 }; // of the chosen patch, from 0 to 1, so that it stays where it is when the grid changes

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  for (const one of data.blocks) {
    one.queryRows = Math.ceil(one.rows / one.queryStep);
    one.queryColumns = Math.ceil(one.columns / one.queryStep);
    one.keyRows = Math.ceil(one.rows / one.keyStep);
    one.keyColumns = Math.ceil(one.columns / one.keyStep);
    for (const one_layer of one.layers) {
      one_layer.levels = bytes(one_layer.levels); // two a byte, the first in the low half
      one_layer.peaks = bytes(one_layer.peaks); // two bytes each, the low one first
    }
  }

  const chosen = () => data.blocks[block.value];
  const position = () => Number(radios.find((radio) => radio.checked).value);
  const query = (b) => ({
    row: Math.min(b.queryRows - 1, Math.floor(at.row * b.queryRows)),
    column: Math.min(b.queryColumns - 1, Math.floor(at.column * b.queryColumns)),
  });

  // Attention of the chosen patch, at a position, to a patch of each group: the mean of the heads, or one of them.
  function attention(b, place) {
    const { levels, peaks } = b.layers[layer.value];
    const { row, column } = query(b);
    const queries = b.queryRows * b.queryColumns;
    const keys = b.keyRows * b.keyColumns;
    const heads = head.value === "mean" ? Array.from({ length: b.heads }, (_, h) => h) : [Number(head.value)];
    const mean = new Float64Array(keys);
    for (const h of heads) {
      const line = (place * b.heads + h) * queries + row * b.queryColumns + column;
      const peak = ((peaks[2 * line] + 256 * peaks[2 * line + 1]) / 65535) ** 2;
      for (let k = 0; k < keys; k++) {
        const i = line * keys + k;
        const level = i % 2 ? levels[i >> 1] >> 4 : levels[i >> 1] & 15;
        mean[k] += (peak * (level / 15) ** 2) / heads.length;
      }
    }
    return mean;
  }

  function paint(canvas, b, values) {
    canvas.width = b.columns;
    canvas.height = b.rows;
    const context = canvas.getContext("2d");
    const most = Math.max(...values);
    values.forEach((value, k) => {
      const colour = data.colours[Math.round((data.colours.length - 1) * Math.sqrt(value / most))];
      context.fillStyle = `rgb(${colour})`;
      const row = Math.floor(k / b.keyColumns);
      context.fillRect((k % b.keyColumns) * b.keyStep, row * b.keyStep, b.keyStep, b.keyStep);
    });
  }

  const span = (name, index, step, count) => {
    const first = index * step + 1;
    const last = Math.min(count, first + step - 1);
    return first === last ? `${name} ${first}` : `${name}s ${first} to ${last}`;
  };
  const place = (b, row, column, step) =>
    `${span("row", row, step, b.rows)}, ${span("column", column, step, b.columns)}`;
  const percent = (share, below = 0.1) => `${(100 * share).toFixed(share < below ? 1 : 0)}%`;

  function tell(b, values) {
    const { row, column } = query(b);
    const most = Math.max(...values);
    const single = head.value !== "mean" && values.indexOf(most) === values.lastIndexOf(most);
    const shares = Array.from(values, (value, k) => {
      const r = Math.floor(k / b.keyColumns);
      const c = k % b.keyColumns;
      const size = (index, step, count) => Math.min(step, count - index * step);
      const exact = single && value === most; // all other values are rounded to levels
      return { r, c, exact, share: value * size(r, b.keyStep, b.rows) * size(c, b.keyStep, b.columns) };
    }).sort((one, other) => other.share - one.share);
    const [first, ...others] = shares.slice(0, 3);
    const which = head.value === "mean" ? "all heads together" : `head ${Number(head.value) + 1}`;
    const [py, px] = b.offsets[position()];
    const told = ({ r, c, exact, share }) =>
      `${place(b, r, c, b.keyStep)} (${exact ? percent(share) : `about ${percent(share, 0.01)}`})`;
    const rest = others.map(told).join("; then ");
    const even = percent(Math.min(1, b.keyStep ** 2 / (b.rows * b.columns)));
    attended.textContent =
      `Patch ${place(b, row, column, b.queryStep)}, pixel position (${py}, ${px}), ${which}: ` +
      (b.rows * b.columns === 1
        ? "there is only one patch, and it attends to itself."
        : `most attention to ${told(first)}` +
          `${rest ? `; then ${rest}` : ""}. Spread evenly, each would have ${even}.`);
    Object.assign(map.dataset, {
      row, column, rows: b.queryRows, columns: b.queryColumns,
      mostRow: first.r, mostColumn: first.c, mostPercent: (100 * first.share).toFixed(2),
    });
  }

  function show() {
    const b = chosen();
    canvases.forEach((canvas) => paint(canvas, b, attention(b, Number(canvas.dataset.position))));
    const values = attention(b, position());
    paint(heat, b, values);
    const most = Number((100 * Math.max(...values)).toPrecision(2));
    end.textContent = `${head.value === "mean" ? "about " : ""}${most}% attention to one patch`;
    const { row, column } = query(b);
    const side = (index, count) => {
      const first = index * b.queryStep;
      return [(100 * first) / count, (100 * Math.min(b.queryStep, count - first)) / count];
    };
    const [[top, height], [left, width]] = [side(row, b.rows), side(column, b.columns)];
    Object.assign(frame.style, { top: `${top}%`, height: `${height}%`, left: `${left}%`, width: `${width}%` });
    tell(b, values);
  }

  function fill(select, texts, values) {
    const before = select.value;
    select.replaceChildren(...texts.map((text, i) => new Option(text, values[i])));
    if (values.map(String).includes(before)) select.value = before;
  }

  function choose() {
    const b = chosen();
    fill(layer, b.layers.map((_, i) => `${i + 1} of ${b.layers.length}`), b.layers.map((_, i) => i));
    const heads = Array.from({ length: b.heads }, (_, h) => h);
    fill(head, ["mean of all", ...heads.map((h) => `${h + 1} of ${b.heads}`)], ["mean", ...heads]);
    show();
  }

  function point(event) {
    const box = map.getBoundingClientRect();
    const b = chosen();
    const inside = (value) => Math.min(1, Math.max(0, value));
    // the last group of a row or column may have fewer patches than the others
    const group = (share, count, step, groups) => (Math.min(groups - 1, Math.floor((share * count) / step)) + 0.5) / groups;
    at.row = group(inside((event.clientY - box.top) / box.height), b.rows, b.queryStep, b.queryRows);
    at.column = group(inside((event.clientX - box.left) / box.width), b.columns, b.queryStep, b.queryColumns);
    show();
  }

  const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -Infinity], End: [0, Infinity] };
  function press(event) {
    const move = MOVES[event.key];
    if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const b = chosen();
    const { row, column } = query(b);
    const within = (index, groups) => (Math.min(groups - 1, Math.max(0, index)) + 0.5) / groups;
    at.row = within(row + move[0], b.queryRows);
    at.column = within(column + move[1], b.queryColumns);
    show();
  }

  map.addEventListener("pointermove", (event) => event.pointerType === "mouse" && point(event));
  map.addEventListener("pointerdown", point);
  map.addEventListener("keydown", press);
  block.addEventListener("change", choose);
  for (const control of [layer, head, ...radios]) control.addEventListener("change", show);
  byId("attention-live").hidden = false;
  byId("attention-static").hidden = true;
  addEventListener("pageshow", choose); // by then the browser has put back what was chosen before
})();
