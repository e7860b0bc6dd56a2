// What can be measured of a page in the browser. Every function returns its findings as a list of strings.

const label = (element) => {
  const id = element.id ? `#${element.id}` : "";
  const names = Array.from(element.classList, (name) => `.${name}`).join("");
  return element.tagName.toLowerCase() + id + names;
};

const quote = (text) => JSON.stringify(text.trim().replace(/\s+/g, " ").slice(0, 60));

const shown = (element) =>
  element.checkVisibility({ opacityProperty: true, visibilityProperty: true, contentVisibilityAuto: true });

// Text for screen readers alone: within a box of hardly any size that cuts it.
const spoken = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const box = e.getBoundingClientRect();
    if (box.width <= 2 && box.height <= 2 && getComputedStyle(e).overflow !== "visible") return true;
  }
  return false;
};

// Visible pieces of text: [text node, its parent, the boxes of its lines].
const texts = () => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script, style, option, title, desc") || !shown(parent)) continue;
    if (spoken(parent)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const boxes = Array.from(range.getClientRects()).filter((box) => box.width > 0 && box.height > 0);
    if (boxes.length) found.push([node, parent, boxes]);
  }
  return found;
};

// colours

const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

const known = new Map();

const rgba = (colour) => { // of any notation: red, green, blue, alpha in 0..1
  if (known.has(colour)) return [...known.get(colour)];
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const parts = Array.from(canvas.getImageData(0, 0, 1, 1).data, (part) => part / 255);
  known.set(colour, parts);
  return [...parts];
};

const over = (front, back) => back.map((part, i) => (i < 3 ? front[3] * front[i] + (1 - front[3]) * part : 1));

const ground = (element) => { // the colour behind its text; null where a picture lies behind it
  const layers = [];
  for (let e = element; e; e = e.parentElement) {
    const style = getComputedStyle(e);
    if (style.backgroundImage !== "none") return null;
    layers.unshift(rgba(style.backgroundColor));
  }
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const canvasColour = dark && getComputedStyle(document.documentElement).colorScheme.includes("dark") ? 0.07 : 1;
  return layers.reduce((back, front) => over(front, back), [canvasColour, canvasColour, canvasColour, 1]);
};

const luminance = (colour) => { // WCAG 2.2, relative luminance
  const [r, g, b] = colour.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};

const ratio = (one, other) => {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};

const faint = (least) => {
  const found = new Set();
  const judge = (words, element, style) => {
    const back = ground(element);
    const ink = element.closest("svg") && element.tagName !== "svg" ? style.fill : style.color;
    let opacity = 1;
    for (let e = element; e; e = e.parentElement) opacity *= Number(getComputedStyle(e).opacity);
    if (back === null) return found.add(`${label(element)}: ${quote(words)} on a picture`);
    const front = rgba(ink);
    front[3] *= opacity;
    const contrast = ratio(over(front, back), back);
    if (contrast < least) found.add(`${label(element)}: ${quote(words)} has a contrast of ${contrast.toFixed(2)}`);
  };
  for (const [node, parent] of texts()) {
    if (!parent.closest(":disabled")) judge(node.data, parent, getComputedStyle(parent));
  }
  for (const field of document.querySelectorAll("input, select, textarea")) {
    if (!shown(field) || field.disabled || ["range", "checkbox", "radio", "color"].includes(field.type)) continue;
    const empty = field.placeholder && !field.value;
    judge(empty ? field.placeholder : "value", field, getComputedStyle(field, empty ? "::placeholder" : null));
  }
  return [...found];
};

const brightness = () => luminance(ground(document.body));

// places

const clips = (element) => { // the nearest ancestor that cuts or scrolls sideways
  for (let e = element.parentElement; e && e !== document.body; e = e.parentElement) {
    if (getComputedStyle(e).overflowX !== "visible" && e.tagName !== "svg") return e;
  }
  return null;
};

const fixed = (element) => {
  for (let e = element; e; e = e.parentElement) if (getComputedStyle(e).position === "fixed") return true;
  return false;
};

// What makes the page wider than the screen.
const spilling = (width) => {
  const boxes = Array.from(document.body.querySelectorAll("*"))
    .filter((e) => shown(e) && !spoken(e))
    .map((e) => [e, label(e), e.getBoundingClientRect()]);
  for (const [node, parent, lines] of texts()) for (const line of lines) boxes.push([parent, quote(node.data), line]);
  const found = boxes
    .filter(([e, , box]) => (box.right > width + 0.5 || (box.left < -0.5 && box.right > 0)) && !clips(e))
    .map(([, name, box]) => `${name} reaches from ${box.left} to ${box.right}`);
  const root = document.documentElement;
  if (root.scrollWidth > width) found.unshift(`the page is ${root.scrollWidth} wide on ${width}`);
  return found;
};

// Text that its own box, or the box of an ancestor that does not scroll, cuts off.
const cut = () => {
  const found = new Set();
  for (const [node, parent, boxes] of texts()) {
    for (let e = parent; e && e !== document.body; e = e.parentElement) {
      const style = getComputedStyle(e), box = e.getBoundingClientRect();
      const sideways = ["hidden", "clip"].includes(style.overflowX), down = ["hidden", "clip"].includes(style.overflowY);
      const beyond = boxes.some(
        (line) =>
          (sideways && (line.right > box.right + 1 || line.left < box.left - 1)) ||
          (down && (line.bottom > box.bottom + 2 || line.top < box.top - 2)),
      );
      if (beyond) found.add(`${quote(node.data)} is cut by ${label(e)}`);
    }
  }
  return [...found];
};

