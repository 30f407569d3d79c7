// data: {title, help, note, tick (ns per time unit), length (units), legend[[name, color]], names[],
//        threads: [{tid, name, load: number[] (percent per equal bin) or null,
//                   lanes: [{title, color, spans: [start[], length[], name[], count[]]}]}]}
wb.start("timeline", (root, data) => {
  const CPU = 26, LANE = 9, GAP = 8, AXIS = 20, LEFT = 116;
  let from = 0, to = data.length, drag = null;

  wb.make("div", "wb-title", root, data.title);
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
  wb.make("div", "wb-help", root, data.help);

  const lanes = data.threads.map((thread) => (thread.load ? CPU + 4 : 2) + thread.lanes.length * LANE + GAP);
  const height = lanes.reduce((a, b) => a + b, 0) + AXIS;
  const seconds = (units) => (units * data.tick) / 1e9;
  const width = () => Math.max(300, plot.clientWidth || 900);
  const x = (time) => LEFT + ((time - from) / (to - from)) * (width() - LEFT - 4);
  const timeAt = (px) => from + ((px - LEFT) / (width() - LEFT - 4)) * (to - from);

  function show(low, high) {
    const size = Math.min(Math.max(high - low, Math.min(20, data.length)), data.length);
    from = Math.min(Math.max(0, low), data.length - size);
    to = from + size;
    draw();
  }
  function zoom(factor, at = (from + to) / 2) { show(at - (at - from) * factor, at + (to - at) * factor); }
  function pan(part) { const step = (to - from) * part; show(from + step, to + step); }

  function axis(context, style, bottom) {
    const rough = seconds(to - from) / Math.max(2, (width() - LEFT) / 110);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    context.textAlign = "center";
    for (let k = Math.ceil(seconds(from) / step); k * step <= seconds(to) + 1e-12; k++) {
      const at = Math.round(x((k * step * 1e9) / data.tick)) + 0.5;
      context.strokeStyle = style.line;
      context.beginPath(); context.moveTo(at, 0); context.lineTo(at, bottom); context.stroke();
      context.fillStyle = style.soft;
      context.fillText(`${(k * step).toFixed(digits)} s`, Math.min(Math.max(at, LEFT), width() - 18), bottom + 14);
    }
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width() * ratio;
    canvas.height = height * ratio;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const css = getComputedStyle(root);
    const style = { ink: css.getPropertyValue("--wb-ink"), soft: css.getPropertyValue("--wb-soft"), line: css.getPropertyValue("--wb-line") };
    context.font = `11px ${css.fontFamily}`;
    axis(context, style, height - AXIS);
    context.save();
    let y = 0;
    data.threads.forEach((thread, i) => {
      context.textAlign = "right";
      context.fillStyle = style.ink;
      context.fillText(thread.name, LEFT - 8, y + 14, LEFT - 10);
      context.fillStyle = style.soft;
      context.fillText(thread.tid, LEFT - 8, y + 27);
      let lane = y + 2;
      context.save();
      context.beginPath(); context.rect(LEFT, y, width() - LEFT, lanes[i]); context.clip();
      if (thread.load) {
        const bin = data.length / thread.load.length;
        context.fillStyle = data.legend[0][1];
        thread.load.forEach((load, k) => {
          const left = x(k * bin), right = x((k + 1) * bin);
          if (load && right > LEFT) context.fillRect(left, lane + CPU * (1 - load / 100), right - left + 0.4, (CPU * load) / 100);
        });
        lane += CPU + 4;
      }
      for (const one of thread.lanes) {
        const [start, length] = one.spans;
        context.fillStyle = one.color;
        let time = 0;
        for (let k = 0; k < start.length; k++) {
          time += start[k];
          const left = x(time), right = x(time + length[k]);
          if (right >= LEFT && left <= width()) context.fillRect(left, lane, Math.max(1, right - left), LANE - 2);
        }
        lane += LANE;
      }
      context.restore();
      y += lanes[i];
      context.strokeStyle = style.line;
      context.beginPath(); context.moveTo(0, y - GAP / 2 + 0.5); context.lineTo(width(), y - GAP / 2 + 0.5); context.stroke();
    });
    if (drag && drag.now !== drag.start) {
      context.fillStyle = "rgba(0, 114, 178, 0.25)";
      context.fillRect(Math.min(drag.start, drag.now), 0, Math.abs(drag.now - drag.start), height - AXIS);
    }
    context.restore();
    reset.disabled = to - from >= data.length;
    status.textContent = `${seconds(from).toPrecision(4)} s to ${seconds(to).toPrecision(4)} s${data.note}`;
  }

  function under(px, py) {
    let y = 0;
    const time = timeAt(px), slack = ((to - from) / (width() - LEFT)) * 2;
    for (let i = 0; i < data.threads.length; i++) {
      const thread = data.threads[i];
      if (py < y + lanes[i]) {
        const head = `${thread.name} (${thread.tid}) at ${seconds(time).toPrecision(6)} s`;
        let lane = y + 2;
        if (thread.load) {
          if (py < lane + CPU + 2) return `${head}\non CPU ${thread.load[Math.floor((time / data.length) * thread.load.length)] ?? 0} %`;
          lane += CPU + 4;
        }
        const one = thread.lanes[Math.floor((py - lane) / LANE)];
        if (!one) return head;
        const [start, length, name, count] = one.spans;
        let begin = 0, best = -1, at = 0;
        for (let k = 0; k < start.length; k++) {
          begin += start[k];
          if (begin - slack <= time && time <= begin + length[k] + slack && (best < 0 || length[k] <= length[best])) { best = k; at = begin; }
        }
        if (best < 0) return `${head}\n${one.title}: none here`;
        const what = count[best] > 1 ? `${wb.number(count[best])} times` : data.names[name[best]];
        const lasting = length[best] ? `, ${wb.duration(length[best] * data.tick)}` : "";
        return `${head}\n${one.title}: ${what}${lasting}, from ${seconds(at).toPrecision(6)} s`;
      }
      y += lanes[i];
    }
    return "";
  }

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    const [px] = place(event);
    if (px < LEFT) return;
    drag = { start: px, now: px };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [px, py] = place(event);
    if (drag) { drag.now = Math.max(LEFT, px); draw(); }
    wb.tip(root, px >= LEFT && !drag ? under(px, py) : "", event.clientX, event.clientY);
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
  new ResizeObserver(draw).observe(root);
  new MutationObserver(draw).observe(root, { attributes: true, attributeFilter: ["data-theme"] });
  draw();
});
