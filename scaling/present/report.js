// Makes the page live: theme, tables that sort and filter, figures that can be pointed at and zoomed.
// All text from the study enters through textContent; nothing is loaded from anywhere.
"use strict";
const SVG = "http://www.w3.org/2000/svg";
const all = (query, root = document) => [...root.querySelectorAll(query)];
const make = (tag, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
};
const draw = (tag, attributes) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
};
const clamp = (value, low, high) => Math.min(Math.max(value, low), Math.max(low, high));

// Theme: the system's until somebody chooses.
const dark = () => document.documentElement.dataset.theme
  ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const themeButton = document.getElementById("theme");
const nameTheme = () => { if (themeButton) themeButton.textContent = dark() ? "Light" : "Dark"; };
try { const kept = localStorage.getItem("theme"); if (kept) document.documentElement.dataset.theme = kept; } catch { /* not on this disk */ }
themeButton?.addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  try { localStorage.setItem("theme", document.documentElement.dataset.theme); } catch { /* for this visit only */ }
  nameTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
nameTheme();
addEventListener("beforeprint", () => all("details").forEach(d => { d.open = true; }));

// Commands can be copied.
for (const block of all(".copy")) {
  const button = make("button", { type: "button", textContent: "Copy" });
  button.addEventListener("click", async () => {
    const text = block.querySelector("pre").textContent;
    try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(block.querySelector("pre")); button.textContent = "Press Ctrl+C"; }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  block.append(button);
}

// Tables: sort by a heading, filter by words and by conditions such as N>1M.
const UNITS = { k: 1e3, m: 1e6, b: 1e9, t: 1e12 };
const toNumber = text => {
  const found = /^([-+]?[\d.]+(?:e[-+]?\d+)?)([kmbt]?)$/i.exec(text);
  return found ? Number(found[1]) * (UNITS[found[2].toLowerCase()] ?? 1) : NaN;
};
const cellKey = cell => cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
const compare = (a, b) => typeof a === "number" && typeof b === "number"
  ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
const missing = key => key === "-" || Number.isNaN(key);
for (const table of all("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(h => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const keyed = [...body.rows].map(row => [cellKey(row.cells[column]), row]);
    keyed.sort(([a], [b]) => missing(a) - missing(b) || (down ? -1 : 1) * compare(a, b));
    body.append(...keyed.map(([, row]) => row));
  }));
}
const names = all("#runs thead th").map(h => h.textContent.trim());
const columnOf = word => names.findIndex(n => n.toLowerCase() === word || n.toLowerCase().split(/[ [_]/)[0] === word || n.toLowerCase().split(" [")[0] === word);
const ALIAS = { __proto__: null, loss: names.findIndex(n => n.startsWith("C [")) + 1, residual: names.findIndex(n => n.startsWith("from the law")) };
const condition = word => {
  const found = /^([a-z_]+)(<=|>=|<|>|=)(.+)$/i.exec(word);
  const column = found ? (ALIAS[found[1].toLowerCase()] ?? columnOf(found[1].toLowerCase())) : -1;
  if (column < 0) return row => row.textContent.toLowerCase().includes(word.toLowerCase());
  const limit = toNumber(found[3]), test = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
    "=": (a, b) => Math.abs(a - b) <= 0.005 * Math.abs(b) }[found[2]];
  return row => { const key = cellKey(row.cells[column]);
    return Number.isNaN(limit) || typeof key !== "number" ? key.toString().toLowerCase() === found[3].toLowerCase() : test(key, limit); };
};
for (const input of all(".filter input")) {
  const rows = all("#runs tbody tr"), count = input.parentElement.querySelector("output");
  const filter = () => {
    const tests = input.value.trim().split(/\s+/).filter(Boolean).map(condition);
    rows.forEach(row => { row.hidden = !tests.every(test => test(row)); });
    count.textContent = `${rows.filter(r => !r.hidden).length} of ${rows.length} runs`;
  };
  input.addEventListener("input", filter);
  filter();
}

