// data: {title, help, note, tick (ns per time unit), length (units), legend[[name, color]], names[],
//        threads: [{tid, name, load: number[] (percent per equal bin) or null,
//                   lanes: [{title, color, spans: [start[], length[], name[], count[]]}]}]}
wb.start("timeline", (root, data) => {
  const CPU = 26, LANE = 9, GAP = 8, AXIS = 20, LEFT = 116;
  const lanes = data.threads.map((thread) => (thread.load ? CPU + 4 : 2) + thread.lanes.length * LANE + GAP);
  const height = lanes.reduce((a, b) => a + b, 0) + AXIS;

  function paint({ context, style, x, width }) {
    let y = 0;
    data.threads.forEach((thread, i) => {
      context.textAlign = "right";
      context.fillStyle = style.ink;
      context.fillText(thread.name, LEFT - 8, y + 14, LEFT - 10);
      context.fillStyle = style.soft;
      context.fillText(thread.tid, LEFT - 8, y + 27);
      let lane = y + 2;
      context.save();
      context.beginPath(); context.rect(LEFT, y, width - LEFT, lanes[i]); context.clip();
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
          if (right >= LEFT && left <= width) context.fillRect(left, lane, Math.max(1, right - left), LANE - 2);
        }
        lane += LANE;
      }
      context.restore();
      y += lanes[i];
      context.strokeStyle = style.line;
      context.beginPath(); context.moveTo(0, y - GAP / 2 + 0.5); context.lineTo(width, y - GAP / 2 + 0.5); context.stroke();
    });
    return data.note;
  }

  function under(px, py, { from, to, width, timeAt, seconds }) {
    let y = 0;
    const time = timeAt(px), slack = ((to - from) / (width - LEFT)) * 2;
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

  wb.make("div", "wb-title", root, data.title);
  wb.timePlot(root, data, { left: LEFT, height, paint, under });
  wb.make("div", "wb-help", root, data.help);
});
