// data: {title, help, note, what, edges[] (ns, logarithmic), marks: [[name, color]], color,
//        groups: [{name, calls, quantiles: [[name, ns]], shape: number[] (calls per bin)}]}
wb.start("latency", (root, data) => {
  const ROW = 58, CURVE = 38, AXIS = 20, LEFT = 230;
  const low = Math.log(data.edges[0]), high = Math.log(data.edges[data.edges.length - 1]);
  let query = null, tail = false;

  wb.make("div", "wb-title", root, data.title);
  const bar = wb.make("div", "wb-bar", root);
  const search = wb.make("input", "", bar);
  search.type = "search";
  search.placeholder = `Search ${data.what}s (text or regex)`;
  search.setAttribute("aria-label", search.placeholder);
  const toggle = wb.make("button", "", bar, "Show the tail");
  toggle.type = "button";
  toggle.title = "Heights by the logarithm of the number of calls, so that the rare slow ones are seen";
  toggle.setAttribute("aria-pressed", "false");
  const status = wb.make("span", "wb-status", bar);
  status.setAttribute("role", "status");
  // The median is marked in the colour of the text, which depends on the theme.
  wb.legend(root, data.marks.map(([name, color], k) => [name, k ? color : "currentColor"]));
  const plot = wb.make("div", "wb-plot", root);
  plot.classList.add("wb-scroll");
  const canvas = wb.make("canvas", "", plot);
  canvas.setAttribute("role", "img");
  wb.make("div", "wb-help", root, data.help);

  const width = () => Math.max(400, plot.clientWidth || 900);
  const x = (ns) => LEFT + ((Math.log(Math.max(ns, data.edges[0])) - low) / (high - low)) * (width() - LEFT - 8);
  const shown = () => data.groups.filter((one) => !query || query.test(one.name));
  const summary = (one) =>
    `${one.name}: ${wb.number(one.calls)} calls, ${one.quantiles.map(([name, ns]) => `${name} ${wb.duration(ns)}`).join(", ")}`;

  function axis(context, style, bottom) {
    const decades = (high - low) / Math.LN10;
    const parts = decades > 4 ? [1] : decades > 1.5 ? [1, 3] : [1, 2, 3, 5, 7];
    context.textAlign = "center";
    for (let power = Math.floor(low / Math.LN10); power <= high / Math.LN10; power++) {
      for (const part of parts) {
        const ns = part * 10 ** power, at = Math.round(x(ns)) + 0.5;
        if (Math.log(ns) < low || Math.log(ns) > high) continue;
        context.strokeStyle = style.line;
        context.beginPath(); context.moveTo(at, 0); context.lineTo(at, bottom); context.stroke();
        context.fillStyle = style.soft;
        context.fillText(wb.duration(ns), Math.min(at, width() - 22), bottom + 14);
      }
    }
  }

  function draw() {
    const groups = shown(), bottom = groups.length * ROW;
    const { context, style } = wb.canvas(root, canvas, width(), bottom + AXIS);
    axis(context, style, bottom);
    const tall = tail ? Math.log1p : (count) => count;
    groups.forEach((one, i) => {
      const base = i * ROW + ROW - 8;
      const most = tall(Math.max(...one.shape));
      context.fillStyle = data.color;
      one.shape.forEach((count, k) => {
        const left = x(data.edges[k]), size = count > 0 ? Math.max(1, (tall(count) / most) * CURVE) : 0;
        context.fillRect(left, base - size, x(data.edges[k + 1]) - left + 0.3, size);
      });
      one.quantiles.forEach(([, ns], k) => {
        context.fillStyle = k ? data.marks[k][1] : style.ink;
        context.fillRect(x(ns) - 1.5, base - 6, 3, 11);
      });
      context.textAlign = "right";
      context.fillStyle = style.ink;
      context.fillText(one.name, LEFT - 8, base - 16, LEFT - 12);
      context.fillStyle = style.soft;
      context.fillText(`${wb.number(one.calls)} calls`, LEFT - 8, base - 2);
    });
    canvas.setAttribute("aria-label", groups.map(summary).join("; "));
    status.textContent = `${groups.length} of ${data.groups.length} ${data.what}s${data.note}`;
  }

  plot.addEventListener("mousemove", (event) => {
    const box = canvas.getBoundingClientRect();
    const px = event.clientX - box.left, one = shown()[Math.floor((event.clientY - box.top) / ROW)];
    if (!one) { wb.tip(root); return; }
    if (px < LEFT) { wb.tip(root, summary(one), event.clientX, event.clientY); return; }
    const ns = Math.exp(low + ((px - LEFT) / (width() - LEFT - 8)) * (high - low));
    const bin = Math.min(one.shape.length - 1, Math.max(0, data.edges.findIndex((edge) => edge > ns) - 1));
    const until = one.shape.slice(0, bin + 1).reduce((a, b) => a + b, 0);
    const text =
      `${one.name}\n${wb.number(one.shape[bin])} calls took ${wb.duration(data.edges[bin])} to ${wb.duration(data.edges[bin + 1])}\n` +
      `${((100 * until) / one.calls).toFixed(2)} % of its calls took at most that`;
    wb.tip(root, text, event.clientX, event.clientY);
  });
  plot.addEventListener("mouseleave", () => wb.tip(root));
  toggle.addEventListener("click", () => {
    tail = !tail;
    toggle.setAttribute("aria-pressed", tail);
    toggle.textContent = tail ? "Show the bulk" : "Show the tail";
    draw();
  });
  search.addEventListener("input", () => { query = wb.pattern(search.value.trim()); draw(); });
  search.addEventListener("keydown", (event) => event.stopPropagation());
  wb.redraw(root, draw);
});
