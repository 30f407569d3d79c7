// Shared by all charts. Each chart's output brings its own copy, so a page with many charts or one needs no order.
const wb = {
  // Light or dark by what is really behind the chart: JupyterLab, nbconvert and plain pages signal it differently.
  theme(root) {
    const apply = () => {
      let rgb = null;
      for (let node = root.parentElement; node && !rgb; node = node.parentElement) {
        const found = getComputedStyle(node).backgroundColor.match(/[\d.]+/g);
        if (found && (found.length < 4 || Number(found[3]) > 0.5)) rgb = found.map(Number);
      }
      const dark = rgb
        ? 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] < 128
        : matchMedia("(prefers-color-scheme: dark)").matches &&
          getComputedStyle(document.documentElement).colorScheme.includes("dark");
      root.dataset.theme = dark ? "dark" : "light";
    };
    apply();
    new MutationObserver(apply).observe(document.body, {
      attributes: true, attributeFilter: ["class", "style", "data-jp-theme-light", "data-jp-theme-name"],
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  },
  make(tag, name, parent, text) {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  },
  number: (value) => Math.round(value).toLocaleString("en-US"),
  duration(ns) {
    const size = Math.abs(ns);
    const [scale, unit] = size >= 1e9 ? [1e9, "s"] : size >= 1e6 ? [1e6, "ms"] : size >= 1e3 ? [1e3, "µs"] : [1, "ns"];
    return `${Number((ns / scale).toPrecision(4))} ${unit}`;
  },
  amount: (value, unit) => (unit === "ns" ? wb.duration(value) : `${wb.number(value)} ${unit}`),
  ink(color) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
    return 0.299 * r + 0.587 * g + 0.114 * b < 120 ? "#ffffff" : "#1b1b1b";
  },
  // What a reader types is a regular expression where it can be one, else plain text.
  pattern(text) {
    try { return text ? new RegExp(text, "i") : null; }
    catch { return new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "i"); }
  },
  legend(parent, entries) {
    const list = wb.make("div", "wb-legend", parent);
    for (const [name, color] of entries) {
      const item = wb.make("span", "", list);
      wb.make("i", "", item).style.background = color;
      item.append(name);
    }
  },
  tip(root, text, x, y) {
    let tip = root.querySelector(".wb-tip");
    if (!text) { tip?.remove(); return; }
    tip ??= wb.make("div", "wb-tip", root);
    tip.textContent = text;
    const box = root.getBoundingClientRect();
    const left = Math.min(x - box.left + 12, box.width - tip.offsetWidth - 4);
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${y - box.top + 16}px`;
  },
  // A canvas over time with zoom by dragging, buttons and keys. `paint(view)` draws what lies between view.from and
  // view.to, `under(px, py, view)` says what is at a place. Times are in units of data.tick ns, 0 to data.length.
  timePlot(root, data, { left, height, paint, under }) {
    const AXIS = 20;
    let from = 0, to = data.length, drag = null;
    const bar = wb.make("div", "wb-bar", root);
    const button = (text, label, act) => {
      const made = wb.make("button", "", bar, text);
      made.type = "button";
      made.setAttribute("aria-label", label);
      made.title = label;
      made.addEventListener("click", act);
      return made;
    };
    button("−", "Zoom out", () => zoom(2));
    button("+", "Zoom in", () => zoom(0.5));
    button("←", "Earlier", () => pan(-0.25));
    button("→", "Later", () => pan(0.25));
    const reset = button("Reset zoom", "Show the whole recording", () => show(0, data.length));
    const status = wb.make("span", "wb-status", bar);
    status.setAttribute("role", "status");
    wb.legend(root, data.legend);
    const plot = wb.make("div", "wb-plot", root);
    const canvas = wb.make("canvas", "", plot);
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${data.title}. Left and right move, plus and minus zoom, Escape shows all.`);

    const seconds = (units) => (units * data.tick) / 1e9;
    const width = () => Math.max(300, plot.clientWidth || 900);
    const x = (time) => left + ((time - from) / (to - from)) * (width() - left - 4);
    const timeAt = (px) => from + ((px - left) / (width() - left - 4)) * (to - from);
    const view = () => ({ from, to, width: width(), bottom: height - AXIS, x, timeAt, seconds });

    function show(low, high) {
      const size = Math.min(Math.max(high - low, Math.min(20, data.length)), data.length);
      from = Math.min(Math.max(0, low), data.length - size);
      to = from + size;
      draw();
    }
    function zoom(factor, at = (from + to) / 2) { show(at - (at - from) * factor, at + (to - at) * factor); }
    function pan(part) { const step = (to - from) * part; show(from + step, to + step); }

    function axis(context, style, bottom) {
      const rough = seconds(to - from) / Math.max(2, (width() - left) / 110);
      const power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
      const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
      context.textAlign = "center";
      for (let k = Math.ceil(seconds(from) / step); k * step <= seconds(to) + 1e-12; k++) {
        const at = Math.round(x((k * step * 1e9) / data.tick)) + 0.5;
        context.strokeStyle = style.line;
        context.beginPath(); context.moveTo(at, 0); context.lineTo(at, bottom); context.stroke();
        context.fillStyle = style.soft;
        context.fillText(`${(k * step).toFixed(digits)} s`, Math.min(Math.max(at, left), width() - 18), bottom + 14);
      }
    }

    function draw() {
      const { context, style } = wb.canvas(root, canvas, width(), height);
      axis(context, style, height - AXIS);
      const note = paint({ ...view(), context, style });
      if (drag && drag.now !== drag.start) {
        context.fillStyle = "rgba(0, 114, 178, 0.25)";
        context.fillRect(Math.min(drag.start, drag.now), 0, Math.abs(drag.now - drag.start), height - AXIS);
      }
      reset.disabled = to - from >= data.length;
      status.textContent = `${seconds(from).toPrecision(4)} s to ${seconds(to).toPrecision(4)} s${note}`;
    }

    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      const [px] = place(event);
      if (px < left) return;
      drag = { start: px, now: px };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const [px, py] = place(event);
      if (drag) { drag.now = Math.max(left, px); draw(); }
      wb.tip(root, px >= left && !drag ? under(px, py, view()) : "", event.clientX, event.clientY);
    });
    canvas.addEventListener("pointerup", () => {
      const done = drag;
      drag = null;
      if (done && Math.abs(done.now - done.start) > 5) {
        const [low, high] = [timeAt(done.start), timeAt(done.now)].sort((a, b) => a - b);
        show(low, high);
      } else draw();
    });
    canvas.addEventListener("pointerleave", () => wb.tip(root));
    canvas.addEventListener("dblclick", () => show(0, data.length));
    canvas.addEventListener("keydown", (event) => {
      const act = {
        ArrowLeft: () => pan(-0.25), ArrowRight: () => pan(0.25), "+": () => zoom(0.5), "=": () => zoom(0.5),
        "-": () => zoom(2), Escape: () => show(0, data.length),
      }[event.key];
      if (!act) return;
      event.preventDefault();
      event.stopPropagation();
      act();
    });
    wb.redraw(root, draw);
  },
  // A canvas cleared and sized for the screen's pixels, with the colours of the theme.
  canvas(root, canvas, width, height) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const css = getComputedStyle(root);
    const color = (name) => css.getPropertyValue(`--wb-${name}`);
    context.font = `11px ${css.fontFamily}`;
    return { context, style: { ink: color("ink"), soft: color("soft"), line: color("line") } };
  },
  redraw(root, draw) {
    new ResizeObserver(draw).observe(root);
    new MutationObserver(draw).observe(root, { attributes: true, attributeFilter: ["data-theme"] });
    draw();
  },
  // Start every chart of a kind that has not been started; harmless when an output is shown twice.
  start(kind, draw) {
    for (const root of document.querySelectorAll(`.wb-chart[data-kind="${kind}"]:not([data-ready])`)) {
      root.dataset.ready = "yes";
      const data = JSON.parse(root.querySelector("script.wb-data").textContent);
      root.querySelector(".wb-fallback")?.remove();
      wb.theme(root);
      draw(root, data);
    }
  },
};
