"use strict";
// Opens the runs of a page, draws its charts with BokehJS, and its pictures on canvases. All that it shows is data: it
// becomes text or numbers, except for the sections of runs, which mpt made and escaped.
(async () => {
  const MANY = 14; // lines for which there is no room in a legend
  const nonce = document.currentScript.nonce;
  const unpack = async (id) => {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const colourOf = (line) => colour(line.colour === "dense" ? "dense" : `c${line.colour % 8}`);
  const make = (tag, parent, properties = {}) => parent.appendChild(Object.assign(document.createElement(tag), properties));
  const plain = (text) => String(text).replace(/\$\$|\\[([]/g, (mark) => `${mark[0]}\u200b${mark[1]}`); // no TeX for Bokeh
  const data = JSON.parse(await unpack("data"));

  let library; // a promise of BokehJS, once something asks for it
  const bokeh = () => (library ??= (async () => {
    make("script", document.head, { nonce, textContent: await unpack("library") });
    Bokeh.set_log_level("warn");
  })());

  // ---- charts

  const drawn = new Map(); // figure element -> its chart
  const place = (line, chart) => { // of bars: side by side within a group
    const bars = chart.lines.length, offset = (chart.lines.indexOf(line) - (bars - 1) / 2) * (0.8 / bars);
    return line.x.map((name) => chart.factors.indexOf(name) + 0.5 + offset);
  };
  const format = (value) => (Number.isInteger(value) ? String(value) : Number(value.toPrecision(4)).toString());

  function source(line, chart) {
    const x = line.across ? [] : chart.factors ? place(line, chart) : line.x;
    const range = (i) => (line.low && line.low[i] !== line.high[i] ? `, ${format(line.low[i])} to ${format(line.high[i])}` : "");
    return new Bokeh.ColumnDataSource({ data: {
      x, y: line.y, low: line.low ?? line.y, high: line.high ?? line.y,
      label: line.y.map(() => plain(line.label)),
      at: line.y.map((_, i) => (line.across ? "everywhere" : typeof line.x[i] === "number" ? format(line.x[i]) : plain(line.x[i]))),
      value: line.y.map((y, i) => format(y) + range(i)), n: line.y.map((_, i) => String(line.n?.[i] ?? "")),
    } });
  }

  function addLine(figure, line, chart) {
    const c = colourOf(line), rows = source(line, chart), x = { field: "x" }, y = { field: "y" };
    const parts = [], spread = line.low && line.low.some((low, i) => low !== line.high[i]);
    let target;
    if (chart.factors) {
      target = figure.vbar({ x, top: y, bottom: 0, width: 0.74 / chart.lines.length, source: rows, fill_color: c, line_color: null });
    } else if (line.across) {
      line.y.forEach((at) => parts.push(figure.line(chart.span, [at, at], { line_color: c, line_width: 2, line_dash: "dotted" })));
      target = figure.scatter(chart.span.flatMap((end) => line.y.map(() => end)), [...line.y, ...line.y], { size: 1, fill_alpha: 0, line_alpha: 0 });
    } else {
      const joined = chart.joined ?? true, marked = line.x.length <= 30;
      if (joined) parts.push(figure.line(x, y, { source: rows, line_color: c, line_width: 2 }));
      target = figure.scatter(x, y, { source: rows, size: marked ? 7 : 9, fill_color: c, line_color: null, fill_alpha: marked ? 1 : 0 });
      target.nonselection_glyph = null;
    }
    if (spread && !line.across) {
      parts.push(figure.segment({ field: "x" }, { field: "low" }, { field: "x" }, { field: "high" }, { source: rows, line_color: chart.factors ? colour("text") : c, line_width: 1.5 }));
    }
    return { target, rows, parts: [target, ...parts] };
  }

  function style(figure, chart) {
    for (const [axis, label] of [[figure.xaxis, chart.x], [figure.yaxis, chart.y]]) {
      Object.assign(axis, {
        axis_label: plain(label), axis_label_text_color: colour("faint"), axis_label_text_font_style: "normal",
        axis_label_text_font_size: "12px", major_label_text_color: colour("faint"), major_label_text_font_size: "11px",
        axis_line_color: colour("rule"), major_tick_line_color: colour("rule"), minor_tick_line_color: null,
      });
    }
    for (const grid of [figure.xgrid, figure.ygrid]) grid.grid_line_color = colour("rule");
    figure.xgrid.grid_line_alpha = 0;
    if (chart.x === "epoch") figure.xaxis.ticker = new Bokeh.AdaptiveTicker({ min_interval: 1, mantissas: [1, 2, 5] });
    if (chart.factors) {
      const few = chart.factors.length <= 24, places = chart.factors.map((_, i) => i + 0.5);
      figure.xaxis.ticker = new Bokeh.FixedTicker({ ticks: few ? places : [] });
      figure.xaxis.major_label_overrides = new Map(chart.factors.map((name, i) => [i + 0.5, plain(name)]));
      figure.xaxis.major_label_orientation = chart.factors.join("").length > 40 ? 0.9 : 0;
    }
  }

  async function draw(host) {
    const chart = host.chart;
    host.begun = true;
    await bokeh();
    host.querySelector(".plot")?.remove();
    const plot = make("div", host, { className: "plot" });
    host.querySelector(".keys") && host.append(host.querySelector(".keys"));
    const xs = chart.lines.flatMap((line) => (line.across ? [] : line.x)).filter((v) => typeof v === "number");
    chart.span = xs.length ? [Math.min(...xs), Math.max(...xs)] : [0, 1];
    if (chart.span[0] === chart.span[1]) chart.span = [chart.span[0] - 1, chart.span[1] + 1];
    const figure = Bokeh.Plotting.figure({
      height: 240, sizing_mode: "stretch_width", title: null, toolbar_location: null, tools: [],
      x_axis_type: chart.log ? "log" : "linear", background_fill_color: null, border_fill_color: null,
      outline_line_color: null, min_border_right: 8,
      ...(chart.factors ? { x_range: new Bokeh.Range1d({ start: 0, end: chart.factors.length }) } : {}),
    });
    if (chart.factors) figure.y_range.start = 0;
    const lines = chart.lines.map((line) => addLine(figure, line, chart));
    style(figure, chart);
    const shown = chart.lines.some((line) => line.n) ? [["n", "@n"]] : [];
    const targets = lines.filter((_, i) => !chart.lines[i].across).map((line) => line.target);
    figure.add_tools(new Bokeh.HoverTool({ renderers: targets, tooltips: [["", "@label"], [plain(chart.x), "@at"], [plain(chart.y), "@value"], ...shown] }));
    if (chart.lines.some((line) => line.link)) {
      figure.add_tools(new Bokeh.TapTool({ renderers: targets }));
      lines.forEach(({ rows }, i) => rows.selected.properties.indices.change.connect(() => {
        if (rows.selected.indices.length) { rows.selected.indices = []; location.hash = chart.lines[i].link; }
      }));
    }
    host.lines = lines;
    show(host);
    await Bokeh.Plotting.show(figure, plot);
    host.dataset.drawn = "";
  }

  function show(host) { // the chosen lines, or all if none is chosen
    const chosen = host.chosen;
    host.lines?.forEach(({ parts }, i) => parts.forEach((part) => { part.visible = !chosen.size || chosen.has(i); }));
    host.querySelectorAll(".keys button").forEach((key, i) => key.setAttribute("aria-pressed", String(!chosen.size || chosen.has(i))));
  }

  function legend(host) {
    const { lines } = host.chart;
    if (lines.length > MANY || (lines.length < 2 && !lines[0].n)) return;
    const keys = make("div", host, { className: "keys" });
    lines.forEach((line, i) => {
      const key = make("button", keys, { type: "button", title: "show this line alone, or with others" });
      make("i", key).style.setProperty("--key", `var(--${line.colour === "dense" ? "dense" : `c${line.colour % 8}`})`);
      make("span", key, { textContent: line.label });
      key.addEventListener("click", () => { host.chosen.has(i) ? host.chosen.delete(i) : host.chosen.add(i); show(host); });
    });
  }

  const seen = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
    seen.unobserve(target);
    draw(target);
  }), { rootMargin: "300px" });

  const idle = window.requestIdleCallback ?? ((act) => setTimeout(act, 200)); // Safari has none
  const drawRest = () => idle(async () => { // so that print has them too; those of closed sections wait
    const host = [...drawn.keys()].find((each) => !each.begun && each.getClientRects().length);
    if (!host) return;
    seen.unobserve(host);
    await draw(host);
    drawRest();
  });

  // ---- pictures

  const mix = (a, b, share) => {
    const [from, to] = [a, b].map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
    return `rgb(${from.map((v, i) => Math.round(v + share * (to[i] - v))).join(",")})`;
  };

  function paint(host) {
    const picture = host.picture, { shape, cells } = picture;
    host.querySelector("canvas")?.remove();
    const canvas = make("canvas", host), context = canvas.getContext("2d");
    host.prepend(canvas);
    const level = (i) => cells.charCodeAt(i) - 48, output = host.querySelector("output");
    let locate;
    if (picture.kind === "kernels") {
      const [filters, channels, height, width] = shape, signed = (i) => (2 * level(i)) / picture.top - 1;
      const cell = Math.max(1, Math.min(8, Math.floor(64 / Math.max(height, width)))), gap = cell > 2 ? 5 : 2;
      const tile = channels * (width * cell + 1) + gap, columns = Math.max(1, Math.min(filters, Math.floor(760 / tile)));
      const high = height * cell + gap;
      canvas.width = columns * tile - gap; canvas.height = Math.ceil(filters / columns) * high - gap;
      const size = filters * channels * height * width;
      for (let i = 0; i < size; i++) {
        const x = i % width, y = Math.floor(i / width) % height, c = Math.floor(i / (width * height)) % channels;
        const f = Math.floor(i / (width * height * channels)), v = signed(i);
        context.fillStyle = mix(colour("zero"), colour(v < 0 ? "minus" : "plus"), Math.abs(v));
        context.fillRect((f % columns) * tile + c * (width * cell + 1) + x * cell, Math.floor(f / columns) * high + y * cell, cell, cell);
      }
      locate = (px, py) => {
        const f = Math.floor(px / tile) + columns * Math.floor(py / high), c = Math.floor((px % tile) / (width * cell + 1));
        const x = Math.floor(((px % tile) % (width * cell + 1)) / cell), y = Math.floor((py % high) / cell);
        if (f >= filters || c >= channels || x >= width || y >= height) return "\u00a0";
        const v = picture.scale * signed(((f * channels + c) * height + y) * width + x);
        return `filter ${f + 1}, channel ${c + 1}, row ${y + 1}, column ${x + 1}: ${v > 0 ? "+" : v < 0 ? "−" : ""}${format(Math.abs(v))}`;
      };
    } else {
      const [rows, columns] = shape, [outputs, inputs] = picture.of;
      canvas.width = columns; canvas.height = rows;
      canvas.style.aspectRatio = `${columns} / ${rows}`;
      const narrow = Math.min(1, Math.max(0.12, columns / rows));
      if (narrow < 1) canvas.style.width = `${100 * narrow}%`;
      if (rows / columns < 0.06) canvas.style.aspectRatio = "16 / 1";
      if (rows / columns > 8) canvas.style.aspectRatio = "1 / 8";
      for (let i = 0; i < rows * columns; i++) {
        context.fillStyle = mix(colour("low"), colour("high"), level(i) / picture.top);
        context.fillRect(i % columns, Math.floor(i / columns), 1, 1);
      }
      const block = (at, parts, whole) => {
        const from = Math.floor((at * whole) / parts) + 1, to = Math.floor(((at + 1) * whole) / parts);
        return from < to ? `${from}–${to}` : `${from}`;
      };
      locate = (px, py) => {
        const x = Math.min(columns - 1, Math.floor(px)), y = Math.min(rows - 1, Math.floor(py));
        const density = picture.low + (level(y * columns + x) / picture.top) * (picture.high - picture.low);
        return `output ${block(y, rows, outputs)}, input ${block(x, columns, inputs)}: ${format(100 * density)} % kept`;
      };
    }
    host.before ??= output.textContent;
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      output.textContent = locate(((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height);
    });
    canvas.addEventListener("pointerleave", () => { output.textContent = host.before; });
  }

  // ---- sections

  function prepare(root, charts, pictures) {
    root.querySelectorAll("[data-chart]").forEach((host) => {
      Object.assign(host, { chart: charts[host.dataset.chart], chosen: new Set() });
      make("div", host, { className: "plot" });
      legend(host);
      drawn.set(host, host.chart);
      seen.observe(host);
    });
    root.querySelectorAll("[data-picture]").forEach((host) => {
      host.picture = pictures[host.dataset.picture];
      paint(host);
    });
    drawRest();
  }

  function open(section) {
    if (section.dataset.ready !== undefined) return;
    section.dataset.ready = "";
    const run = data.runs[section.id], body = make("div", section, { innerHTML: run.html });
    prepare(body, run.charts, run.pictures);
  }

  function follow() { // the address: #run-3 opens that run
    const section = document.getElementById(location.hash.slice(1));
    if (section?.tagName !== "DETAILS") return;
    section.open = true;
    open(section);
    section.scrollIntoView();
  }

  prepare(document.querySelector("main"), data.charts, []);
  document.querySelectorAll("section[data-open]").forEach(open);
  document.querySelectorAll("details.run").forEach((section) => section.addEventListener("toggle", () => section.open && open(section)));
  addEventListener("hashchange", follow);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawn.forEach((_, host) => host.dataset.drawn !== undefined && draw(host));
    document.querySelectorAll("[data-picture]").forEach(paint);
  });

  // ---- a page that follows its runs

  const watched = document.body.dataset.watched, memory = `mpt ${location.pathname}`;
  if (watched) {
    const before = JSON.parse(sessionStorage.getItem(memory) ?? "{}");
    sessionStorage.removeItem(memory);
    (before.open ?? []).map((id) => document.getElementById(id)).filter(Boolean).forEach((section) => { section.open = true; open(section); });
    if (before.at !== undefined) scrollTo(0, before.at); else follow();
    setInterval(async () => {
      const answer = await fetch(location.pathname, { method: "HEAD", cache: "no-store" }).catch(() => null);
      if (!answer?.ok || answer.headers.get("ETag") === `"${watched}"`) return;
      const opened = [...document.querySelectorAll("details.run[open]")].map((section) => section.id);
      sessionStorage.setItem(memory, JSON.stringify({ at: scrollY, open: opened }));
      location.reload();
    }, 2000);
  } else follow();
  document.documentElement.dataset.ready = "";
})();
