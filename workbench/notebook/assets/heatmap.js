// data: {title, help, note, what, tick (ns per time unit), length (units), bins, rows[] (label of every row),
//        ticks: [[row, label]], upward (row 0 is at the bottom), parted (ticks divide the rows), colors[], legend[],
//        cells: [place[] (row * bins + bin, as differences), count[]]}
wb.start("heatmap", (root, data) => {
  const AXIS = 20, LEFT = data.upward ? 190 : 250, NARROW = 7;
  const ROW = Math.max(data.upward ? 5 : 16, Math.min(18, Math.floor(300 / data.rows.length)));
  const height = data.rows.length * ROW + AXIS;
  const counts = data.rows.map(() => new Float64Array(data.bins));
  let place = 0;
  data.cells[0].forEach((step, k) => {
    place += step;
    counts[Math.floor(place / data.bins)][place % data.bins] = data.cells[1][k];
  });
  const top = (row) => (data.upward ? data.rows.length - 1 - row : row) * ROW;

  // Cells as wide as can be seen: neighbouring bins are added up until the reader zooms in.
  function joined({ from, to, width }) {
    const bin = data.length / data.bins;
    const fit = Math.max(1, Math.floor((width - LEFT) / NARROW));
    const step = Math.max(1, Math.ceil((to - from) / bin / fit));
    return { step, bin, first: Math.floor(from / bin / step), last: Math.ceil(to / bin / step) };
  }
  function amount(row, column, step) {
    let sum = 0;
    for (let k = column * step; k < Math.min((column + 1) * step, data.bins); k++) sum += counts[row][k];
    return sum;
  }

  function paint(view) {
    const { context, style, x, width, bottom, seconds } = view;
    const { step, bin, first, last } = joined(view);
    const shown = [];
    let largest = 1;
    for (let row = 0; row < data.rows.length; row++) {
      for (let column = first; column < last; column++) {
        const sum = amount(row, column, step);
        if (sum) shown.push([row, column, sum]);
        largest = Math.max(largest, sum);
      }
    }
    const scale = largest > 50 ? Math.log : (count) => count - 1;
    const whole = scale(largest) || 1;
    const dark = root.dataset.theme === "dark";
    context.save();
    context.beginPath(); context.rect(LEFT, 0, width - LEFT, bottom); context.clip();
    for (const [row, column, sum] of shown) {
      const left = x(column * step * bin), right = x((column + 1) * step * bin);
      const level = Math.round((scale(sum) / whole) * (data.colors.length - 1));
      context.fillStyle = data.colors[dark ? data.colors.length - 1 - level : level];
      context.fillRect(left, top(row), right - left + 0.3, ROW - (ROW > 8 ? 1 : 0));
    }
    context.restore();
    context.textAlign = "right";
    for (const [row, label] of data.ticks) {
      const y = data.upward ? (data.rows.length - row) * ROW : (row + 0.5) * ROW;
      context.fillStyle = style.ink;
      context.fillText(label, LEFT - 8, Math.min(bottom - 1, Math.max(9, y + 4)), LEFT - 12);
      if (!data.parted) continue;
      context.strokeStyle = style.line;
      context.beginPath(); context.moveTo(LEFT - 4, y + 0.5); context.lineTo(width, y + 0.5); context.stroke();
    }
    return ` · ${dark ? "brightest" : "darkest"} cell: ${wb.number(largest)} ${data.what} in ${wb.duration(seconds(step * bin) * 1e9)}${data.note}`;
  }

  function under(px, py, view) {
    const { step, bin } = joined(view);
    const line = Math.floor(py / ROW);
    const row = data.upward ? data.rows.length - 1 - line : line;
    if (row < 0 || row >= data.rows.length) return "";
    const column = Math.floor(view.timeAt(px) / bin / step);
    const begin = view.seconds(column * step * bin), end = view.seconds(Math.min((column + 1) * step * bin, data.length));
    return `${data.rows[row]}\n${wb.number(amount(row, column, step))} ${data.what} from ${begin.toPrecision(5)} s to ${end.toPrecision(5)} s`;
  }

  wb.make("div", "wb-title", root, data.title);
  wb.timePlot(root, data, { left: LEFT, height, paint, under });
  wb.make("div", "wb-help", root, data.help);
});
