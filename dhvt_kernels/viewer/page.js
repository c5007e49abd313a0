"use strict";

const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);
const { width, height } = facts;
const LINE = "#ffd600";
const SVG = "http://www.w3.org/2000/svg";
const shownFill = () => document.querySelector("[name=fill]:checked").value;
const round = (value, digits) => Number(value.toFixed(digits));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const hex = (color) => "#" + [...Uint8ClampedArray.from(color)].map((c) => (c + 256).toString(16).slice(1)).join("");
const number = (value) => Math.round(value).toLocaleString("en");
const decibel = (value) => (value < Infinity ? `${value.toFixed(1)} dB` : "exact");

/** The arrays that Python packed: 32 bits each, one after the other. */
async function unpack() {
  const packed = Uint8Array.from(atob($("data").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const types = { i: Int32Array, u: Uint32Array, f: Float32Array };
  const arrays = {};
  let offset = 0;
  for (const [name, kind, size] of facts.arrays) {
    arrays[name] = new types[kind](buffer, offset, size);
    offset += 4 * size;
  }
  return arrays;
}

/** The cuts of the tree. A cut is known by its place, 0 the finest; a segment by the node it is. */
class Cuts {
  constructor({ parent, active, tokens, strength, criterion, meanPsnr, gradientPsnr }) {
    Object.assign(this, { parent, active, tokens, strength, criterion, meanPsnr, gradientPsnr });
    this.last = active.length - 1;
    this.node = new Int32Array(parent.length);
  }

  /** The node that holds each node in a cut, in `node`: of the first n nodes those whose parent is none of them. */
  cut(place) {
    const n = this.active[place];
    const { node, parent } = this;
    for (let v = n - 1; v >= 0; v--) node[v] = parent[v] >= 0 && parent[v] < n ? node[parent[v]] : v;
    return node;
  }

  /** The finest cut with at most so many tokens, or else the coarsest. */
  within(tokens) {
    let low = 0;
    let high = this.last;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.tokens[middle] <= tokens) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** The cut whose tokens are nearest on a logarithmic scale. */
  nearest(tokens) {
    const place = this.within(tokens);
    const closer = place > 0 && this.tokens[place - 1] / tokens < tokens / this.tokens[place];
    return closer ? place - 1 : place;
  }
}

/** The boundaries of the finest cut: each arc once, with the segment on its left and on its right. */
class Arcs {
  constructor({ left, right, start, level, length, sides }) {
    Object.assign(this, { left, right, start, level, length, sides });
    this.count = left.length;
    this.first = new Int32Array(this.count + 1); // of the sides
    for (let a = 0; a < this.count; a++) this.first[a + 1] = this.first[a] + length[a];
    this.points = new Int32Array(2 * (sides.length + this.count)); // x, y; those of arc a from 2 (first[a] + a) on
    this.box = new Int32Array(4 * this.count);
    for (let a = 0, p = 0; a < this.count; a++) {
      let [y, x] = [start[2 * a], start[2 * a + 1]];
      let [x0, x1, y0, y1] = [x, x, y, y];
      let across = level[a];
      this.points[p++] = x;
      this.points[p++] = y;
      for (let i = this.first[a]; i < this.first[a + 1]; i++, across = !across) {
        if (across) x += sides[i];
        else y += sides[i];
        this.points[p++] = x;
        this.points[p++] = y;
        [x0, x1, y0, y1] = [Math.min(x0, x), Math.max(x1, x), Math.min(y0, y), Math.max(y1, y)];
      }
      this.box.set([x0, x1, y0, y1], 4 * a);
    }
  }

  /** Calls `use` with each arc between two segments of a cut, and their nodes; -1 is outside. */
  between(node, use) {
    for (let a = 0; a < this.count; a++) {
      const left = this.left[a] < 0 ? -1 : node[this.left[a]];
      const right = this.right[a] < 0 ? -1 : node[this.right[a]];
      if (left !== right) use(a, left, right);
    }
  }

  /** Where an arc starts and ends, as one number each; `a` walks along it, `~a` back. */
  ends(signed) {
    const a = signed < 0 ? ~signed : signed;
    const at = (i) => this.points[2 * i + 1] * (width + 1) + this.points[2 * i];
    const from = at(this.first[a] + a);
    const to = at(this.first[a + 1] + a);
    return signed < 0 ? [to, from] : [from, to];
  }

  /** Path data along arcs, of which each starts where the one before ends. */
  path(walk, close) {
    const [start] = this.ends(walk[0]);
    let data = `M${start % (width + 1)} ${Math.floor(start / (width + 1))}`;
    const steps = [];
    for (const signed of walk) {
      const a = signed < 0 ? ~signed : signed;
      const n = this.length[a];
      for (let i = 0; i < n; i++) {
        const along = signed < 0 ? n - 1 - i : i;
        const across = (this.level[a] + along) % 2 === 1;
        const side = (signed < 0 ? -1 : 1) * this.sides[this.first[a] + along];
        const before = steps[steps.length - 1];
        if (before && before[0] === across) before[1] += side;
        else steps.push([across, side]);
      }
    }
    if (close) steps.pop(); // z draws it
    for (const [across, side] of steps) data += (across ? "h" : "v") + side;
    return close ? data + "z" : data;
  }

  /** Path data of each segment of a cut: filled even-odd they are its pixels, however the rings are put together. */
  outlines(node) {
    const sides = new Map();
    const add = (segment, signed) => {
      if (segment < 0) return;
      if (!sides.has(segment)) sides.set(segment, new Map());
      const starts = sides.get(segment);
      const [from] = this.ends(signed);
      if (starts.has(from)) starts.get(from).push(signed);
      else starts.set(from, [signed]);
    };
    this.between(node, (a, left, right) => {
      add(right, a);
      add(left, ~a);
    });
    const paths = new Map();
    for (const [segment, starts] of sides) {
      let data = "";
      for (const [from, waiting] of starts) {
        while (waiting.length) {
          const ring = [];
          let point = from;
          do {
            const signed = starts.get(point).pop();
            ring.push(signed);
            point = this.ends(signed)[1];
          } while (point !== from);
          data += this.path(ring, true);
        }
      }
      paths.set(segment, data);
    }
    return paths;
  }
}

/** What segments are filled with. */
class Fills {
  constructor({ colors, fills }) {
    Object.assign(this, { colors, fills });
  }

  /** The mean colour of a node as #rrggbb. */
  hex(v) {
    return hex([0, 8, 16].map((shift) => (this.colors[v] >> shift) & 255));
  }

  /** A node's gradient: the colour `base + t slope` at `t = across x + down y`, for the pixel (x, y). */
  gradient(v) {
    const [r, g, b, sr, sg, sb, down, across, cy, cx] = this.fills.subarray(10 * v, 10 * v + 10);
    const t = across * cx + down * cy;
    return { base: [r - t * sr, g - t * sg, b - t * sb], slope: [sr, sg, sb], across, down, center: [cx, cy, t] };
  }

  /** A node's gradient as SVG over points (x, y) of its outline; nothing where it is one colour. */
  svg(v, name, points) {
    const { base, slope, across, down, center } = this.gradient(v);
    // Pixel (x, y) has its centre half a pixel further in the coordinates of the outline.
    const shift = (across + down) / 2;
    let [low, high] = [Infinity, -Infinity];
    for (let i = 0; i < points.length; i += 2) {
      const t = across * points[i] + down * points[i + 1] - shift;
      low = Math.min(low, t);
      high = Math.max(high, t);
    }
    const steepest = Math.max(...slope.map(Math.abs));
    if (!(steepest * (high - low) > 0.5)) return "";
    // Colours stop changing where a channel is full or empty.
    const places = [low, high];
    slope.forEach((s, c) => [0, 255].forEach((limit) => places.push((limit - base[c]) / s)));
    const stops = places
      .filter((t) => t >= low && t <= high)
      .sort((a, b) => a - b)
      .map((t) => `<stop offset="${round((t - low) / (high - low), 4)}" stop-color="${hex(base.map((c, i) => c + t * slope[i]))}"/>`);
    // Near the segment, where rounding turns the axis least.
    const end = (t) => [round(center[0] + 0.5 + (t - center[2]) * across, 3), round(center[1] + 0.5 + (t - center[2]) * down, 3)];
    const [x1, y1] = end(low);
    const [x2, y2] = end(high);
    return (
      `<linearGradient id="${name}" gradientUnits="userSpaceOnUse" x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}">` +
      `${[...new Set(stops)].join("")}</linearGradient>\n`
    );
  }
}


/** The picture in a window of the page: position and scale, and what is painted. */
class Stage {
  constructor(arrays, cuts, arcs, fills) {
    Object.assign(this, { cuts, arcs, fills });
    this.labels = arrays.labels;
    for (let i = width; i < this.labels.length; i++) this.labels[i] += this.labels[i - width];
    this.segments = cuts.active[0];
    this.canvas = $("picture");
    [this.canvas.width, this.canvas.height] = [width, height];
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.image = new ImageData(width, height);
    this.world = $("world");
    this.world.style.width = `${width}px`;
    this.world.style.height = `${height}px`;
    this.lines = $("lines");
    this.scale = 1;
    this.x = this.y = 0;
    this.fitted = true;
    this.stale = { colors: true, lines: true };
    new ResizeObserver(() => (this.fitted ? this.fit() : this.move(0, 0))).observe($("stage"));
  }

  /** Everything is painted at most once for each frame of the screen. */
  repaint(...what) {
    for (const name of what) this.stale[name] = true;
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      const node = this.cuts.node;
      if (this.stale.colors) this.paint(node);
      if (this.stale.lines) this.draw(node);
      this.stale = {};
    });
  }

  paint(node) {
    const shown = shownFill();
    $("original").hidden = shown !== "original";
    this.canvas.hidden = shown === "original";
    if (shown === "gradient") this.paintGradients(node);
    else this.paintColors(node);
    this.context.putImageData(this.image, 0, 0);
  }

  paintColors(node) {
    const table = new Uint32Array(this.segments + 1); // from 1 on, as -1 is no segment
    for (let k = 0; k < this.segments; k++) table[k + 1] = this.fills.colors[node[k]];
    const pixels = new Uint32Array(this.image.data.buffer);
    const labels = this.labels;
    for (let i = 0; i < pixels.length; i++) pixels[i] = table[labels[i] + 1];
  }

  paintGradients(node) {
    const table = new Float64Array(8 * this.segments);
    for (let k = 0; k < this.segments; k++) {
      const { base, slope, across, down } = this.fills.gradient(node[k]);
      table.set([...base, ...slope, across, down], 8 * k);
    }
    const pixels = this.image.data; // rounds and clamps
    const labels = this.labels;
    for (let y = 0, i = 0, p = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++, p += 4) {
        const k = 8 * labels[i];
        if (k < 0) {
          pixels[p + 3] = 0;
          continue;
        }
        const t = table[k + 6] * x + table[k + 7] * y;
        pixels[p] = table[k] + t * table[k + 3];
        pixels[p + 1] = table[k + 1] + t * table[k + 4];
        pixels[p + 2] = table[k + 2] + t * table[k + 5];
        pixels[p + 3] = 255;
      }
    }
  }

  /** Borders as paths, so that they are sharp at every zoom. */
  draw(node) {
    const { width: w, height: h } = this.size;
    const ratio = devicePixelRatio;
    const { lines, arcs, scale } = this;
    [lines.width, lines.height] = [Math.round(w * ratio), Math.round(h * ratio)];
    [lines.style.width, lines.style.height] = [`${w}px`, `${h}px`];
    if (!$("borders").checked) return;
    const context = lines.getContext("2d");
    context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * this.x, ratio * this.y);
    context.strokeStyle = LINE;
    context.lineJoin = "round";
    context.lineWidth = clamp(scale * 0.8, 1, 2) / scale;
    const [x0, x1, y0, y1] = [-this.x / scale, (w - this.x) / scale, -this.y / scale, (h - this.y) / scale];
    const { box, first, points } = arcs;
    let waiting = 0;
    context.beginPath();
    arcs.between(node, (a, left, right) => {
      if (left < 0 || right < 0) return; // the frame of the picture is no border
      if (box[4 * a] > x1 || box[4 * a + 1] < x0 || box[4 * a + 2] > y1 || box[4 * a + 3] < y0) return;
      let p = 2 * (first[a] + a);
      const end = 2 * (first[a + 1] + a);
      context.moveTo(points[p], points[p + 1]);
      for (p += 2; p <= end; p += 2) context.lineTo(points[p], points[p + 1]);
      if (++waiting === 256) {
        context.stroke(); // a path of all arcs takes longer than its parts
        context.beginPath();
        waiting = 0;
      }
    });
    context.stroke();
  }

  get size() {
    const { clientWidth, clientHeight } = $("stage");
    return { width: clientWidth, height: clientHeight };
  }

  place() {
    this.world.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.world.classList.toggle("sharp", this.scale * devicePixelRatio > 1.5);
    this.repaint("lines");
  }

  get fitting() {
    const { width: w, height: h } = this.size;
    return Math.max(Math.min((w - 24) / width, (h - 24) / height), 0.01);
  }

  fit() {
    const { width: w, height: h } = this.size;
    this.scale = this.fitting;
    this.x = (w - width * this.scale) / 2;
    this.y = (h - height * this.scale) / 2;
    this.fitted = true;
    this.place();
  }

  /** Part of the picture always stays in the window. */
  move(dx, dy) {
    const { width: w, height: h } = this.size;
    const margin = 64;
    this.x = clamp(this.x + dx, margin - width * this.scale, w - margin);
    this.y = clamp(this.y + dy, margin - height * this.scale, h - margin);
    this.fitted = false;
    this.place();
  }

  /** Zoom about a point of the window, by default its centre. */
  zoom(factor, x = this.size.width / 2, y = this.size.height / 2) {
    const scale = clamp(this.scale * factor, Math.min(this.fitting, 1) / 2, 64);
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.move(0, 0);
  }
}

