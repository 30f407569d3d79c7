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
