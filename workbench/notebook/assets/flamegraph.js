// data: {title, unit, help, note, names[], modules[], colors[], legend[[name, color]],
//        nodes: {parent[], level[], name[], left[], total[], own[]}}, weights in `unit`, node 0 is the root.
wb.start("flamegraph", (root, data) => {
  const { parent, level, name, left, total, own } = data.nodes;
  const ROW = 19, whole = total[0];
  const children = parent.map(() => []);
  for (let i = 1; i < parent.length; i++) children[parent[i]].push(i);
  for (const list of children) list.sort((a, b) => left[a] - left[b]);
  let zoom = 0, query = null, current = 0;

  wb.make("div", "wb-title", root, data.title);
  const bar = wb.make("div", "wb-bar", root);
  const search = wb.make("input", "", bar);
  search.type = "search";
  search.placeholder = "Search functions (text or regex)";
  search.setAttribute("aria-label", "Search functions");
  const reset = wb.make("button", "", bar, "Reset zoom");
  reset.type = "button";
  const status = wb.make("span", "wb-status", bar);
  status.setAttribute("role", "status");
  wb.legend(root, data.legend);
  const plot = wb.make("div", "wb-plot", root);
  plot.classList.add("wb-scroll");
  const sheet = wb.make("div", "wb-sheet", plot);
  plot.setAttribute("role", "tree");
  plot.setAttribute("aria-label", data.title);
  wb.make("div", "wb-help", root, data.help);

  const share = (value) => `${((100 * value) / whole).toFixed(value > 0 && value / whole < 0.001 ? 3 : 1)} %`;
  const describe = (i) =>
    `${data.names[name[i]]}\n${data.modules[name[i]] ? data.modules[name[i]] + "\n" : ""}` +
    `${wb.amount(total[i], data.unit)} in all, ${share(total[i])}\n` +
    `${wb.amount(own[i], data.unit)} in itself, ${share(own[i])}`;
  const matches = (i) => query && level[i] > 0 && query.test(data.names[name[i]]);

  // What a search matched, counting a matching function below another one once.
  const matched = () => {
    let sum = 0;
    const walk = [0];
    while (walk.length) {
      const i = walk.pop();
      if (matches(i)) sum += total[i];
      else walk.push(...children[i]);
    }
    return sum;
  };

  const visible = () => {
    const out = [];
    const above = [];
    for (let i = zoom; i !== 0; i = parent[i]) above.push(parent[i]);
    for (const i of above) out.push([i, 0, 1, true]);
    const walk = [zoom];
    const pixel = 1 / Math.max(300, plot.clientWidth || 900);
    while (walk.length) {
      const i = walk.pop();
      const width = total[i] / total[zoom];
      if (width < 1.2 * pixel) continue;
      out.push([i, (left[i] - left[zoom]) / total[zoom], width, false]);
      walk.push(...children[i]);
    }
    return out;
  };

  function draw(focus) {
    const shown = visible();
    const depth = Math.max(...shown.map(([i]) => level[i])) + 1;
    const pixels = plot.clientWidth || 900;
    sheet.style.height = `${depth * ROW}px`;
    sheet.replaceChildren();
    if (!shown.some(([i]) => i === current)) current = zoom;
    for (const [i, x, width, faded] of shown) {
      // Less than a few letters would be noise; the tooltip and the label for screen readers have the name.
      const box = wb.make("div", "wb-box", sheet, width * pixels < 30 ? "" : data.names[name[i]]);
      box.dataset.name = data.names[name[i]];
      const color = data.colors[name[i]];
      box.style.left = `${100 * x}%`;
      box.style.width = `${100 * width}%`;
      box.style.top = `${level[i] * ROW}px`;
      box.style.background = color;
      box.style.color = wb.ink(color);
      box.classList.toggle("wb-faded", faded);
      box.classList.toggle("wb-missed", Boolean(query) && !matches(i));
      box.dataset.node = i;
      box.tabIndex = i === current ? 0 : -1;
      box.setAttribute("role", "treeitem");
      box.setAttribute("aria-level", level[i] + 1);
      box.setAttribute("aria-label", describe(i).replaceAll("\n", ", "));
      if (width * pixels < 30) box.style.padding = "0";
    }
    reset.disabled = zoom === 0;
    const found = query ? ` · matched ${share(matched())}` : "";
    status.textContent = `${wb.amount(total[zoom], data.unit)}, ${share(total[zoom])} of all${found}${data.note}`;
    if (focus) focusOn(plot.querySelector(`[data-node="${current}"]`));
  }

  // The page stays where it is; only the plot scrolls, and only as far as needed.
  function focusOn(box) {
    if (!box) return;
    box.focus({ preventScroll: true });
    const top = box.offsetTop;
    if (top < plot.scrollTop) plot.scrollTop = top;
    else if (top + ROW > plot.scrollTop + plot.clientHeight) plot.scrollTop = top + ROW - plot.clientHeight;
  }

  const go = (i, focus) => { zoom = current = i; wb.tip(root); draw(focus); };
  const nodeOf = (event) => {
    const box = event.target.closest?.(".wb-box");
    return box ? Number(box.dataset.node) : -1;
  };
  plot.addEventListener("click", (event) => { const i = nodeOf(event); if (i >= 0) go(i, true); });
  plot.addEventListener("mousemove", (event) => {
    const i = nodeOf(event);
    wb.tip(root, i >= 0 ? describe(i) : "", event.clientX, event.clientY);
  });
  plot.addEventListener("mouseleave", () => wb.tip(root));
  plot.addEventListener("focusin", (event) => {
    const i = nodeOf(event);
    if (i < 0) return;
    for (const box of plot.querySelectorAll('[tabindex="0"]')) box.tabIndex = -1;
    event.target.tabIndex = 0;
    current = i;
    status.textContent = describe(i).replaceAll("\n", " · ");
  });
  plot.addEventListener("keydown", (event) => {
    const i = nodeOf(event);
    if (i < 0) return;
    const drawn = (j) => plot.querySelector(`[data-node="${j}"]`);
    const near = (step) => {
      const list = children[parent[i]], at = list.indexOf(i) + step;
      return list[at] !== undefined && drawn(list[at]) ? list[at] : i;
    };
    let to = i;
    if (event.key === "ArrowDown") to = children[i].filter(drawn).sort((a, b) => total[b] - total[a])[0] ?? i;
    else if (event.key === "ArrowUp") to = parent[i];
    else if (event.key === "ArrowLeft") to = near(-1);
    else if (event.key === "ArrowRight") to = near(1);
    else if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.stopPropagation(); go(i, true); return; }
    else if (event.key === "Escape") { event.stopPropagation(); go(0, true); return; }
    else return;
    event.preventDefault();
    event.stopPropagation();
    focusOn(drawn(to));
  });
  reset.addEventListener("click", () => go(0));
  search.addEventListener("input", () => {
    query = wb.pattern(search.value.trim());
    draw();
  });
  search.addEventListener("keydown", (event) => event.stopPropagation());
  new ResizeObserver(() => draw()).observe(root);
  draw();
});