/** The picture as shown, as SVG. */
function toSvg(stage, place) {
  const { cuts, arcs, fills } = stage;
  const node = cuts.cut(place);
  const fill = shownFill();
  // Segments are numbered as in Python: in the order of the first of their parts.
  const numbers = new Map();
  for (let k = 0; k < stage.segments; k++) if (!numbers.has(node[k])) numbers.set(node[k], numbers.size);
  const corners = new Map();
  arcs.between(node, (a, left, right) => {
    for (const v of [left, right]) {
      if (!corners.has(v)) corners.set(v, []);
      for (let p = 2 * (arcs.first[a] + a); p < 2 * (arcs.first[a + 1] + a + 1); p++) corners.get(v).push(arcs.points[p]);
    }
  });
  const outlines = arcs.outlines(node);
  let gradients = "";
  let paths = "";
  for (const [v, k] of numbers) {
    const gradient = fill === "gradient" ? fills.svg(v, `g${k}`, corners.get(v)) : "";
    gradients += gradient;
    const paint = fill === "original" ? "none" : gradient ? `url(#g${k})` : fills.hex(v);
    paths += `<path id="s${k}" fill="${paint}" d="${outlines.get(v)}"/>\n`;
  }
  const picture = fill === "original" ? `<image width="${width}" height="${height}" href="${$("original").src}"/>\n` : "";
  let borders = "";
  if ($("borders").checked) {
    arcs.between(node, (a, left, right) => {
      if (left >= 0 && right >= 0) borders += arcs.path([a], false);
    });
    borders = `<path id="borders" fill="none" stroke="${LINE}" stroke-linejoin="round" d="${borders}"/>\n`;
  }
  const defs = gradients && `<defs>\n${gradients}</defs>\n`;
  return (
    `<svg xmlns="${SVG}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">\n` +
    `${defs}${picture}<g fill-rule="evenodd" shape-rendering="crispEdges">\n${paths}</g>\n${borders}</svg>\n`
  );
}