// One run at a time is picked: in the table, in every figure, and in the bar below.
const runRows = all("tr[data-run]"), figures = [];
let picked = null;
const EXPECTED = ["-", "done", "fit"]; // not worth saying
const details = run => {
  const list = make("dl"), cells = runRows[run].cells;
  for (let i = 1; i < names.length; i++) if (!EXPECTED.includes(cells[i].textContent)) list.append(make("dt", { textContent: names[i] }), make("dd", { textContent: cells[i].textContent }));
  return list;
};
const bar = make("div", { id: "picked", hidden: true, role: "region", ariaLabel: "Picked run" });
document.body.append(bar);
const pick = run => {
  picked = run === picked ? null : run;
  runRows.forEach((row, i) => { row.classList.toggle("picked", i === picked); });
  figures.forEach(f => f.show());
  bar.hidden = picked === null;
  if (picked === null) return;
  const button = (textContent, action) => { const b = make("button", { type: "button", textContent }); b.addEventListener("click", action); return b; };
  const link = runRows[run].querySelector("a");
  bar.replaceChildren(make("b", { textContent: runRows[run].cells[0].textContent }), details(run), make("span", {},
    ...(link ? [button("Curve", () => document.querySelector(link.getAttribute("href")).scrollIntoView())] : []),
    button("Row", () => { runRows[run].hidden = false; runRows[run].scrollIntoView({ block: "center" }); }),
    button("Close", () => pick(picked))));
};
for (const row of runRows) row.addEventListener("click", event => {
  if (getSelection().toString() && !event.target.closest("a")) return; // somebody marks text to copy it
  const run = runRows.indexOf(row);
  if (event.target.closest("a") ? picked !== run : true) pick(run);
});
addEventListener("keydown", event => { if (event.key === "Escape" && picked !== null) pick(picked); });

// What is pointed at is said beside it.
const tip = make("div", { id: "tip", hidden: true, role: "status" });
document.body.append(tip);
const say = (mark, at, here) => {
  if (typeof mark === "number") tip.replaceChildren(make("b", { textContent: runRows[mark].cells[0].textContent }), details(mark));
  else { const [first, ...rest] = mark.split("\n"); tip.replaceChildren(...(first ? [make("b", { textContent: first })] : []), ...rest.map(line => make("div", { textContent: line }))); }
  if (here) tip.append(make("div", { className: "note", textContent: here }));
  tip.hidden = false;
  const room = 14, { width, height } = tip.getBoundingClientRect();
  const left = at.x + room + width > innerWidth ? at.x - room - width : at.x + room;
  tip.style.transform = `translate(${clamp(left, 4, innerWidth - width - 4)}px, ${clamp(at.y - height - room < 4 ? at.y + room : at.y - height - room, 4, innerHeight - height - 4)}px)`;
};

// Axes: from places to values and back, ticks and their words.
const valueAt = (axis, share) => axis.log ? axis.lo * (axis.hi / axis.lo) ** share : axis.lo + (axis.hi - axis.lo) * share;
const shareOf = (axis, value) => axis.log ? Math.log(value / axis.lo) / Math.log(axis.hi / axis.lo) : (value - axis.lo) / (axis.hi - axis.lo);
const write = (value, kind, digits = 3) => {
  if (kind === "C") return value.toExponential(Math.max(digits - 2, 0)).replace("e+", "e").replace(/\.0+e/, "e");
  if (kind === "N" || kind === "D") for (const [unit, size] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e3]]) if (Math.abs(value) >= size) return Number((value / size).toPrecision(digits)) + unit;
  return String(Number(value.toPrecision(kind ? digits : digits + 1)));
};
const ticks = (low, high, log) => {
  if (low > high) [low, high] = [high, low];
  if (log && high / low > 4) {
    const found = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) for (const m of high / low > 300 ? [1] : [1, 2, 5]) found.push(m * 10 ** p);
    return found.filter(t => t >= low && t <= high);
  }
  const raw = (high - low) / 5, power = 10 ** Math.floor(Math.log10(raw)), step = power * [1, 2, 5, 10].find(m => m * power >= raw);
  return Array.from({ length: Math.floor(high / step) - Math.ceil(low / step) + 1 }, (_, i) => (Math.ceil(low / step) + i) * step);
};

