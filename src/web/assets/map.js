// Draws the addresses of a pool as a map in which each cell is an address or a prefix.

// ---- the map ---------------------------------------------------------------------------------

/** Returns the position [x, y] of cell `d` on a Hilbert curve that fills a square of `side` * `side` cells. */
function hilbert(side, d) {
  let [x, y] = [0, 0];
  for (let s = 1; s < side; s *= 2) {
    const rx = 1 & (d / 2);
    const ry = 1 & (d ^ rx);
    if (ry === 0) {
      if (rx === 1) [x, y] = [s - 1 - x, s - 1 - y];
      [x, y] = [y, x];
    }
    x += s * rx;
    y += s * ry;
    d = Math.floor(d / 4);
  }
  return [x, y];
}

/**
 * Arranges 2^bits cells on a grid. Returns {columns, rows, place, cell}: `place` maps a cell to its index in
 * the grid, and `cell` maps an index to its cell.
 */
function layout(bits, rowwise) {
  const columns = 2 ** Math.ceil(bits / 2);
  const rows = 2 ** Math.floor(bits / 2);
  const place = new Uint32Array(columns * rows);
  const cell = new Uint32Array(columns * rows);
  for (let d = 0; d < place.length; d += 1) {
    let [x, y] = [d % columns, Math.floor(d / columns)];
    if (!rowwise) {
      // If `bits` is odd, the grid consists of two squares side by side.
      const square = rows * rows;
      [x, y] = hilbert(rows, d % square);
      x += rows * Math.floor(d / square);
    }
    place[d] = y * columns + x;
    cell[y * columns + x] = d;
  }
  return { columns, rows, place, cell };
}

const CELLS = 16; // the map has at most 2^16 cells
const LABEL = 22; // minimum width of a cell with a label, in pixels
const css = (rgb, alpha = 1) => `rgb(${rgb.join(" ")} / ${alpha})`;