/** The panel below the picture: which cut is shown, and its figures. */
class Panel {
  constructor(cuts, stage) {
    Object.assign(this, { cuts, stage });
    const { tokens } = cuts;
    this.low = Math.log(tokens[cuts.last]);
    this.high = Math.log(tokens[0]);
    $("number").min = tokens[cuts.last];
    $("number").max = tokens[0];
    $("slider").disabled = $("number").disabled = cuts.last === 0;
    const chosen = $("chosen");
    this.chosen = cuts.within(facts.chosen);
    const left = this.position(this.chosen);
    chosen.style.left = `calc(var(--thumb) / 2 + (100% - var(--thumb)) * ${left / 1000})`;
    chosen.classList.toggle("left", left > 600);
    chosen.append(Object.assign(document.createElement("span"), { textContent: `chosen: ${number(tokens[this.chosen])}` }));
    chosen.title = "The cut that the tokenizer chooses with these options";
    chosen.hidden = false;
    $("criterionName").textContent = facts.criterion.toUpperCase();
    this.show(this.chosen);
  }

  /** Of a cut on the slider, 0..1000: logarithmic in the tokens, the coarsest at the left. */
  position(place) {
    const range = this.high - this.low;
    return range > 0 ? (1000 * (Math.log(this.cuts.tokens[place]) - this.low)) / range : 1000;
  }