const DEEPEST = 40, NEAR = 16; // times; CSS pixels within which a mark is meant
class Stage {
  constructor(stage) {
    this.stage = stage;
    this.svg = stage.querySelector("svg");
    this.home = this.svg.getAttribute("viewBox").split(" ").map(Number);
    this.view = [...this.home];
    const data = stage.closest("figure").querySelector("script.marks");
    this.panels = data ? JSON.parse(data.textContent) : [];
    this.panels.forEach(p => { p.lines = p.lines.map(([run, x, y, ...steps]) => {
      const places = [[x / 10, y / 10]];
      for (let i = 0; i < steps.length; i += 2) places.push([x += steps[i], y += steps[i + 1]].map(v => v / 10));
      return { run, places };
    }); });
    this.order = this.panels.flatMap(p => [...p.points].sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(m => [m, p]));
    this.over = draw("svg", { class: "over", "aria-hidden": "true", viewBox: this.home.join(" ") });
    this.where = make("span", { className: "where", hidden: true, ariaHidden: "true" });
    stage.append(this.over);
    this.addTools();
    this.listen();
  }
  get zoom() { return this.home[2] / this.view[2]; }
  addTools() {
    const tools = make("div", { className: "tools" }, this.where), save = make("a", { download: `${this.stage.closest("figure").id}.svg` });
    const button = (textContent, title, action) => { const b = make("button", { type: "button", textContent, title, ariaLabel: title }); b.addEventListener("click", action); tools.append(b); };
    button("+", "Zoom in", () => this.zoomBy(1.6));
    button("\u2212", "Zoom out", () => this.zoomBy(1 / 1.6));
    button("\u21ba", "Whole figure", () => this.reset());
    button("\u2922", "Enlarge or shrink", () => this.stage.closest("figure").classList.toggle("wide"));
    button("\u2193", "Save as SVG", () => { const copy = this.svg.cloneNode(true); copy.setAttribute("viewBox", this.home.join(" "));
      copy.setAttribute("xmlns", SVG); save.href = URL.createObjectURL(new Blob([copy.outerHTML], { type: "image/svg+xml" })); save.click(); });
    (this.stage.closest(".pan") ?? this.stage).before(tools);
  }
  // Places: from the pointer to the figure's own units.
  place(event) {
    const box = this.stage.getBoundingClientRect();
    return [this.view[0] + (event.clientX - box.left) / box.width * this.view[2], this.view[1] + (event.clientY - box.top) / box.height * this.view[3]];
  }
  onScreen([x, y]) {
    const box = this.stage.getBoundingClientRect();
    return { x: box.left + (x - this.view[0]) / this.view[2] * box.width, y: box.top + (y - this.view[1]) / this.view[3] * box.height };
  }
  panelAt([x, y]) {
    const inside = this.panels.filter(({ box: [l, t, r, b] }) => x >= l && x <= r && y >= t && y <= b);
    return inside.sort((a, b) => (a.box[2] - a.box[0]) - (b.box[2] - b.box[0]))[0];
  }
  values(panel, [x, y]) {
    const [l, t, r, b] = panel.box;
    return [panel.x && valueAt(panel.x, (x - l) / (r - l)), panel.y && valueAt(panel.y, (b - y) / (b - t))];
  }
  // The mark nearest to a place; a curve where no mark is near.
  nearest(panel, [x, y]) {
    const unit = this.view[2] / this.stage.clientWidth;
    let best = null, least = NEAR * unit;
    for (const mark of panel.points) {
      const away = Math.hypot(mark[0] - x, mark[1] - y) + (typeof mark[2] === "number" ? 0 : 3 * unit); // a run before what was fitted to it
      if (away < least) { least = away; best = { mark: mark[2], at: mark }; }
    }
    if (best) {
      best.others = panel.points.filter(m => typeof m[2] === "number" && m !== best.at && Math.hypot(m[0] - best.at[0], m[1] - best.at[1]) < 4 * unit).length;
      return best;
    }
    for (const { run, places } of panel.lines) for (let i = 1; i < places.length; i++) {
      const [ax, ay] = places[i - 1], [bx, by] = places[i], length = (bx - ax) ** 2 + (by - ay) ** 2;
      const share = length ? clamp(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length, 0, 1) : 0;
      const at = [ax + share * (bx - ax), ay + share * (by - ay)], away = Math.hypot(at[0] - x, at[1] - y);
      if (away < least) { least = away; best = { mark: run, at, line: true }; }
    }
    return best;
  }
  point(panel, found) {
    this.current = found;
    this.show();
    if (!found) { tip.hidden = true; return; }
    const [x, y] = this.values(panel, found.at);
    const here = found.line && panel.x && panel.y ? `Here: ${panel.x.name} ${write(x, panel.x.kind)}, ${panel.y.name} ${write(y, panel.y.kind)}` : "";
    say(found.mark, this.onScreen(found.at), found.others ? `and ${found.others} more here; zoom in` : here);
  }
  // Rings and curves over the figure, of what is pointed at and what is picked.
  show() {
    const kinds = [["pick", picked], ["", typeof this.current?.mark === "number" ? this.current.mark : null]];
    const unit = this.view[2] / this.stage.clientWidth, shapes = [];
    for (const [kind, run] of kinds) if (run !== null) for (const panel of this.panels) {
      for (const { run: own, places } of panel.lines) if (own === run) shapes.push(this.framed(panel, draw("polyline", { class: kind, points: places.map(p => p.join()).join(" ") })));
      for (const [x, y, mark] of panel.points) if (mark === run) shapes.push(draw("circle", { class: `ring ${kind}`, cx: x, cy: y, r: 7 * unit }));
    }
    if (this.current && typeof this.current.mark !== "number") shapes.push(draw("circle", { class: "ring", cx: this.current.at[0], cy: this.current.at[1], r: 7 * unit }));
    this.stage.classList.toggle("picking", picked !== null && this.panels.some(p => p.lines.some(l => l.run === picked)));
    this.over.replaceChildren(...shapes, ...this.rulers(unit));
  }
  framed({ box: [l, t, r, b] }, shape) {
    const frame = draw("svg", { x: l, y: t, width: r - l, height: b - t, viewBox: [l, t, r - l, b - t].join(" ") });
    frame.append(shape);
    return frame;
  }
  // Zoomed in, the ticks of the axes may be out of sight: say them at the edges.
  rulers(unit) {
    if (this.zoom < 1.02) return [];
    const [x, y, w, h] = this.view, panel = this.panelAt([x + w / 2, y + h / 2]);
    if (!panel?.x || !panel.y) return [];
    const [l, t, r, b] = panel.box, made = [], size = 11 * unit;
    const [lowX, highY] = this.values(panel, [Math.max(x, l), Math.max(y, t)]), [highX, lowY] = this.values(panel, [Math.min(x + w, r), Math.min(y + h, b)]);
    if (b > y + h) for (const v of ticks(lowX, highX, panel.x.log)) made.push([l + shareOf(panel.x, v) * (r - l), y + h - 5 * unit, write(v, panel.x.kind, 4), "middle"]);
    if (l < x) for (const v of ticks(lowY, highY, panel.y.log)) made.push([x + 5 * unit, b - shareOf(panel.y, v) * (b - t) + size / 3, write(v, panel.y.kind, 4), "start"]);
    return made.map(([left, top, words, anchor]) => { const text = draw("text", { x: left, y: top, "font-size": size, "text-anchor": anchor }); text.textContent = words; return text; });
  }
  // Zoom keeps the place under the pointer, and marks, lines and letters their size.
  zoomBy(factor, at = [this.view[0] + this.view[2] / 2, this.view[1] + this.view[3] / 2]) {
    const w = clamp(this.view[2] / factor, this.home[2] / DEEPEST, this.home[2]), k = w / this.view[2];
    this.look([at[0] - (at[0] - this.view[0]) * k, at[1] - (at[1] - this.view[1]) * k, w, this.view[3] * k]);
  }
  look([x, y, w, h]) {
    this.keepStrokes();
    const [X, Y, W, H] = this.home;
    this.view = [clamp(x, X, X + W - w), clamp(y, Y, Y + H - h), w, h];
    for (const svg of [this.svg, this.over]) svg.setAttribute("viewBox", this.view.map(v => v.toFixed(3)).join(" "));
    this.stage.style.setProperty("--z", this.zoom.toFixed(4));
    this.stage.classList.toggle("zoomed", this.zoom > 1.02);
    tip.hidden = true;
    this.show();
  }
  reset() { this.current = null; this.look([...this.home]); }
  keepStrokes() {
    if (this.kept) return;
    this.kept = true;
    for (const node of all("g[clip-path] > use", this.svg)) node.style.transformOrigin = `${node.getAttribute("x")}px ${node.getAttribute("y")}px`;
    for (const node of all("[style*=stroke]", this.svg)) {
      const width = parseFloat(node.style.strokeWidth || (node.style.stroke && node.style.stroke !== "none" ? 1 : NaN));
      if (width && !node.closest(".txt") && !node.matches("g[clip-path] > use")) node.style.strokeWidth = `calc(${width}px / var(--z, 1))`;
      const dashes = node.style.strokeDasharray;
      if (dashes && dashes !== "none") node.style.strokeDasharray = dashes.split(/[ ,]+/).map(d => `calc(${parseFloat(d)}px / var(--z, 1))`).join(", ");
    }
  }
  listen() {
    const down = new Map(), { stage } = this;
    let start = null, moved = false, box = null;
    stage.addEventListener("pointermove", event => {
      if (down.has(event.pointerId)) { this.drag(event, down, start, () => { moved = true; }, b => { box = b; }); return; }
      if (event.pointerType === "touch") return;
      const at = this.place(event), panel = this.panelAt(at);
      this.point(panel, panel ? this.nearest(panel, at) : null);
      this.tell(panel, at);
    });
    stage.addEventListener("pointerdown", event => {
      if (event.button) return;
      down.set(event.pointerId, event);
      [start, moved, box] = [this.place(event), false, null];
      if (this.zoom > 1.02 || down.size > 1) { for (const id of down.keys()) stage.setPointerCapture(id); }
    });
    const up = event => {
      if (!down.delete(event.pointerId)) return;
      if (box && box[2] > this.home[2] / DEEPEST) this.frame(box);
      [start, box] = [null, null];
      this.show();
    };
    stage.addEventListener("pointerup", up);
    stage.addEventListener("pointercancel", up);
    stage.addEventListener("pointerleave", () => { this.where.hidden = true; if (document.activeElement !== stage || !this.keyed) this.point(null, null); });
    stage.addEventListener("click", event => {
      if (moved) return;
      const at = this.place(event), panel = this.panelAt(at), found = panel && this.nearest(panel, at);
      this.point(panel, found);
      if (typeof found?.mark === "number" && event.detail < 2) pick(found.mark);
    });
    stage.addEventListener("dblclick", event => { event.preventDefault(); this.reset(); });
    stage.addEventListener("wheel", event => {
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== stage) return; // the page scrolls on
      event.preventDefault();
      this.zoomBy(Math.exp(-clamp(event.deltaY, -120, 120) * (event.ctrlKey && Math.abs(event.deltaY) < 40 ? 0.01 : 0.0025)), this.place(event));
    }, { passive: false });
    stage.addEventListener("keydown", event => this.key(event));
    stage.addEventListener("blur", () => { this.keyed = false; this.point(null, null); });
  }
  tell(panel, at) {
    this.where.hidden = !(panel?.x && panel.y);
    if (this.where.hidden) return;
    const [x, y] = this.values(panel, at);
    this.where.textContent = `${write(x, panel.x.kind)} · ${write(y, panel.y.kind)}`;
  }
  drag(event, down, start, hasMoved, setBox) {
    const before = down.get(event.pointerId), at = this.place(event), others = [...down.values()].filter(e => e.pointerId !== event.pointerId);
    if (others.length) { // two fingers
      const middle = { clientX: (event.clientX + others[0].clientX) / 2, clientY: (event.clientY + others[0].clientY) / 2 };
      const span = e => Math.hypot(e.clientX - others[0].clientX, e.clientY - others[0].clientY);
      this.zoomBy(span(event) / Math.max(span(before), 1), this.place(middle));
      hasMoved();
    } else if (this.zoom > 1.02) {
      const last = this.place(before);
      this.look([this.view[0] + last[0] - at[0], this.view[1] + last[1] - at[1], this.view[2], this.view[3]]);
      hasMoved();
    } else if (event.pointerType !== "touch" && Math.hypot(at[0] - start[0], at[1] - start[1]) > 4) { // a frame to look into
      const b = [Math.min(at[0], start[0]), Math.min(at[1], start[1]), Math.abs(at[0] - start[0]), Math.abs(at[1] - start[1])];
      this.over.replaceChildren(draw("rect", { x: b[0], y: b[1], width: b[2], height: b[3] }));
      tip.hidden = true;
      getSelection().removeAllRanges();
      setBox(b);
      hasMoved();
    }
    down.set(event.pointerId, event);
  }
  frame([x, y, w, h]) {
    const [, , W, H] = this.home, k = clamp(Math.max(w / W, h / H), 1 / DEEPEST, 1);
    this.look([x + w / 2 - W * k / 2, y + h / 2 - H * k / 2, W * k, H * k]);
  }
  key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (step && event.shiftKey) {
      const across = event.key === "ArrowLeft" || event.key === "ArrowRight", by = step * this.view[across ? 2 : 3] / 6;
      this.look(across ? [this.view[0] + by, ...this.view.slice(1)] : [this.view[0], this.view[1] + by, ...this.view.slice(2)]);
    } else if (step && this.order.length) {
      this.keyed = true;
      const now = this.order.findIndex(([mark]) => mark === this.current?.at);
      const [mark, panel] = this.order[(now + step + this.order.length + (now < 0 && step < 0 ? 1 : 0)) % this.order.length];
      this.point(panel, { mark: mark[2], at: mark });
    } else if (event.key === "Enter" && typeof this.current?.mark === "number") pick(this.current.mark);
    else if (event.key === "+" || event.key === "=") this.zoomBy(1.6);
    else if (event.key === "-") this.zoomBy(1 / 1.6);
    else if (event.key === "0") this.reset();
    else return;
    event.preventDefault();
  }
}
for (const stage of all(".stage")) figures.push(new Stage(stage));
addEventListener("resize", () => figures.forEach(f => f.show()));
addEventListener("scroll", () => { if (!figures.some(f => f.keyed)) tip.hidden = true; }, { passive: true });