const map = {
  key: null, pool: null, prefixShown: "", gateway: null, views: [], cursor: 0, over: null, rowwise: false, layouts: new Map(), taken: [],

  begin() {
    const canvas = at("map");
    canvas.addEventListener("pointermove", (event) => this.hover(event));
    canvas.addEventListener("pointerleave", () => this.leave());
    canvas.addEventListener("click", (event) => {
      this.cursor = this.under(event);
      this.enter();
    });
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("focus", () => this.point());
    canvas.addEventListener("blur", () => this.point());
    at("zoom-in").addEventListener("click", () => this.enter(true));
    at("zoom-out").addEventListener("click", () => this.out());
    at("order").addEventListener("click", () => {
      this.rowwise = !this.rowwise;
      at("order").setAttribute("aria-pressed", String(this.rowwise));
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(at("board"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  },

  get view() { return this.views.at(-1); },

  /**
   * Sizes of the view (the shown prefix) as powers of 2: it has 2^bits addresses in 2^cells cells, and each
   * cell has 2^shift addresses.
   */
  get sizes() {
    const bits = this.view.bits;
    const cells = Math.min(bits, CELLS);
    return { bits, cells, shift: BigInt(bits - cells) };
  },

  /** Shows a pool's map, zoomed in on the prefix that the URL selects. */
  choose(pool, prefix) {
    const key = pool ? keyOf(pool) : null;
    if (key === this.key && this.view && (prefix ?? "") === this.prefixShown) return;
    if (key !== this.key) this.cursor = 0;
    this.key = key;
    this.views = [];
    this.refresh();
    const wanted = prefix && this.view && this.read(prefix);
    if (wanted) {
      while (this.views.length > 1 && !this.holds(this.view, wanted)) this.views.pop();
      while (this.view.bits > wanted.bits && this.holds(this.view, wanted)) {
        const cell = Number((wanted.base - this.view.base) >> this.sizes.shift);
        const next = this.next(cell);
        if (next.bits >= this.view.bits || next.bits < wanted.bits) break;
        this.views.push(next);
      }
      this.crumbs();
      this.draw();
    }
    this.prefixShown = this.view ? prefix ?? "" : null;
  },

  /** Parses a prefix into {base, bits}; null if it is invalid or not of the pool's address family. */
  read(prefix) {
    const match = prefix.match(/^([\d.]+|[\da-f:]+)\/(\d+)$/);
    if (!match || match[1].includes(":") !== this.v6) return null;
    const bits = (this.v6 ? 128 : 32) - Number(match[2]);
    return bits < 0 ? null : { base: parse(match[1]).value, bits };
  },

  holds(view, inner) {
    return view.bits >= inner.bits && view.base >> BigInt(view.bits) === inner.base >> BigInt(view.bits);
  },

  /** Writes the shown prefix into the URL. */
  remember() {
    const pool = this.pool;
    this.prefixShown = this.views.length > 1 ? this.prefix(this.view) : "";
    route.go({ network: pool.network, range: pool.first, at: this.prefixShown });
  },

  refresh() {
    this.pool = known.pools.find((pool) => keyOf(pool) === this.key) ?? null;
    // Do not draw a map before the leases are loaded: it would show all addresses as free.
    const empty = this.pool === null || known.version === null;
    for (const id of ["map", "legend", "cell", "past", "map-help"]) at(id).hidden = empty;
    at("map-empty").hidden = !empty;
    at("map-empty").textContent = this.pool && root.dataset.ready ? "The leases could not be read, so there is nothing to draw."
      : this.pool ? "loading\u2026" : "The map appears when the first pool exists.";
    for (const id of ["zoom-in", "zoom-out", "order"]) at(id).disabled = empty;
    if (empty) {
      at("crumbs").replaceChildren();
      return;
    }
    past.refresh(this.pool);
    this.gather();
    const inUse = takenOf(this.pool) + this.pool.outside;
    at("map-help").textContent = this.taken.length < inUse && known.more > 0 && !past.rows
      ? `Only ${count(this.taken.length)} of ${count(inUse)} addresses in use are loaded and drawn.`
      : "Arrows move, Enter zooms in or opens an address, Backspace zooms out.";
    if (this.views.length === 0) {
      this.views = [this.around(this.first, this.last)];
      // If the addresses in use fill only a part of a large prefix, begin zoomed in on that part.
      const held = this.taken.filter((row) => row.kind !== "gateway");
      if (this.view.bits > CELLS && held.length) {
        const close = this.around(held[0].value, held.at(-1).value);
        if (close.bits < this.view.bits) this.views.push(close);
      }
    }
    this.crumbs();
    this.draw();
  },

  /** Returns the smallest prefix that contains two addresses. */
  around(first, last) {
    const bits = span(first, last);
    return { base: (first >> BigInt(bits)) << BigInt(bits), bits };
  },

  /** Collects the leased, reserved and cooling addresses of the pool, sorted by address. */
  gather() {
    const { pool } = this;
    const first = parse(pool.first);
    this.v6 = first.v6;
    this.first = first.value;
    this.last = parse(pool.last).value;
    this.allocatable = pool.allocatable.map((ends) => ends.map((end) => parse(end).value));
    const inside = (row) => row.v6 === this.v6 && row.value >= this.first && row.value <= this.last;
    const cooling = past.rows ? [] : known.cooling.filter((row) => row.set === pool.set);
    this.taken = [...(past.rows ?? known.sets.get(pool.set) ?? []), ...cooling].filter(inside);
    if (cooling.length) this.taken.sort(byAddress);
    this.gateway = pool.gateway ? parse(pool.gateway).value : null;
  },

  prefix({ base, bits }) {
    return `${show(base, this.v6)}/${(this.v6 ? 128 : 32) - bits}`;
  },

  crumbs() {
    const items = this.views.map((view, i) => {
      if (i === this.views.length - 1) {
        const here = make("span", "", this.prefix(view));
        here.setAttribute("aria-current", "location");
        return make("li", "", here);
      }
      const button = make("button", "", this.prefix(view));
      button.type = "button";
      button.addEventListener("click", () => this.out(this.views.length - 1 - i));
      return make("li", "", button);
    });
    at("crumbs").replaceChildren(...items);
    at("map-title").textContent = `Addresses of ${nameOf(this.pool)}${past.rows ? `, ${ago(past.time)}` : ""}`;
    at("zoom-out").disabled = this.views.length < 2;
  },

  /** Returns the index of the first collected address that is at least `value`. */
  behind(value) {
    let [low, high] = [0, this.taken.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.taken[middle].value < value) low = middle + 1;
      else high = middle;
    }
    return low;
  },

  /** Returns the collected addresses of a prefix. */
  within({ base, bits }) {
    return this.taken.slice(this.behind(base), this.behind(base + (1n << BigInt(bits))));
  },

  stateOf(row) {
    if (row.kind === "reserved" || row.kind === "aux") return STATE.reserved;
    if (row.kind === "gateway") return STATE.gateway;
    return row.kind === "cooling" ? STATE.cooling : STATE.used;
  },

  /**
   * Computes for each cell its state, its `share` of addresses that are not free (0 to 1), and in `dim`
   * whether the search matches none (1) or some (2) of the cell's addresses.
   */
  states() {
    const { cells, shift } = this.sizes;
    const { base } = this.view;
    const size = 2 ** cells;
    const state = new Uint8Array(size).fill(STATE.outside);
    const share = new Float32Array(size);
    for (const [first, last] of this.allocatable) {
      const from = (first > base ? first - base : 0n) >> shift;
      const to = last >= base ? (last - base) >> shift : -1n;
      if (from < BigInt(size) && to >= from) state.fill(STATE.free, Number(from), Math.min(size, Number(to) + 1));
    }
    const all = Math.min(Number(1n << shift), 1e9);
    const dim = new Uint8Array(size);
    for (const row of this.within(this.view)) {
      const cell = Number((row.value - base) >> shift);
      const now = this.stateOf(row);
      if (shift === 0n || now === STATE.used || state[cell] !== STATE.used) state[cell] = now;
      share[cell] += 1 / all;
      if (table.words.length && (row.kind === "cooling" || !table.matches(row))) dim[cell] = Math.max(dim[cell], 1);
      else dim[cell] = 2;
    }
    // The gateway of a pool may have no lease, so mark its cell here.
    const gateway = this.gateway === null ? -1n : (this.gateway - base) >> shift;
    if (shift === 0n && gateway >= 0n && gateway < BigInt(size)) state[Number(gateway)] = STATE.gateway;
    return { state, share, dim };
  },

  colors() {
    const rgb = (value) => value.match(/[\d.]+/g).slice(0, 3).map(Number);
    const probe = make("i");
    document.body.append(probe);
    const found = {};
    for (const name of [...NAMES, "card", "line", "text", "dim", "focus"]) {
      probe.style.color = `var(--${name})`;
      found[name] = rgb(getComputedStyle(probe).color);
    }
    probe.remove();
    return found;
  },

  get plan() {
    const { cells } = this.sizes;
    const key = `${cells}${this.rowwise}`;
    if (!this.layouts.has(key)) this.layouts.set(key, layout(cells, this.rowwise));
    return this.layouts.get(key);
  },

  /** Draws the map, then the frames of the focused cell and of the cell under the pointer. */
  draw() {
    const canvas = at("map");
    if (!this.pool || !this.view || canvas.hidden || canvas.clientWidth === 0) return;
    const { columns, rows, place } = this.plan;
    canvas.style.aspectRatio = `${columns} / ${rows}`;
    canvas.style.maxWidth = `${Math.min(440, columns * 64)}px`;
    const pixels = canvas.clientWidth * (window.devicePixelRatio || 1);
    const size = Math.max(1, Math.round(pixels / columns));
    const ink = this.colors();
    const { state, share, dim } = this.states();
    const { shift, cells } = this.sizes;
    const blend = (from, to, part) => from.map((value, i) => Math.round(value + (to[i] - value) * part));
    const color = (cell) => {
      const name = NAMES[state[cell]];
      let rgb = ink[name];
      if (shift > 0n && name !== "free" && name !== "outside") rgb = blend(ink.free, rgb, 0.3 + 0.7 * Math.min(1, share[cell]));
      return dim[cell] === 1 ? blend(rgb, ink.free, 0.75) : rgb;
    };
    // Draw each cell as one pixel and enlarge the image, because drawing 65,536 rectangles would be slow.
    const small = new OffscreenCanvas(columns, rows);
    const image = new ImageData(columns, rows);
    for (let cell = 0; cell < place.length; cell += 1) image.data.set([...color(cell), 255], place[cell] * 4);
    small.getContext("2d").putImageData(image, 0, 0);
    this.base = new OffscreenCanvas(columns * size, rows * size);
    const context = this.base.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, this.base.width, this.base.height);
    if (size >= 8) {
      const gap = Math.max(1, Math.round(size / 14));
      context.fillStyle = css(ink.card);
      for (let x = 1; x <= columns; x += 1) context.fillRect(x * size - gap, 0, gap, rows * size);
      for (let y = 1; y <= rows; y += 1) context.fillRect(0, y * size - gap, columns * size, gap);
      for (let cell = 0; shift === 0n && cell < place.length; cell += 1) {
        const [x, y] = [(place[cell] % columns) * size, Math.floor(place[cell] / columns) * size];
        this.pattern(context, state[cell], x, y, size - gap, css(ink.card, this.hasLabels(size) ? 0.35 : 0.75), css(ink.line));
      }
    }
    this.labels(context, state, size, ink);
    this.lines(context, cells, size, columns, rows, css(ink.card, 0.55));
    [canvas.width, canvas.height] = [this.base.width, this.base.height];
    Object.assign(this, { size, ink });
    this.point();
  },

  /** Draws the frames of the focused cell and of the cell under the pointer over the map. */
  point() {
    const canvas = at("map");
    if (!this.base || !this.pool) return;
    const context = canvas.getContext("2d");
    const focused = document.activeElement === canvas;
    context.drawImage(this.base, 0, 0);
    if (focused) this.frame(context, this.cursor, css(this.ink.text), Math.max(2, this.size / 10));
    if (this.over !== null && this.over !== this.cursor) this.frame(context, this.over, css(this.ink.text, 0.7), 2);
    at("zoom-in").disabled = this.sizes.bits <= 4;
    this.tell(focused || this.over === null ? this.cursor : this.over);
  },

  /** Draws a cell's pattern, which distinguishes the states without color. */
  pattern(context, state, x, y, size, light, line) {
    context.fillStyle = light;
    context.strokeStyle = state === STATE.outside ? line : light;
    context.lineWidth = Math.max(1, size / 12);
    context.beginPath();
    if (state === STATE.reserved || state === STATE.outside) {
      context.moveTo(x, y + size);
      context.lineTo(x + size, y);
    } else if (state === STATE.cooling) {
      context.moveTo(x + size / 2, y);
      context.lineTo(x + size / 2, y + size);
    } else if (state === STATE.gateway) {
      context.rect(x + size * 0.3, y + size * 0.3, size * 0.4, size * 0.4);
      context.fill();
      return;
    }
    context.stroke();
  },

  hasLabels(size) {
    return this.sizes.shift === 0n && size >= LABEL * (window.devicePixelRatio || 1);
  },

  /** Labels each cell with the last part of its address, if the cells are large enough. */
  labels(context, state, size, ink) {
    if (!this.hasLabels(size)) return;
    const { columns, place } = this.plan;
    const ratio = window.devicePixelRatio || 1;
    context.font = `${Math.round(Math.min(size * 0.38, 14 * ratio))}px ui-monospace, monospace`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (let cell = 0; cell < place.length; cell += 1) {
      const value = this.view.base + BigInt(cell);
      const text = this.v6 ? (value & 0xffffn).toString(16) : String(value & 255n);
      const dark = ["free", "outside"].includes(NAMES[state[cell]]);
      if (NAMES[state[cell]] === "gateway") continue;
      context.fillStyle = dark ? css(ink.dim) : css(ink.card);
      context.fillText(text, ((place[cell] % columns) + 0.5) * size, (Math.floor(place[cell] / columns) + 0.5) * size);
    }
  },

  /** Draws lines between blocks of 2^8 cells. */
  lines(context, cells, size, columns, rows, style) {
    if (cells <= 8 || this.rowwise) return;
    const block = 16 * size;
    context.strokeStyle = style;
    context.lineWidth = 1;
    context.beginPath();
    for (let x = block; x < columns * size; x += block) { context.moveTo(x + 0.5, 0); context.lineTo(x + 0.5, rows * size); }
    for (let y = block; y < rows * size; y += block) { context.moveTo(0, y + 0.5); context.lineTo(columns * size, y + 0.5); }
    context.stroke();
  },

  frame(context, cell, style, width) {
    const { columns, place } = this.plan;
    const { size } = this;
    context.strokeStyle = style;
    context.lineWidth = width;
    context.strokeRect((place[cell] % columns) * size, Math.floor(place[cell] / columns) * size, Math.max(size, 4), Math.max(size, 4));
  },

  under(event) {
    const { columns, rows, cell } = this.plan;
    const box = at("map").getBoundingClientRect();
    const bound = (value, most) => Math.min(most - 1, Math.max(0, Math.floor(value)));
    const x = bound(((event.clientX - box.left) / box.width) * columns, columns);
    const y = bound(((event.clientY - box.top) / box.height) * rows, rows);
    return cell[y * columns + x];
  },

  /** Returns the prefix that a cell represents. */
  block(cell) {
    const { shift } = this.sizes;
    return { base: this.view.base + (BigInt(cell) << shift), bits: Number(shift) };
  },

  /** Returns the prefix that the map shows after zooming in on a cell. */
  next(cell) {
    const { bits } = this.sizes;
    const next = bits > CELLS + 4 ? bits - 8 : bits > 12 ? bits - 4 : bits > 8 ? 8 : 4;
    const { base } = this.block(cell);
    return { base: (base >> BigInt(next)) << BigInt(next), bits: next };
  },

  describe(cell) {
    const block = this.block(cell);
    const rows = this.within(block);
    if (block.bits > 0) {
      const size = 2 ** block.bits;
      return `${this.prefix(block)}: ${count(rows.length)} of ${count(size)} in use`;
    }
    const name = show(block.base, this.v6);
    const row = rows[0];
    if (row?.kind === "cooling") return `${name}: cooling down, free again ${clock(row.until)} UTC`;
    if (row) {
      const who = row.pod || [brief(row), row.ifname].filter(Boolean).join(" ");
      return [`${name}: ${row.kind}`, who, row.node && `on ${row.node}`, row.time && ago(row.time)].filter(Boolean).join(", ");
    }
    if (block.base === this.gateway) return `${name}: gateway`;
    if (block.base < this.first || block.base > this.last) return `${name}: outside the range`;
    const allocatable = this.allocatable.some(([first, last]) => block.base >= first && block.base <= last);
    return `${name}: ${allocatable ? "free" : "not allocatable: the gateway, or excluded"}`;
  },

  tell(cell) {
    const text = this.describe(cell);
    if (at("cell").textContent !== text) at("cell").textContent = text;
    return text;
  },

  hover(event) {
    const cell = this.under(event);
    const tip = at("tip");
    if (cell !== this.over) {
      this.over = cell;
      requestAnimationFrame(() => this.point());
    }
    let text = this.describe(cell);
    if (this.sizes.bits > 8) {
      const next = this.next(cell);
      text += `\nclick: ${this.prefix(next)}, ${count(this.within(next).length)} of ${count(2 ** next.bits)} in use`;
    }
    tip.textContent = text;
    tip.hidden = false;
    const board = at("board").getBoundingClientRect();
    const x = event.clientX - board.left;
    const y = event.clientY - board.top;
    tip.style.left = `${Math.max(0, Math.min(x + 14, board.width - tip.offsetWidth))}px`;
    tip.style.top = `${y + 18 + tip.offsetHeight > board.height ? y - tip.offsetHeight - 8 : y + 18}px`;
  },

  leave() {
    this.over = null;
    at("tip").hidden = true;
    this.point();
  },

  /** Zooms in at the cursor. If the cells are single addresses, opens the address instead (not if `zoom`). */
  enter(zoom = false) {
    const { bits, shift } = this.sizes;
    if (bits <= 8 && !(zoom && bits > 4)) {
      if (!zoom && shift === 0n) route.go({ address: show(this.block(this.cursor).base, this.v6) });
      return;
    }
    const { base } = this.block(this.cursor);
    this.views.push(this.next(this.cursor));
    this.cursor = Number((base - this.view.base) >> this.sizes.shift);
    this.leave();
    this.crumbs();
    this.draw();
    this.remember();
  },

  out(levels = 1) {
    if (this.views.length < 2) return;
    const { base } = this.block(this.cursor);
    this.views.splice(-Math.min(levels, this.views.length - 1));
    this.cursor = Number((base - this.view.base) >> this.sizes.shift);
    this.crumbs();
    this.draw();
    this.remember();
  },

  press(event) {
    const steps = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    if (event.ctrlKey || event.metaKey || event.altKey || !this.pool) return;
    if (event.key in steps) {
      const { columns, rows, place, cell } = this.plan;
      const [dx, dy] = steps[event.key];
      const x = Math.min(columns - 1, Math.max(0, (place[this.cursor] % columns) + dx));
      const y = Math.min(rows - 1, Math.max(0, Math.floor(place[this.cursor] / columns) + dy));
      this.cursor = cell[y * columns + x];
      this.point();
    } else if (event.key === "Enter" || event.key === " ") this.enter();
    else if (event.key === "+") this.enter(true);
    else if (event.key === "Backspace" || event.key === "-") this.out();
    else if (event.key === "Home") { this.cursor = 0; this.point(); }
    else if (event.key === "End") { this.cursor = this.plan.cell.length - 1; this.point(); }
    else return;
    event.preventDefault();
  },
};


// ---- the map at an earlier time --------------------------------------------------------------

const past = {
  time: "", // the time that the map shows (RFC 3339); empty: now
  rows: null, // the leases of the pool's set at that time
  pool: null, // the key of that pool
  key: "", // the pool and time for which `rows` were requested

  begin() {
    let timer;
    at("time").addEventListener("input", () => {
      const minutes = Number(at("time").value);
      const time = minutes < 0 ? `${new Date(Date.now() + minutes * 60000).toISOString().slice(0, 19)}Z` : "";
      this.tell(time);
      clearTimeout(timer);
      timer = setTimeout(() => route.go({ time }, false), 150);
    });
    at("now").addEventListener("click", () => route.go({ time: "" }));
  },

  /** Sets the range of the slider: from the oldest event in the pool's history until now. */
  refresh(pool) {
    const oldest = pool.trend?.oldest;
    const first = Math.min(...[oldest, this.time].filter(Boolean).map(Date.parse), Date.now());
    const minutes = Math.floor((Date.now() - first) / 60000);
    at("past").classList.toggle("none", minutes < 2);
    at("time").min = -minutes;
    at("time").step = Math.max(1, Math.floor(minutes / 500));
    if (document.activeElement !== at("time")) this.tell(this.time);
    this.load(pool);
  },

  /** Shows the map as it was at a time. */
  show(time = "") {
    if (time === this.time) return;
    this.time = Number.isNaN(Date.parse(time)) ? "" : time;
    this.tell(this.time);
    map.refresh();
    mark();
  },

  tell(time) {
    const text = time ? `${ago(time)}, ${clock(time)} UTC` : "now";
    at("when").textContent = text;
    at("time").setAttribute("aria-valuetext", text);
    at("time").value = time ? (Date.parse(time) - Date.now()) / 60000 : 0;
    at("now").disabled = !time;
  },

  /** Loads the leases of the pool at the chosen time, unless they are loaded already. */
  async load(pool) {
    const key = this.time && `${keyOf(pool)} ${this.time}`;
    if (key === this.key) return;
    this.key = key;
    // Until the leases are loaded, keep showing those of the previously chosen time.
    if (!key || this.pool !== keyOf(pool)) this.rows = null;
    this.pool = keyOf(pool);
    if (!key) return;
    try {
      const query = `history?limit=10000&at=${encodeURIComponent(this.time)}&network=${encodeURIComponent(pool.network)}`;
      const { rows: held } = await pages(query, "events", lease);
      if (this.key !== key) return;
      // A lease that is older than the kept history has no event, so add the current leases that already
      // existed at that time.
      const listed = new Set(held.map((row) => row.address));
      const older = (known.sets.get(pool.set) ?? []).filter((row) => row.time <= this.time && !listed.has(row.address));
      this.rows = [...held, ...older].sort(byAddress);
    } catch (error) {
      if (this.key !== key) return;
      this.key = this.time = "";
      this.rows = null;
      this.tell("");
      at("trouble").textContent = error.message;
      at("trouble").hidden = false;
    }
    map.refresh();
  },
};