  show(place) {
    const { cuts } = this;
    this.place = clamp(place, 0, cuts.last);
    cuts.cut(this.place);
    this.describe();
    this.stage.repaint("colors", "lines");
  }

  describe() {
    const { cuts, place } = this;
    const tokens = number(cuts.tokens[place]);
    const psnr = decibel(this.psnr[place]);
    $("tokens").textContent = tokens;
    $("psnr").textContent = psnr;
    $("criterion").textContent = number(cuts.criterion[place]);
    $("strength").textContent = Number(cuts.strength[place].toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
    const slider = $("slider");
    slider.value = this.position(place);
    slider.style.setProperty("--part", `calc(var(--thumb) / 2 + (100% - var(--thumb)) * ${this.position(place) / 1000})`);
    slider.setAttribute("aria-valuetext", `${tokens} tokens, ${psnr}`);
    if (document.activeElement !== $("number")) $("number").value = cuts.tokens[place];
    $("fewer").disabled = place === cuts.last;
    $("more").disabled = place === 0;
    $("stage").setAttribute("aria-label", `Picture in ${tokens} segments`);
    this.plot();
  }

  get psnr() {
    return shownFill() === "gradient" ? this.cuts.gradientPsnr : this.cuts.meanPsnr;
  }

  /** PSNR over the slider's positions. */
  plot() {
    if (this.plotted === this.psnr || this.cuts.last === 0) return;
    this.plotted = this.psnr;
    const finite = this.psnr.filter((value) => value < Infinity);
    const [low, high] = [Math.min(...finite), Math.max(...finite)];
    const points = [];
    this.psnr.forEach((value, place) => {
      const y = high > low ? 100 - (100 * (Math.min(value, high) - low)) / (high - low) : 50;
      points.push(`${this.position(place).toFixed(1)} ${y.toFixed(1)}`);
    });
    $("line").setAttribute("d", `M${points.join("L")}`);
    $("area").setAttribute("d", `M1000 118L${points.join("L")}L0 118z`);
  }

  /** Says the figures to screen readers once the budget rests. */
  say(text) {
    clearTimeout(this.saying);
    this.saying = setTimeout(() => ($("status").textContent = text ?? $("slider").getAttribute("aria-valuetext")), 500);
  }
}

function save(panel, stage) {
  const file = new Blob([toSvg(stage, panel.place)], { type: "image/svg+xml" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = `${facts.name}-${panel.cuts.tokens[panel.place]}.svg`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  panel.say(`${link.download} saved`);
}

/** Pointers: one moves the picture, two also zoom. */
function listenToPointers(stage) {
  const element = $("stage");
  const pointers = new Map();
  const middle = () => {
    const all = [...pointers.values()];
    const mean = (axis) => all.reduce((sum, point) => sum + point[axis], 0) / all.length;
    const [x, y] = [mean("x"), mean("y")];
    return { x, y, spread: all.length > 1 ? Math.hypot(all[0].x - all[1].x, all[0].y - all[1].y) : 0 };
  };
  const at = (event) => {
    const box = element.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const release = (event) => {
    pointers.delete(event.pointerId);
    element.classList.toggle("moving", pointers.size > 0);
  };
  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    element.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    element.classList.add("moving");
  });
  element.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = middle();
    pointers.set(event.pointerId, at(event));
    const after = middle();
    if (before.spread > 0 && after.spread > 0) stage.zoom(after.spread / before.spread, before.x, before.y);
    stage.move(after.x - before.x, after.y - before.y);
  });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) element.addEventListener(name, release);
  element.addEventListener("dblclick", (event) => stage.zoom(2, at(event).x, at(event).y));
  const wheel = (event) => {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 32 : 1;
    // A pinch on a touch pad is a wheel with control, in small steps.
    const speed = event.ctrlKey ? 0.01 : 0.0015;
    const { x, y } = at(event);
    stage.zoom(Math.exp(-clamp(event.deltaY * lines, -300, 300) * speed), x, y);
  };
  element.addEventListener("wheel", wheel, { passive: false });
}