// Text and controls that lie on one another.
const overlapping = () => {
  const parts = [];
  for (const [node, parent, boxes] of texts()) {
    if (fixed(parent)) continue;
    for (const box of boxes) { // ink is lower than the line it stands in
      const ink = [box.left, box.top + 0.2 * box.height, box.right, box.bottom - 0.2 * box.height];
      parts.push([parent, quote(node.data), ink]);
    }
  }
  for (const element of document.querySelectorAll("button, input, select, textarea, img, canvas, summary")) {
    if (!shown(element) || spoken(element) || fixed(element)) continue;
    const box = element.getBoundingClientRect();
    parts.push([element, label(element), [box.left, box.top, box.right, box.bottom]]);
  }
  parts.sort((a, b) => a[2][1] - b[2][1]);
  const found = new Set();
  for (let i = 0; i < parts.length; i++) {
    const [element, name, [left, top, right, bottom]] = parts[i];
    for (let j = i + 1; j < parts.length && parts[j][2][1] < bottom - 1; j++) {
      const [other, otherName, box] = parts[j];
      const across = Math.min(right, box[2]) - Math.max(left, box[0]);
      const along = Math.min(bottom, box[3]) - Math.max(top, box[1]);
      if (across <= 1 || along <= 1 || element.contains(other) || other.contains(element)) continue;
      if (clips(element) !== clips(other)) continue; // what scrolls has boxes where nothing is seen
      if (element.closest("svg.defs")) continue;
      found.add(`${name} and ${otherName} overlap`);
    }
  }
  return [...found];
};

// Controls that are too small for a finger: WCAG 2.2, 2.5.8 (links within a sentence are exempt).
const small = (least) => {
  const side = (e) => Math.min(e.getBoundingClientRect().width, e.getBoundingClientRect().height);
  const target = (e) => (["radio", "checkbox"].includes(e.type) && e.labels.length ? e.labels[0] : e);
  return Array.from(document.querySelectorAll("button, input, select, textarea, summary, [role=button], [role=tab]"))
    .filter((e) => shown(e) && !spoken(e) && side(target(e)) < least)
    .map((e) => `${label(e)} is ${e.getBoundingClientRect().width} x ${e.getBoundingClientRect().height}`);
};

// structure

const structure = () => {
  const found = [];
  if (!document.documentElement.lang) found.push("no lang");
  if (!document.title.trim()) found.push("no title");
  if (document.querySelectorAll("main").length !== 1) found.push("not one main");
  const headings = Array.from(document.querySelectorAll("h1, h2, h3, h4, h5, h6")).filter((e) => shown(e));
  if (headings.filter((e) => e.tagName === "H1").length !== 1) found.push("not one h1");
  let last = 0;
  for (const heading of headings) {
    const level = Number(heading.tagName[1]);
    if (level > last + 1) found.push(`${label(heading)} ${quote(heading.textContent)} comes after h${last}`);
    if (!heading.textContent.trim()) found.push(`${label(heading)} is empty`);
    last = level;
  }
  const ids = Array.from(document.querySelectorAll("[id]"), (e) => e.id);
  for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) found.push(`#${id} stands twice`);
  for (const name of ["for", "aria-labelledby", "aria-describedby", "aria-controls", "aria-activedescendant"]) {
    for (const e of document.querySelectorAll(`[${name}]`)) {
      for (const id of e.getAttribute(name).split(" ").filter(Boolean)) {
        if (!document.getElementById(id)) found.push(`${label(e)} names #${id}, which is not there`);
      }
    }
  }
  for (const e of document.querySelectorAll("[tabindex]")) {
    if (e.tabIndex > 0) found.push(`${label(e)} has tabindex ${e.tabIndex}`);
  }
  return found;
};

// keyboard

const controls = () => // what Tab should reach: all but the members of groups that arrow keys move in
  Array.from(document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]"))
    .filter((e) => e.tabIndex >= 0 && !e.disabled && e.checkVisibility({ visibilityProperty: true }))
    .filter((e) => {
      if (e.type !== "radio" || !e.name) return true; // a group of radio buttons is one stop
      const group = Array.from(document.getElementsByName(e.name)).filter((other) => other.form === e.form);
      return e === (group.find((other) => other.checked) || group[0]);
    });

const unmarked = (element) => {
  const style = getComputedStyle(element);
  if (style.opacity === "0") return null; // something else stands for it, and has to look focused
  const outline = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1 && rgba(style.outlineColor)[3] > 0;
  return outline ? null : `${label(element)} has the focus and no outline`;
};

// Whether the middle of what has the focus can be seen: within the window and under nothing else.
const covered = (element) => {
  const box = element.getBoundingClientRect();
  const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
  if (x < 0 || y < 0 || x > innerWidth || y > innerHeight) return `${label(element)} has the focus out of sight`;
  const top = document.elementsFromPoint(x, y).find((e) => getComputedStyle(e).pointerEvents !== "none");
  if (element.contains(top) || (top && top.contains(element))) return null;
  return `${label(element)} has the focus under ${label(top)}`;
};