/** What a key does where; letters only on the picture and the slider, so that they cannot be pressed by mistake. */
function listenToKeys(stage, panel) {
  const step = (by) => () => panel.show(panel.place + by);
  const budget = (factor) => () => {
    const place = panel.cuts.nearest(panel.cuts.tokens[panel.place] * factor);
    panel.show(place === panel.place ? place - Math.sign(factor - 1) : place);
  };
  const press = (id) => () => $(id).click();
  const fill = (value) => () => document.querySelector(`[name=fill][value=${value}]`).click();
  const both = {
    "+": () => stage.zoom(1.25),
    "=": () => stage.zoom(1.25),
    "-": () => stage.zoom(0.8),
    0: () => stage.fit(),
    "[": step(1),
    "]": step(-1),
    o: fill("original"),
    m: fill("mean"),
    g: fill("gradient"),
    b: press("borders"),
    s: press("save"),
  };
  const picture = {
    ArrowLeft: () => stage.move(48, 0),
    ArrowRight: () => stage.move(-48, 0),
    ArrowUp: () => stage.move(0, 48),
    ArrowDown: () => stage.move(0, -48),
  };
  const slider = {
    ArrowLeft: step(1),
    ArrowDown: step(1),
    ArrowRight: step(-1),
    ArrowUp: step(-1),
    PageDown: budget(0.5),
    PageUp: budget(2),
    Home: () => panel.show(panel.cuts.last),
    End: () => panel.show(0),
  };
  for (const [id, keys] of [["stage", { ...both, ...picture }], ["slider", { ...both, ...slider }]]) {
    $(id).addEventListener("keydown", (event) => {
      const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (event.target !== $(id) || event.ctrlKey || event.metaKey || event.altKey || !act) return;
      event.preventDefault();
      act();
      if (id === "stage") panel.say();
    });
  }
}

function listenToControls(stage, panel) {
  $("slider").addEventListener("input", () => {
    const tokens = Math.exp(panel.low + ($("slider").value / 1000) * (panel.high - panel.low));
    panel.show(panel.cuts.nearest(tokens));
  });
  $("number").addEventListener("input", () => {
    if ($("number").valueAsNumber >= 1) panel.show(panel.cuts.within($("number").valueAsNumber));
  });
  $("number").addEventListener("change", () => {
    $("number").value = panel.cuts.tokens[panel.place];
  });
  const clicks = {
    fewer: () => panel.show(panel.place + 1),
    more: () => panel.show(panel.place - 1),
    chosen: () => panel.show(panel.chosen),
    in: () => stage.zoom(1.5),
    out: () => stage.zoom(1 / 1.5),
    fit: () => stage.fit(),
  };
  for (const [id, act] of Object.entries(clicks)) {
    $(id).addEventListener("click", () => {
      act();
      panel.say();
    });
  }
  $("save").addEventListener("click", () => save(panel, stage));
  $("borders").addEventListener("change", () => stage.repaint("lines"));
  $("fill").addEventListener("change", () => {
    panel.describe();
    stage.repaint("colors");
  });
}

/** The list of keys closes like a menu. */
function listenToHelp() {
  const help = $("help");
  addEventListener("pointerdown", (event) => {
    if (!help.contains(event.target)) help.open = false;
  });
  help.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    help.open = false;
    help.firstElementChild.focus();
  });
}

async function start() {
  const arrays = await unpack();
  const cuts = new Cuts(arrays);
  const all = cuts.tokens[0] < facts.finest ? ` of ${number(facts.finest)}` : "";
  $("size").textContent = `${width} × ${height} · ${cuts.tokens[cuts.last]}–${number(cuts.tokens[0])}${all} tokens`;
  if (all) $("size").title = `Cuts of more than ${number(cuts.tokens[0])} tokens are left out, so that the file stays small`;
  const stage = new Stage(arrays, cuts, new Arcs(arrays), new Fills(arrays));
  const panel = new Panel(cuts, stage);
  listenToPointers(stage);
  listenToKeys(stage, panel);
  listenToControls(stage, panel);
  listenToHelp();
  $("slider").focus();
  document.body.dataset.ready = "";
}

start().catch((error) => {
  const message = Object.assign(document.createElement("p"), { id: "message" });
  message.textContent = `This browser cannot show the page (${error.message}); any of 2023 or later can.`;
  document.querySelector("main").append(message);
});
